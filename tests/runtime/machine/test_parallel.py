"""Every task runs once, on torch's own threads, from any number of Python threads."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from itertools import pairwise

import numpy as np
import pytest
import torch

from secateur.core.errors import InputError
from secateur.runtime.machine.assembler import WINDOWS
from secateur.runtime.machine.memory import Code, machine
from secateur.runtime.machine.parallel import Pool, Rounds, Tasks, parallel, pool

pytestmark = pytest.mark.skipif(
    machine() != "x86-64" or WINDOWS, reason="runs x86-64 code with the calls of Unix"
)


@pytest.fixture(autouse=True)
def _threads() -> Iterator[None]:
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def tasks_for(out: np.ndarray) -> np.ndarray:
    tasks = np.zeros((len(out), 7), np.int64)
    tasks[:, 0] = out.ctypes.data + out.strides[0] * np.arange(len(out))
    tasks[:, 1] = np.arange(len(out))
    tasks[:, 6] = 1000
    return tasks


@pytest.mark.parametrize("threads", [1, 2, 3])
@pytest.mark.parametrize("n", [0, 1, 2, 7, 1000])
def test_every_task_runs_once(add: Code, threads: int, n: int) -> None:
    torch.set_num_threads(threads)
    out = np.zeros(n, np.int64)
    for _ in range(3):
        parallel(add.address, tasks_for(out))
    np.testing.assert_array_equal(out, 3 * (np.arange(n) + 1000))


def test_python_threads_may_call_at_once(add: Code) -> None:
    torch.set_num_threads(2)
    outs = [np.zeros(200, np.int64) for _ in range(4)]

    def work(out: np.ndarray) -> None:
        for _ in range(20):
            parallel(add.address, tasks_for(out))

    workers = [threading.Thread(target=work, args=(out,)) for out in outs]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    for out in outs:
        np.testing.assert_array_equal(out, 20 * (np.arange(200) + 1000))


@pytest.mark.parametrize("threads", [1, 2, 3])
def test_a_round_waits_for_the_one_before(copy: Code, threads: int) -> None:
    torch.set_num_threads(threads)
    values = np.zeros((40, 64), np.int64)  # each row is made from the one before, turned around
    rounds = []
    for above, below in pairwise(values):
        table = np.zeros((64, 7), np.int64)
        table[:, 0] = below.ctypes.data + 8 * np.arange(64)
        table[:, 1] = above.ctypes.data + 8 * np.arange(64)[::-1]
        rounds.append((copy.address, table))
    rounds.insert(20, (copy.address, np.zeros((0, 7), np.int64)))
    run = Rounds(rounds)
    for turn in range(50):
        values[1:] = -1
        values[0] = np.arange(64) + turn
        run()
        np.testing.assert_array_equal(values[2::2], np.tile(values[0], (19, 1)))


def test_rounds_without_code_of_our_own(add: Code, monkeypatch: pytest.MonkeyPatch) -> None:
    module = sys.modules[Rounds.__module__]
    monkeypatch.setattr(module, "pool", lambda: Pool("serial", "no"))
    out = np.zeros(5, np.int64)
    Rounds([(add.address, tasks_for(out)), (add.address, tasks_for(out))])()
    np.testing.assert_array_equal(out, 2 * (np.arange(5) + 1000))


def test_the_numbers_of_a_table_may_be_changed(add: Code) -> None:
    out = np.zeros(5, np.int64)
    tasks = Tasks(add.address, tasks_for(out))
    tasks()
    tasks.table[:, 1] = 1
    tasks()
    np.testing.assert_array_equal(out, np.arange(5) + 2001)


COUNT = """
import os
import numpy as np, torch
from secateur.runtime.machine import Code, parallel
code = Code(bytes.fromhex("b8ba0000000f05488907c3"))  # *a0 = gettid()
torch.set_num_threads(4)
a = torch.randn(200, 200)
for _ in range(3):
    a @ a
    (a + 1).sum()
before = len(os.listdir("/proc/self/task"))
seen = set()
for n in (1, 2, 4):
    torch.set_num_threads(n)
    for _ in range(30):
        out = np.zeros(64, np.int64)
        tasks = np.zeros((64, 7), np.int64)
        tasks[:, 0] = out.ctypes.data + 8 * np.arange(64)
        parallel(code.address, tasks)
        assert len(set(out.tolist())) <= n, (n, out)
        seen |= set(out.tolist())
assert 1 < len(seen) <= 4, seen
assert len(os.listdir("/proc/self/task")) == before
print("one pool")
"""


@pytest.mark.skipif(sys.platform != "linux", reason="counts the threads that /proc lists")
def test_threads_are_those_of_torch_and_as_many_as_it_says() -> None:
    if pool().name != "openmp":
        pytest.skip(pool().reason)
    done = subprocess.run(
        [sys.executable, "-c", COUNT],
        capture_output=True,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "4"},
    )
    assert done.stdout == "one pool\n", done.stderr


def test_tasks_of_another_shape_are_refused(add: Code) -> None:
    with pytest.raises(InputError, match="int64"):
        parallel(add.address, np.zeros((2, 6), np.int64))
    with pytest.raises(InputError, match="int32"):
        parallel(add.address, np.zeros((2, 7), np.int32))
