"""Secateur: cut neural networks down to size, and prove it.

Everything public is here, loaded when it is first used:

    import secateur as sc
    print(sc.inspect(model, example))
    result = sc.prune(model, example, budget=sc.MACs("50%"))
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

_HOMES = {
    "secateur.adapt.gates": ("gate",),
    "secateur.api": (
        "compile",
        "cut",
        "dial",
        "frontier",
        "inspect",
        "mask",
        "plan",
        "prune",
        "prune_",
        "sensitivity",
        "shrink",
    ),
    "secateur.api.features": ("features",),
    "secateur.units": ("Block", "Channel", "Head", "Layer", "NM", "Weight"),
    "secateur.core.budget": (
        "Bytes",
        "Drop",
        "Latency",
        "MACs",
        "Params",
        "PeakMemory",
        "Quality",
        "Sparsity",
    ),
    "secateur.recover": (
        "Compensate",
        "Distill",
        "Finetune",
        "Fold",
        "LowRank",
        "Recalibrate",
        "Reconstruct",
        "Rewind",
    ),
    "secateur.measure.metric": ("Accuracy", "Loss"),
    "secateur.core.scope": ("Scope", "only", "skip"),
    "secateur.core.plan": ("Plan",),
    "secateur.core.recipe": ("Recipe",),
    "secateur.core.result": ("Result",),
    "secateur.core.schedule": (
        "Adaptive",
        "Constant",
        "Cubic",
        "Linear",
        "OneShot",
        "Phases",
        "Steps",
    ),
    "secateur.train": ("Session", "attach"),
    "secateur.score": ("criterion", "normalised", "per_cost", "total"),
    "secateur.allocate": ("allocator",),
    "secateur.graph": ("rewrite", "rule"),
    "secateur.report.artifact": ("save", "save_report"),
    "secateur.report.hub": ("from_pretrained", "push_to_hub", "save_pretrained"),
    "secateur.ship": ("load",),
    "secateur.ship.export": ("export",),
    "secateur.ship.fast_file": ("load_fast",),
    "secateur.core.errors": ("SecateurError",),
    "secateur.interpret": ("circuit", "rank_units"),
}
_HOME = {name: home for home, names in _HOMES.items() for name in names}
_ROOMS = {
    "adapt": "secateur.adapt",
    "errors": "secateur.core.errors",
    "presets": "secateur.train.presets",
    "testing": "secateur.testing",
}

__all__ = [*sorted(_HOME), *_ROOMS]

if TYPE_CHECKING:
    from secateur import adapt as adapt
    from secateur import testing as testing
    from secateur.adapt.gates import gate as gate
    from secateur.allocate import allocator as allocator
    from secateur.api import compile as compile
    from secateur.api import cut as cut
    from secateur.api import dial as dial
    from secateur.api import frontier as frontier
    from secateur.api import inspect as inspect
    from secateur.api import mask as mask
    from secateur.api import plan as plan
    from secateur.api import prune as prune
    from secateur.api import prune_ as prune_
    from secateur.api import sensitivity as sensitivity
    from secateur.api import shrink as shrink
    from secateur.api.features import features as features
    from secateur.core import errors as errors
    from secateur.core.budget import Bytes as Bytes
    from secateur.core.budget import Drop as Drop
    from secateur.core.budget import Latency as Latency
    from secateur.core.budget import MACs as MACs
    from secateur.core.budget import Params as Params
    from secateur.core.budget import PeakMemory as PeakMemory
    from secateur.core.budget import Quality as Quality
    from secateur.core.budget import Sparsity as Sparsity
    from secateur.core.errors import SecateurError as SecateurError
    from secateur.core.plan import Plan as Plan
    from secateur.core.recipe import Recipe as Recipe
    from secateur.core.result import Result as Result
    from secateur.core.schedule import Adaptive as Adaptive
    from secateur.core.schedule import Constant as Constant
    from secateur.core.schedule import Cubic as Cubic
    from secateur.core.schedule import Linear as Linear
    from secateur.core.schedule import OneShot as OneShot
    from secateur.core.schedule import Phases as Phases
    from secateur.core.schedule import Steps as Steps
    from secateur.core.scope import Scope as Scope
    from secateur.core.scope import only as only
    from secateur.core.scope import skip as skip
    from secateur.graph import rewrite as rewrite
    from secateur.graph import rule as rule
    from secateur.interpret import circuit as circuit
    from secateur.interpret import rank_units as rank_units
    from secateur.measure.metric import Accuracy as Accuracy
    from secateur.measure.metric import Loss as Loss
    from secateur.recover import Compensate as Compensate
    from secateur.recover import Distill as Distill
    from secateur.recover import Finetune as Finetune
    from secateur.recover import Fold as Fold
    from secateur.recover import LowRank as LowRank
    from secateur.recover import Recalibrate as Recalibrate
    from secateur.recover import Reconstruct as Reconstruct
    from secateur.recover import Rewind as Rewind
    from secateur.report.artifact import save as save
    from secateur.report.artifact import save_report as save_report
    from secateur.report.hub import from_pretrained as from_pretrained
    from secateur.report.hub import push_to_hub as push_to_hub
    from secateur.report.hub import save_pretrained as save_pretrained
    from secateur.score import criterion as criterion
    from secateur.score import normalised as normalised
    from secateur.score import per_cost as per_cost
    from secateur.score import total as total
    from secateur.ship import load as load
    from secateur.ship.export import export as export
    from secateur.ship.fast_file import load_fast as load_fast
    from secateur.train import Session as Session
    from secateur.train import attach as attach
    from secateur.train import presets as presets
    from secateur.units import NM as NM
    from secateur.units import Block as Block
    from secateur.units import Channel as Channel
    from secateur.units import Head as Head
    from secateur.units import Layer as Layer
    from secateur.units import Weight as Weight


def __getattr__(name: str) -> Any:
    if name in _HOME:
        value = getattr(import_module(_HOME[name]), name)
    elif name in _ROOMS:
        value = import_module(_ROOMS[name])
    else:
        raise AttributeError(f"module 'secateur' has no attribute {name!r}")
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
