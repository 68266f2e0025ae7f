"""How the weight in use follows from the one that is trained."""

from secateur.train.forms.dense import Dense, TopKAST
from secateur.train.forms.form import Form, Hard
from secateur.train.forms.gates import HardConcrete
from secateur.train.forms.movement import Movement, SoftMovement
from secateur.train.forms.soft import SoftThreshold, SoftTopK

__all__ = [
    "Dense", "Form", "Hard", "HardConcrete", "Movement", "SoftMovement", "SoftThreshold",
    "SoftTopK", "TopKAST",
]  # fmt: skip
