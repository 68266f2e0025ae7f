"""The ridge solution against numpy's least squares."""

from __future__ import annotations

import numpy as np
import torch

from secateur.recover.solve import Sums, solve


def _sums(x: torch.Tensor, r: torch.Tensor) -> Sums:
    sums = Sums()
    for rows in range(0, x.shape[1], 7):
        sums.add(x[:, rows : rows + 7], r[:, rows : rows + 7])
    return sums


def test_the_solution_is_the_ridge_regression_of_the_textbook() -> None:
    torch.manual_seed(0)
    x, r = torch.randn(2, 90, 5).double(), torch.randn(2, 90, 3).double() + 2
    found = solve(_sums(x, r), _sums(x, r), intercept=True)
    assert found is not None and found.shift is not None
    scale = np.mean([np.diag(np.cov(part.T.numpy(), bias=True) * 90).mean() for part in x])
    for group in range(2):
        a = x[group].numpy() - x[group].numpy().mean(0)
        b = r[group].numpy() - r[group].numpy().mean(0)
        wide = np.vstack([a, np.sqrt(found.ridge * scale) * np.eye(5)])
        wanted = np.linalg.lstsq(wide, np.vstack([b, np.zeros((5, 3))]), rcond=None)[0]
        np.testing.assert_allclose(found.change[group].numpy(), wanted, atol=1e-8)
        shift = r[group].numpy().mean(0) - x[group].numpy().mean(0) @ wanted
        np.testing.assert_allclose(found.shift[group].numpy(), shift, atol=1e-8)


def test_errors_are_those_of_the_rows() -> None:
    torch.manual_seed(0)
    x, r = torch.randn(1, 40, 4).double(), torch.randn(1, 40, 2).double()
    change, shift = torch.randn(1, 4, 2).double(), torch.randn(1, 2).double()
    left = r - x @ change - shift[:, None]
    wanted = left.square().sum(-1).mean()
    assert abs(_sums(x, r).error(change, shift) - float(wanted)) < 1e-9


def test_what_does_not_help_held_out_rows_is_refused() -> None:
    torch.manual_seed(0)
    x, r = torch.randn(1, 8, 6), torch.randn(1, 8, 2)
    far = torch.randn(1, 200, 6)
    assert solve(_sums(x, r), _sums(far, torch.zeros(1, 200, 2)), intercept=False) is None


def test_few_rows_and_constant_inputs_stay_finite() -> None:
    for x in (torch.randn(1, 2, 9), torch.zeros(1, 30, 9), torch.ones(1, 30, 9)):
        r = torch.randn(1, x.shape[1], 2)
        found = solve(_sums(x, r), _sums(x, r), intercept=True)
        assert found is None or bool(torch.isfinite(found.change).all())


def test_inputs_that_are_not_finite_give_no_solution() -> None:
    x = torch.randn(1, 20, 3)
    x[0, 3, 1] = float("inf")
    sums = _sums(x, torch.randn(1, 20, 2))
    assert solve(sums, sums, intercept=True) is None
