"""Trials: shares of costs, and the budgets that ask for them."""

from __future__ import annotations

from dataclasses import replace

import pytest
from building import digits_case

from secateur.core.budget import MACs, Params
from secateur.search.trial import leading, share_budget


def test_shares_of_what_was() -> None:
    case = digits_case()
    trial = case.build(MACs("50%"))
    params = sum(p.numel() for p in case.model.parameters())
    now = sum(p.numel() for p in trial.model.parameters())
    assert trial.left("params") == pytest.approx(now / params)
    assert 0.4 < trial.left("macs") <= 0.5
    assert leading(trial, "macs") == "macs"
    trial.before = replace(trial.before, macs=0)
    assert leading(trial, "macs") == "params"
    assert trial.left("macs") == 1.0


def test_budgets_of_shares() -> None:
    assert share_budget("macs", 0.123456) == MACs("12.3456%")
    assert share_budget("params", 0.97) == Params("97%")
