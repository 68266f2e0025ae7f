"""OSSCAR: which indices a least-squares repair of the consumers can best do without."""

from __future__ import annotations

from math import inf, nextafter

import torch
from torch import Tensor

from secateur.core.site import Site
from secateur.measure.stats_grams import GramFacts, Grams
from secateur.score.consumers import columns, consumers, unread
from secateur.score.criterion import Facts, criterion

_RIDGE = 1e-2
_WORK = 1e8  # elements of inverses that all updates of one site may touch, roughly
_FEWEST_STEPS = 8


@criterion(
    "osscar",
    needs="grams",
    comparable=True,
    cumulative=True,
    paper="Meng et al., OSSCAR: One-Shot Structured Pruning with Combinatorial Optimization, 2024",
)
def osscar(site: Site, facts: Facts) -> Tensor:
    """Reconstruction error of the consumers when an index goes, after all with lower ones; `[n]`.

    Backward greedy selection: the index goes next whose removal costs the consumers' outputs least
    after their other columns are re-solved by least squares (ridge 0.01 of the mean variance),
    ½ tr(W_jᵀ ([H⁻¹]_jj)⁻¹ W_j) with H the covariance of a consumer's input and j all columns of the
    index; the inverse is downdated. A score is the sum of the errors until then (without the ½),
    each consumer's divided by the variance of its outputs, so that it is a share (all removed gives
    about 1) and comparable between sites. Float64. In very large consumers several indices go at a
    time. Memory: about three times the Gram matrices of the site's consumers.

    What no linear operation reads (and blocks) is scored in the same range by `l1`, with a note.

    Example:
        >>> import secateur.measure.stats as stats
        >>> from secateur.core.layout import Leaf
        >>> from secateur.core.site import Slice
        >>> from secateur.score import scores
        >>> net = nn.Linear(3, 1)
        >>> site = Site("a", "channel", 3, (Slice("weight", 1, Leaf("a", 3), "in"),))
        >>> x = torch.randn(50, 3)
        >>> x[:, 2] = x[:, 0]
        >>> given = stats.Gather(net, None, [x])
        >>> bool(scores("osscar", [site], Facts.of(net), given)["a"].min() < 0.1)
        True
    """
    problems = _problems(site, facts)
    if not problems:
        return _by_weights(site, facts)
    scores = torch.zeros(site.n, dtype=torch.float64)
    size = sum(problem.inverse.numel() for problem in problems)
    steps = max(_FEWEST_STEPS, int(3 * _WORK / size))  # on average a third of it is still there
    many = -(-site.n // steps)
    alive = torch.arange(site.n)
    total = last = 0.0
    while len(alive):
        errors = torch.stack([problem.errors().cpu() for problem in problems]).sum(0)
        chosen, joint = _choose(problems, errors, min(many, len(alive)))
        share = errors[chosen].clamp_min(0).cumsum(0)
        share = share / share[-1] if share[-1] > 0 else torch.ones_like(share)
        for place, part in zip(chosen.tolist(), share.tolist(), strict=True):
            last = max(total + joint * part, nextafter(last, inf))
            scores[alive[place]] = last
        total = max(total + joint, last)
        stay = torch.ones(len(alive), dtype=torch.bool)
        stay[chosen] = False
        for problem in problems:
            problem.remove(chosen, stay)
        alive = alive[stay]
    return scores


def _choose(problems: list[_Problem], errors: Tensor, many: int) -> tuple[Tensor, float]:
    """The cheapest indices and their joint error; fewer where together they cost much more.

    Two indices that can replace each other are cheap alone but not together. At least half of
    `many` goes all the same: what a wide site may take must be known beforehand.
    """
    least = max(1, many // 2)
    while True:
        chosen = errors.topk(many, largest=False).indices
        joint = sum(problem.joint(chosen) for problem in problems)
        if many <= least or joint <= 1.5 * float(errors[chosen].sum()):
            return chosen, max(0.0, joint)
        many = max(least, (many + 1) // 2)


class _Problem:
    """One consumer: the inverse of its input's covariance and its weights, of what is left."""

    def __init__(self, found: GramFacts, weight: Tensor, where: Tensor) -> None:
        gram = found.gram
        matrix = found.matrix(weight).to(gram.device)
        mean = float(gram.diagonal(dim1=1, dim2=2).mean())
        damped = gram.clone()
        damped.diagonal(dim1=1, dim2=2).add_(_RIDGE * mean if mean > 0 else 1.0)
        self.inverse = torch.cholesky_inverse(torch.linalg.cholesky(damped))
        self.weight = matrix.transpose(1, 2).contiguous()
        self.energy = float((self.weight * (gram @ self.weight)).sum())
        self.columns = where.to(gram.device)
        self.gone = torch.zeros(gram.shape[1], dtype=torch.bool, device=gram.device)

    def errors(self) -> Tensor:
        """What the removal of every index that is left costs, relative to the outputs; `[left]`."""
        at = self.columns
        block = self.inverse[:, at[:, :, None], at[:, None, :]]
        weight = self.weight[:, at]
        return (weight * _solve(block, weight)).sum((0, 2, 3)) / self.energy

    def joint(self, chosen: Tensor) -> float:
        """What the removal of some indices together costs."""
        at = self.columns[chosen.to(self.columns.device)].reshape(-1)
        block, weight = self.inverse[:, at[:, None], at], self.weight[:, at]
        return float((weight * _solve(block, weight)).sum()) / self.energy

    def remove(self, chosen: Tensor, stay: Tensor) -> None:
        """Re-solve without some indices, and forget them."""
        device = self.columns.device
        at = self.columns[chosen.to(device)].reshape(-1)
        block, rows = self.inverse[:, at[:, None], at], self.inverse[:, at]
        solved = _solve(block, torch.cat([rows, self.weight[:, at]], 2))
        k = self.inverse.shape[1]
        left = rows.transpose(1, 2)
        self.weight.baddbmm_(left, solved[:, :, k:], alpha=-1)
        self.inverse.baddbmm_(left, solved[:, :, :k], alpha=-1)
        self.columns = self.columns[stay.to(device)]
        self.gone[at] = True
        if 2 * int(self.gone.sum()) > k:
            self._compact()

    def _compact(self) -> None:
        """Drop the rows and columns of what is gone, so that later updates touch less."""
        left = (~self.gone).nonzero()[:, 0]
        numbers = (~self.gone).cumsum(0) - 1
        self.inverse = self.inverse.index_select(1, left).index_select(2, left)
        self.weight = self.weight.index_select(1, left)
        self.columns = numbers[self.columns]
        self.gone = torch.zeros_like(left, dtype=torch.bool)


def _problems(site: Site, facts: Facts) -> list[_Problem]:
    """The consumers of a site whose outputs vary, as far as they fit in memory."""
    grams = facts.get("grams")
    parts = {part.tensor: part for part in consumers(site, grams)}
    found = grams.load(list(parts)) if isinstance(grams, Grams) else {n: grams[n] for n in parts}
    if len(found) < len(parts):
        shown = f"{len(found)} of {len(parts)} consumers"
        facts.notes.append(f"osscar: {site.name} is scored by {shown}, for want of memory")
    problems = []
    for name, gram in found.items():
        channels = gram.gram.shape[1] // gram.taps
        where = columns(parts[name], gram.spec, site, channels, gram.taps)
        if gram.taps != gram.spec.taps:
            facts.notes.append(f"osscar: {name} is wide, so its kernel positions share one matrix")
        if where is not None:
            problem = _Problem(gram, facts.tensors[name], where)
            problems += [problem] if problem.energy > 0 else []
    return problems


def _by_weights(site: Site, facts: Facts) -> Tensor:
    """The share of the producing weights' sum that goes with an index and all smaller ones."""
    values = unread(site, facts, "osscar").detach().double().cpu()
    if site.module is not None:
        return 1 + values / (1 + values)  # the whole branch goes: behind all channels
    order = values.argsort(stable=True)
    sums = values[order].cumsum(0)
    scores = torch.zeros_like(values)
    scores[order] = sums / sums[-1] if sums[-1] > 0 else sums
    return scores


def _solve(block: Tensor, right: Tensor) -> Tensor:
    """block⁻¹ right, for positive definite blocks `[..., b, b]`.

    By explicit inverses of the small blocks: on a CPU batched triangular solves take much longer.
    """
    return right / block if block.shape[-1] == 1 else torch.linalg.inv(block) @ right
