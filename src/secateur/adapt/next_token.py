"""A language model as a classifier of the next word, and what its earlier layers would say."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from secateur.adapt.heads import fit_head
from secateur.core.batches import Call, hooked, untouched
from secateur.core.errors import RecipeError
from secateur.measure.watch import scores_of
from secateur.recover.blocks import find_blocks, hidden_of

_ROWS = 8  # tokens of a sequence that matrices are fitted on


class NextToken(nn.Module):
    """The scores of the word behind the last one, `[n, words]`."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def forward(self, *args: Any, **kwargs: Any) -> Tensor:
        """Run the language model."""
        scores = scores_of(self.net(*args, **kwargs))
        assert scores is not None
        return scores[:, -1]


class TokenHead(nn.Module):
    """The last token's hidden state, turned into the last layer's; then the model's norm and head.

    turn: `[width, width]`. norm: nothing where the model has none.
    """

    def __init__(self, turn: nn.Linear, norm: nn.Module | None, head: nn.Module) -> None:
        super().__init__()
        self.turn, self.norm, self.head = turn, norm, head

    def read(self, x: Tensor) -> Tensor:
        """The last token's hidden state, `[n, width]`."""
        return x[:, -1]

    def of(self, features: Tensor) -> Tensor:
        """Scores from that."""
        hidden = self.turn(features)
        return self.head(hidden if self.norm is None else self.norm(hidden))

    def forward(self, x: Tensor) -> Tensor:
        """Scores `[n, words]`."""
        return self.of(self.read(x))


def is_decoder(model: nn.Module, call: Call) -> bool:
    """Whether a model gives scores `[n, tokens, words]` for sequences of tokens.

    Example:
        >>> net, ids = nn.Sequential(nn.Embedding(5, 4), nn.Linear(4, 5)), torch.zeros(2, 3).long()
        >>> is_decoder(net, Call((ids,), {})), is_decoder(net, Call((ids[:, 0],), {}))
        (True, False)
    """
    with untouched(model), torch.no_grad():
        scores = scores_of(call.run(model))
    return scores is not None and scores.dim() == 3


def layers_of(model: NextToken, given: Sequence[str] | None, most: int) -> tuple[str, ...]:
    """The names of the layers to leave behind: those given, else some, evenly spread."""
    if given is not None:
        return tuple(f"net.{name}" for name in given)
    names = list(find_blocks(model))[:-1]
    count = min(most, len(names))
    picks = sorted({round((k + 1) * (len(names) + 1) / (count + 1)) - 1 for k in range(count)})
    return tuple(names[pick] for pick in picks)


def token_heads(model: NextToken, names: Sequence[str], calls: Sequence[Call]) -> list[TokenHead]:
    """For every layer the head that says best what the whole network would.

    Raises:
        RecipeError: The scores are not what a fully connected layer makes of a hidden state.
    """
    norm, head = _tail(model, calls[0])
    entry = norm or head
    rows: dict[str, list[Tensor]] = {name: [] for name in names}
    wanted: list[Tensor] = []

    def some(x: Tensor) -> Tensor:
        places = torch.linspace(0, x.shape[1] - 1, min(_ROWS, x.shape[1])).round().long()
        return x.detach()[:, places.to(x.device)].flatten(0, 1)

    hooks: list[tuple[Any, Any]] = [
        (
            model.get_submodule(name).register_forward_hook,
            lambda module, args, out, name=name: rows[name].append(some(hidden_of(out))),
        )
        for name in names
    ]
    ends = entry.register_forward_pre_hook, lambda module, args: wanted.append(some(args[0]))
    with hooked([*hooks, ends]), untouched(model), torch.no_grad():
        for call in calls:
            call.run(model)
    target = torch.cat(wanted)
    return [TokenHead(fit_head(torch.cat(rows[n]), target).linear, norm, head) for n in names]


def _tail(model: NextToken, call: Call) -> tuple[nn.Module | None, nn.Module]:
    """The module that makes the hidden state ready for the head, if there is one, and the head."""
    ran: list[tuple[nn.Module, Tensor, Tensor]] = []

    def note(module: nn.Module, args: Any, out: Any) -> None:
        if args and isinstance(args[0], Tensor) and isinstance(out, Tensor):
            ran.append((module, args[0], out))

    leaves = [m for m in model.modules() if not any(True for _ in m.children())]
    hooks = [(leaf.register_forward_hook, note) for leaf in leaves]
    with hooked(hooks), untouched(model), torch.no_grad():
        scores = scores_of(call.run(model.net))
    head = next((one for one in reversed(ran) if _same(one[2], scores)), None)
    if head is None or head[1].dim() != 3:
        raise RecipeError(
            "the scores are not what the last layer gives: something happens to them",
            hint="exits of language models need a forward that ends with its head",
        )
    norm = next((one for one in reversed(ran) if _same(one[2], head[1])), None)
    width = norm is not None and norm[1].shape[-1] == head[1].shape[-1]
    return (norm[0] if norm is not None and width else None), head[0]


def _same(a: Tensor, b: Tensor | None) -> bool:
    return b is not None and a.shape == b.shape and a.data_ptr() == b.data_ptr()
