"""Solvers for the weights of one layer: which go, and what the others become."""

from secateur.recover.weights.alps import alps
from secateur.recover.weights.fixed import conjugate, fixed_support
from secateur.recover.weights.obc import obc
from secateur.recover.weights.solvers import Solver, solvers
from secateur.recover.weights.sparsegpt import sparsegpt

__all__ = ["Solver", "alps", "conjugate", "fixed_support", "obc", "solvers", "sparsegpt"]
