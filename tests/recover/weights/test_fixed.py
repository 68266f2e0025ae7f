"""Least squares on a fixed support, against each row's own normal equations."""

from __future__ import annotations

import pytest
import torch
from scipy.optimize import lsq_linear
from solver_cases import layer, solved

from secateur.recover.weights import conjugate, fixed, fixed_support


def masks(out: int, k: int, density: float) -> torch.Tensor:
    keep = torch.rand(out, k, generator=torch.Generator().manual_seed(3)) < density
    keep[0], keep[1] = False, True  # nothing stays, all stays
    return keep


@pytest.mark.parametrize("density", [0.1, 0.5, 0.9])
def test_rows_agree_with_their_own_normal_equations(density: float) -> None:
    weight, h = layer(30, 24)
    keep = masks(30, 24, density)
    found = fixed_support(weight @ h, h, keep)
    for row in range(30):
        expected = solved(weight[row].numpy(), h.numpy(), keep[row].numpy())
        assert torch.allclose(found[row], torch.from_numpy(expected), atol=1e-8)
    assert not found[~keep].any()
    assert torch.allclose(found[1], weight[1])


def test_agrees_with_bounded_least_squares_of_scipy() -> None:
    weight, h = layer(1, 8)
    keep = masks(3, 8, 0.5)[2:]
    root = torch.linalg.cholesky(h).T.numpy()
    bound = torch.where(keep[0], 1e9, 1e-12).numpy()
    expected = lsq_linear(root, root @ weight[0].numpy(), (-bound, bound), tol=1e-14).x
    found = fixed_support(weight @ h, h, keep)[0]
    assert torch.allclose(found, torch.from_numpy(expected), atol=1e-5)


def test_systems_are_solved_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    weight, h = layer(30, 24)
    keep = masks(30, 24, 0.4)
    whole = fixed_support(weight @ h, h, keep)
    monkeypatch.setattr(fixed, "_BYTES", 8 * 24 * 24 * 2)
    assert torch.allclose(fixed_support(weight @ h, h, keep), whole)


def test_conjugate_gradients_reach_the_same() -> None:
    weight, h = layer(12, 40)
    keep = masks(12, 40, 0.4)
    exact = fixed_support(weight @ h, h, keep)
    found = conjugate(weight @ h, h, keep, iterations=400, tolerance=1e-12)
    assert torch.allclose(found, exact, atol=1e-6)
    assert not found[~keep].any()
    near = conjugate(weight @ h, h, keep, exact)
    assert torch.allclose(near, exact, atol=1e-6)


def test_wide_layers_go_by_conjugate_gradients(monkeypatch: pytest.MonkeyPatch) -> None:
    weight, h = layer(6, 20)
    keep = masks(6, 20, 0.5)
    exact = fixed_support(weight @ h, h, keep)
    monkeypatch.setattr(fixed, "WIDEST", 10)
    assert torch.allclose(fixed_support(weight @ h, h, keep), exact, atol=1e-3)


def test_a_singular_system_gives_a_finite_answer() -> None:
    x = torch.ones(5, 3, dtype=torch.float64)
    h, keep = x.T @ x, torch.tensor([[True, True, False]])
    found = fixed_support(torch.ones(1, 3, dtype=torch.float64) @ h, h, keep)
    assert torch.isfinite(found).all()
    assert torch.allclose(found @ h, torch.ones(1, 3, dtype=torch.float64) @ h)
