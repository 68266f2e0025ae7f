"""Streams over blocks: what a block is given, that order does not matter, and coming back."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import secateur as sc
from secateur.api.stream import prune_blocks
from secateur.core.errors import FileError, RecipeError, UnsupportedModel
from secateur.units import NM, Weight


class Block(nn.Module):
    def __init__(self, width: int = 16) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.mix = nn.MultiheadAttention(width, 2, batch_first=True)
        self.up, self.down = nn.Linear(width, 32), nn.Linear(32, width)

    def forward(self, x: Tensor, mask: Tensor) -> tuple[Tensor]:
        y = self.norm(x)
        x = x + self.mix(y, y, y, attn_mask=mask, need_weights=False)[0]
        return (x + self.down(torch.relu(self.up(x))),)


class Decoder(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.tokens = nn.Embedding(23, 16)
        self.blocks = nn.ModuleList(Block() for _ in range(3))
        self.head = nn.Linear(16, 23, bias=False)

    def forward(self, ids: Tensor) -> Tensor:
        x = self.tokens(ids)
        mask = torch.ones(ids.shape[1], ids.shape[1], dtype=torch.bool).triu(1)
        for block in self.blocks:
            x = block(x, mask=mask)[0]
        return self.head(x)


@pytest.fixture
def net() -> Decoder:
    return Decoder().eval()


@pytest.fixture
def ids() -> list[Tensor]:
    return [torch.randint(0, 23, (10, 12)) for _ in range(3)]


def apart(net: nn.Module, other: nn.Module, ids: list[Tensor]) -> float:
    with torch.no_grad():
        a, b = net(ids[0]), other(ids[0])
    return float((a - b).square().mean() / a.var())


@pytest.mark.parametrize("criterion", ["magnitude", "wanda", "sparsegpt", "alps"])
def test_weights_inside_the_blocks_are_pruned(
    net: Decoder, ids: list[Tensor], criterion: str
) -> None:
    before = {name: t.clone() for name, t in net.state_dict().items()}
    result = sc.prune(net, data=ids, unit=sc.NM(2, 4), criterion=criterion, stream="blocks")
    assert all(torch.equal(t, before[name]) for name, t in net.state_dict().items())
    assert len(result.masks) == 12 and all(name.startswith("blocks.") for name in result.masks)
    for name, mask in result.masks.items():
        assert (mask.reshape(len(mask), -1, 4).sum(2) == 2).all()
        assert not result.model.get_parameter(name)[~mask].any()
    plain = sc.prune(net, data=ids, unit=sc.NM(2, 4), scope="blocks", recover=[], latency=False)
    assert apart(net, result.model, ids) < 0.7 * apart(net, plain.model, ids)
    assert sum(line.startswith("blocks.2: ") for line in result.repairs) >= 1


def test_as_good_as_with_the_whole_model_in_memory(net: Decoder, ids: list[Tensor]) -> None:
    how: dict[str, Any] = {"data": ids, "unit": sc.NM(2, 4), "criterion": "alps", "recover": []}
    stream = sc.prune(net, stream="blocks", **how)
    whole = sc.prune(net, scope="blocks", latency=False, **how)
    assert apart(net, stream.model, ids) < 1.3 * apart(net, whole.model, ids)


def test_in_place_is_the_same_as_a_copy(net: Decoder, ids: list[Tensor]) -> None:
    how: dict[str, Any] = {"data": ids, "unit": sc.NM(2, 4), "criterion": "wanda"}
    other = sc.prune(net, stream="blocks", **how).model
    assert sc.prune_(net, stream="blocks", **how).model is net
    for a, b in zip(net.parameters(), other.parameters(), strict=True):
        assert torch.equal(a, b)


@pytest.mark.parametrize("allocate", ["uniform", "erk", "lamp", "global", "owl"])
def test_allocations_hold_over_all_blocks(net: Decoder, ids: list[Tensor], allocate: str) -> None:
    result = sc.prune(
        net, data=ids, unit=sc.Weight(), budget=sc.Sparsity(0.6), allocate=allocate, recover=[],
        stream="blocks",
    )  # fmt: skip
    total = sum(m.numel() for m in result.masks.values())
    kept = sum(int(m.sum()) for m in result.masks.values())
    assert total * 0.4 - 24 <= kept <= total * 0.4 + 1e-6


class Interrupted(Exception):
    pass


def test_a_stream_goes_on_where_it_was_interrupted(
    net: Decoder, ids: list[Tensor], tmp_path: Path
) -> None:
    def scored(limit: int) -> Any:
        calls = []

        def magnitude(site: Any, facts: Any) -> Tensor:
            calls.append(site.name)
            if len(calls) > limit:
                raise Interrupted
            return site.matrix(facts.tensors[site.name]).abs()

        return magnitude, calls

    how: dict[str, Any] = {"data": ids, "resume": tmp_path, "in_place": False}
    function, _ = scored(6)
    with pytest.raises(Interrupted):
        prune_blocks(net, None, NM(2, 4), criterion=function, **how)
    assert [path.name for path in tmp_path.iterdir()] == ["block_0000.safetensors"]
    function, calls = scored(100)
    result = prune_blocks(net, None, NM(2, 4), criterion=function, **how)
    assert len(calls) == 8  # of two blocks
    whole = prune_blocks(net, None, NM(2, 4), criterion="magnitude", data=ids, in_place=False)
    for a, b in zip(result.model.parameters(), whole.model.parameters(), strict=True):
        assert torch.equal(a, b)
    assert all(torch.equal(m, whole.masks[n]) for n, m in result.masks.items())
    assert result.repairs == whole.repairs


def test_a_folder_of_other_weights_data_or_arguments_is_refused(
    net: Decoder, ids: list[Tensor], tmp_path: Path
) -> None:
    how: dict[str, Any] = {"unit": sc.NM(2, 4), "recover": [], "stream": "blocks"}
    sc.prune(net, data=ids, resume=tmp_path, **how)
    others: list[tuple[Any, dict[str, Any]]] = [
        (Decoder().eval(), {"data": ids, **how}),
        (net, {"data": [ids[1]], **how}),
        (net, {"data": ids, **how, "criterion": "wanda"}),
    ]
    for model, given in others:
        with pytest.raises(FileError, match="was made from other weights, data or arguments"):
            sc.prune(model, resume=tmp_path, **given)
    (tmp_path / "block_0001.safetensors").write_bytes(b"not a file of tensors")
    with pytest.raises(FileError, match="cannot be read"):
        sc.prune(net, data=ids, resume=tmp_path, **how)


def test_what_looks_past_one_block_is_refused(net: Decoder, ids: list[Tensor]) -> None:
    for given, text in (
        ({"criterion": "taylor"}, "looks at the whole network"),
        ({"criterion": "synflow"}, "looks at the whole network"),
        ({"budget": sc.Drop(points=1)}, "has to be measured on whole networks"),
        ({"recover": [sc.Fold()]}, "looks at the whole network"),
        ({"scope": "head"}, "no weight inside the blocks"),
        ({"allocate": "sensitivity"}, "looks at the whole network"),
        ({"data": None}, "needs data"),
    ):
        with pytest.raises(RecipeError, match=text):
            prune_blocks(
                net,
                ids[0],
                Weight(),
                in_place=True,
                **{"data": ids, **given},  # type: ignore[arg-type]
            )
    with pytest.raises(UnsupportedModel, match="no list of blocks"):
        sc.prune(nn.Linear(2, 2), data=[torch.ones(4, 2)], unit=sc.NM(), stream="blocks")
