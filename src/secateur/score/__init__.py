"""HOW indices are scored: criteria, and a decorator to add more."""

from secateur.score.activation import activation, flap, vbp, wanda
from secateur.score.baseline import random
from secateur.score.criterion import Criterion, Facts, criteria, criterion, resolve
from secateur.score.group import group_l2
from secateur.score.magnitude import l1, l2
from secateur.score.norm import bn_scale
from secateur.score.osscar import osscar
from secateur.score.run import Scores, scores
from secateur.score.taylor import taylor, taylor_squared

__all__ = [
    "Criterion",
    "Facts",
    "Scores",
    "activation",
    "bn_scale",
    "criteria",
    "criterion",
    "flap",
    "group_l2",
    "l1",
    "l2",
    "osscar",
    "random",
    "resolve",
    "scores",
    "taylor",
    "taylor_squared",
    "vbp",
    "wanda",
]
