"""What commands share: errors become messages, and data is split into two parts."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
import typer
from torch import nn

from secateur.cli.shared import built, data_options, doing, printed, reported
from secateur.core.errors import InputError, RecipeError
from secateur.measure.metric import Accuracy, Loss

CALL = torch.zeros(1, 3)


def test_errors_are_messages(capsys: pytest.CaptureFixture[str]) -> None:
    @reported
    def fails() -> None:
        raise InputError("this is wrong", hint="do that")

    with pytest.raises(typer.Exit) as raised:
        fails()
    assert raised.value.exit_code == 1
    out, err = capsys.readouterr()
    assert (out, err) == ("", "error: this is wrong\nhint: do that\n")


@pytest.mark.parametrize(
    ("labels", "metric", "kind"),
    [(np.arange(60) % 3, "auto", Accuracy), (np.ones(60, np.float32), "auto", Loss),
     (np.arange(60) % 3, "loss", Loss)],
)  # fmt: skip
def test_one_part_is_learned_from_and_the_other_judges(
    tmp_path: Path, labels: np.ndarray, metric: str, kind: type
) -> None:
    np.savez(tmp_path / "d.npz", x=np.random.rand(60, 3).astype(np.float32), y=labels)
    found = data_options(str(tmp_path / "d.npz"), CALL, 20, 10, metric, "", "")
    learned = [row for batch in found["data"] for row in batch[0].tolist()]
    judged = [row for batch in found["evaluate"].batches for row in batch[0].tolist()]
    assert isinstance(found["evaluate"], kind)
    assert len(learned) + len(judged) == 60 and not {*map(tuple, learned)} & {*map(tuple, judged)}


def test_without_labels_nothing_is_judged(tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", np.zeros((8, 3), np.float32))
    assert data_options(str(tmp_path / "x.npy"), CALL, 8, 4, "auto", "", "").keys() == {"data"}
    with pytest.raises(RecipeError, match="needs labels"):
        data_options(str(tmp_path / "x.npy"), CALL, 8, 4, "loss", "", "")
    with pytest.raises(RecipeError, match="no metric 'f1'"):
        data_options(str(tmp_path / "x.npy"), CALL, 8, 4, "f1", "", "")


def test_weights_are_loaded(tmp_path: Path) -> None:
    (tmp_path / "net.py").write_text(
        "from torch import nn\ndef build():\n    return nn.Linear(2, 1)"
    )
    net = nn.Linear(2, 1)
    torch.save(net.state_dict(), tmp_path / "w.pt")
    found = built(f"{tmp_path / 'net.py'}:build", tmp_path / "w.pt")
    assert torch.equal(found.weight, net.weight)  # type: ignore[arg-type]


def test_results_go_to_stdout_and_progress_to_stderr(capsys: pytest.CaptureFixture[str]) -> None:
    class Item:
        page = ()

        def to_dict(self) -> dict[str, int]:
            return {"n": 3}

    with doing("something") as tell:
        tell("something else")
        printed(Item(), as_json=True)
    assert capsys.readouterr() == ('{\n "n": 3\n}\n', "")
