"""Recurrent layers on a GPU: their weights stay in the one piece of memory that cuDNN wants."""

from __future__ import annotations

import warnings
from pathlib import Path

from cuda_nets import GPU, data, net, run

import secateur as sc


def test_no_copies_in_every_call(tmp_path: Path) -> None:
    x = data("recurrent", 8, GPU)
    cut = sc.prune(net("recurrent"), x, budget=sc.MACs("60%"), latency=False)
    sc.save(cut, tmp_path / "saved")
    place = net("recurrent")
    sc.prune_(place, x, budget=sc.MACs("60%"), latency=False)
    models = [
        cut.model,
        place,
        sc.load(tmp_path / "saved", into=net("recurrent")),
        sc.prune(net("recurrent"), x, unit=sc.Weight(), latency=False).model,
    ]
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # torch warns of them
        for model in models:
            run(model, x)
