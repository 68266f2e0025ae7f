"""HOW indices are scored: criteria, a decorator to add more, and combinations."""

from secateur.score.activation import activation, flap, vbp, wanda
from secateur.score.baseline import random
from secateur.score.combine import normalised, per_cost, total
from secateur.score.criterion import Criterion, Facts, criteria, criterion, resolve
from secateur.score.early import grasp, snip, synflow
from secateur.score.features import chip, hrank
from secateur.score.fisher import fisher, fisher_unit
from secateur.score.group import group_l2
from secateur.score.lamp import lamp
from secateur.score.magnitude import l1, l2
from secateur.score.norm import bn_scale
from secateur.score.osscar import osscar
from secateur.score.run import Scores, scores
from secateur.score.similarity import folding, fpgm
from secateur.score.taylor import (
    taylor,
    taylor_mean,
    taylor_second,
    taylor_squared,
    taylor_weight,
)

__all__ = [
    "Criterion",
    "Facts",
    "Scores",
    "activation",
    "bn_scale",
    "chip",
    "criteria",
    "criterion",
    "fisher",
    "fisher_unit",
    "flap",
    "folding",
    "fpgm",
    "grasp",
    "group_l2",
    "hrank",
    "l1",
    "l2",
    "lamp",
    "normalised",
    "osscar",
    "per_cost",
    "random",
    "resolve",
    "scores",
    "snip",
    "synflow",
    "taylor",
    "taylor_mean",
    "taylor_second",
    "taylor_squared",
    "taylor_weight",
    "total",
    "vbp",
    "wanda",
]
