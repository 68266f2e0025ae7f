"""Two processes with gloo end where one does."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors import safe_open

HERE = Path(__file__).parent


FSDP = {
    "ACCELERATE_USE_FSDP": "true", "FSDP_VERSION": "2", "FSDP_AUTO_WRAP_POLICY": "NO_WRAP",
}  # fmt: skip
"""What `accelerate launch --use_fsdp` sets."""


def run(
    processes: int, script: str, *arguments: str, launched: bool = False, **variables: str
) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    launch = [
        "-m", "torch.distributed.run", f"--nproc-per-node={processes}",
        "--master-addr=127.0.0.1", f"--master-port={port}",
    ]  # fmt: skip
    start = [sys.executable, *(launch if processes > 1 or launched else [])]
    command = [*start, str(HERE / script), *arguments]
    clean = {key: value for key, value in os.environ.items() if key not in ("RANK", "WORLD_SIZE")}
    environment = {**clean, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": "", **variables}
    found = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    assert found.returncode == 0, found.stderr[-3000:]


def read(path: Path) -> tuple[dict[str, torch.Tensor], dict[str, str]]:
    with safe_open(path, "pt") as file:
        return {key: file.get_tensor(key) for key in file.keys()}, file.metadata()  # noqa: SIM118


@pytest.mark.slow
def test_two_processes_end_where_one_does(tmp_path: Path) -> None:
    run(1, "distributed_script.py", str(tmp_path), "one")
    run(2, "distributed_script.py", str(tmp_path), "two")
    one, notes = read(tmp_path / "one-0.safetensors")
    first, said = read(tmp_path / "two-0.safetensors")
    second, _ = read(tmp_path / "two-1.safetensors")
    ends = [text["notes"].split(" after ")[1:] for text in (notes, said)]
    assert ends[0] == ends[1] and len(ends[0]) == 2  # both cycles helped, at the same step
    for name, value in one.items():
        assert torch.equal(first[name], second[name]), name
        torch.testing.assert_close(first[name], value, rtol=1e-3, atol=1e-4)


@pytest.mark.slow
def test_a_sharded_model_is_saved_and_goes_on_as_a_plain_one() -> None:
    run(2, "sharded_script.py")


@pytest.mark.slow
@pytest.mark.skipif(not torch.cuda.is_available(), reason="Accelerate shards on GPUs only")
def test_training_under_fsdp_is_the_same_call(tmp_path: Path) -> None:
    plain, sharded = tmp_path / "plain.safetensors", tmp_path / "sharded.safetensors"
    run(1, "fsdp_script.py", str(plain), CUDA_VISIBLE_DEVICES="0")
    run(1, "fsdp_script.py", str(sharded), launched=True, CUDA_VISIBLE_DEVICES="0", **FSDP)
    (one, _), (other, notes) = read(plain), read(sharded)
    assert notes["kind"] == "FSDP" and " after " in notes["notes"]  # it was, and it helped
    for name, value in one.items():
        torch.testing.assert_close(other[name], value, rtol=1e-3, atol=1e-4)
        assert torch.equal(other[name] == 0, value == 0)
