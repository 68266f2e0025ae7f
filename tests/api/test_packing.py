"""`become="packed"`: results that run on sparse kernels, and budgets of their time."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import secateur as sc
from secateur.api import packing
from secateur.core.batches import as_call
from secateur.core.errors import InputError, RecipeError
from secateur.engine import compiler
from secateur.engine.capture import capture
from secateur.engine.fast import Fast
from secateur.search import gauge as gauge_module
from secateur.search.timing import Timing

pytest.importorskip("llvmlite", reason="kernels need llvmlite")


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SECATEUR_CACHE", str(tmp_path))


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Networks are tiny: kernels are taken whatever the clock says."""
    monkeypatch.setattr(compiler, "_faster", lambda before, after: True)


def network() -> tuple[nn.Module, Tensor]:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(32, 128), nn.ReLU(), nn.Linear(128, 128), nn.ReLU(),
                        nn.Linear(128, 8)).eval()  # fmt: skip
    return net, torch.randn(64, 32)


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize("unit", [sc.Weight(), sc.NM(2, 4), sc.Block(4, 1)])
def test_weights(unit: Any) -> None:
    net, x = network()
    before = {name: tensor.clone() for name, tensor in net.state_dict().items()}
    evaluate = sc.Accuracy([(x, net(x).argmax(1))])
    result = sc.prune(net, x, unit=unit, become="packed", evaluate=evaluate)
    masked = sc.prune(net, x, unit=unit, latency=False).model
    assert isinstance(result.model, Fast)
    with torch.no_grad():
        assert torch.allclose(result.model(x), masked(x), atol=1e-5)
    assert result.after.bytes == result.model.report.bytes
    assert result.before.latency is not None
    assert result.after.latency is not None
    assert result.before.quality == 1.0
    assert result.after.quality == pytest.approx(float(evaluate(masked).mean()), abs=0.02)
    assert any(note.startswith("packed: ") for note in result.notes)
    assert not any(note.startswith(packing.DENSE) for note in result.notes)
    assert "packed" in str(result)
    assert all(torch.equal(tensor, before[name]) for name, tensor in net.state_dict().items())


def test_nothing_gained_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compiler, "_faster", lambda before, after: False)
    net, x = network()
    result = sc.prune(net, x, unit=sc.Weight(), become="packed", latency=False)
    assert isinstance(result.model, Fast)
    assert result.model.original is not None
    assert any("as it was" in note for note in result.notes)
    assert result.before.latency is None
    with pytest.raises(InputError, match="nothing was gained"):
        sc.export(result, "never.sct")


@pytest.mark.usefixtures("quick")
def test_channels_then_files(tmp_path: Path) -> None:
    net, x = network()
    result = sc.prune(net, x, budget=sc.MACs("50%"), become="packed")
    assert isinstance(result.model, Fast)
    assert result.verification is not None
    with pytest.raises(InputError, match=r"m\.sct"):
        sc.save(result, tmp_path / "folder")
    both = sc.prune(
        sc.prune(net, x, budget=sc.MACs("50%"), latency=False).model, x, unit=sc.Weight(),
        budget=sc.Sparsity(0.8), become="packed", latency=False,
    )  # fmt: skip
    sc.export(both, tmp_path / "m.sct")
    with torch.no_grad():
        assert torch.allclose(sc.load_fast(tmp_path / "m.sct")(x), both.model(x), atol=1e-5)


@pytest.mark.parametrize(("allocate", "data"), [(None, False), (None, True), ("global", False)])
def test_latency(allocate: str | None, data: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Trials run packed; the clock is replaced by the share of weights, which is no noise.

    What was accepted runs on kernels, whatever a compilation sees of the whole's time by itself.
    """
    monkeypatch.setattr(compiler, "_faster", lambda before, after: False)
    net, x = network()
    timed: list[nn.Module] = []

    def time_pair(original: nn.Module, model: nn.Module, call: Any, budget: Any) -> Timing:
        timed.append(model)
        assert isinstance(model, Fast)
        rows = [row.density for row in model.report.rows]
        after, before = model.report.after, model.report.before
        return Timing(before, after, rows[1], rows[1], budget.ceiling(1.0))

    monkeypatch.setattr(gauge_module, "time_pair", time_pair)
    result = sc.prune(
        net, x, unit=sc.Weight(), budget=sc.Latency("50%"), become="packed", allocate=allocate,
        data=x if data else None, latency=False,
    )  # fmt: skip
    assert bool(result.repairs) == data
    assert result.model in timed  # repaired or not: what is handed over was timed
    assert [row.density for row in result.model.report.rows] == pytest.approx(
        [float(mask.float().mean()) for mask in result.masks.values()], abs=1e-6
    )
    middle = float((result.masks["2.weight"]).float().mean())
    assert middle <= 0.5
    assert result.attempts
    if allocate is None:
        shares = [attempt.share for attempt in result.attempts]
        assert all(0 < share < 1 for share in shares)


@pytest.mark.usefixtures("quick")
def test_networks_of_one_class_are_captured_once(monkeypatch: pytest.MonkeyPatch) -> None:
    net, x = network()
    seen: list[nn.Module] = []

    def counted(model: nn.Module, call: Any) -> Any:
        seen.append(model)
        return capture(model, call)

    for module in (packing, compiler):
        monkeypatch.setattr(module, "capture", counted)
    packer = packing.KernelPacker(net, as_call(net, x), None)
    for density in (0.1, 0.2):
        sparse = copy.deepcopy(net)
        with torch.no_grad():
            for weight in sparse.parameters():
                weight.mul_(torch.rand(weight.shape) < density)
            assert torch.allclose(packer.pack(sparse)(x), sparse(x), atol=1e-5)
    assert seen == [net]


def test_what_makes_no_sense_is_refused() -> None:
    net, x = network()
    single: dict[str, Any] = {"unit": sc.Weight()}
    cases: list[tuple[dict[str, Any], str]] = [
        ({"become": "fast"}, "'packed'"),
        ({"become": "masked"}, "single weights"),
        ({**single, "become": "cut"}, "cannot be cut"),
        ({**single, "budget": sc.Latency("50%")}, "become='packed'"),
        (
            {**single, "budget": sc.Latency("50%", batch=4), "become": "packed"},
            "on the example as it is",
        ),
        (
            {
                **single, "budget": sc.Latency("50%"), "become": "packed",
                "schedule": sc.Steps(2), "data": x,
            },
            "cycles",
        ),
        ({**single, "stream": "blocks", "become": "packed", "data": x}, "does not pack"),
    ]  # fmt: skip
    for given, message in cases:
        with pytest.raises(RecipeError, match=message):
            sc.prune(net, x, **given)
    with pytest.raises(RecipeError, match="in place"):
        sc.prune_(net, x, become="packed")  # type: ignore[arg-type]
    recipe = sc.Recipe(unit=sc.Weight(), become="packed")
    assert recipe.given()["become"] == "packed"
    with pytest.raises(RecipeError, match="a session masks"):
        sc.attach(net, torch.optim.SGD(net.parameters(), lr=0.1), recipe)
    assert sc.prune(net, x, become="cut", latency=False).after.params < 22_000
    sc.prune(net, x, unit=sc.Weight(), become="masked", latency=False)
