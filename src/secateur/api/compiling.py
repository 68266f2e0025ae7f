"""`sc.compile`: a network that runs on sparse kernels."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from torch import nn

from secateur.core.batches import as_call
from secateur.core.cache import folder_of
from secateur.engine.compiler import compile_model
from secateur.engine.fast import Fast, FastParts


def compile(model: nn.Module, example: Any, *, cache: str | Path | bool = True) -> Fast | FastParts:
    """Make a network run on sparse kernels, wherever these are faster on this machine.

    Zeros may lie anywhere: single weights, N:M, blocks, whole rows. Every layer's kernels and
    torch's own operation are timed, and the fastest is kept; then the whole network is timed
    against the model. Where nothing is gained, calls go to the model as it was; `print` says so.
    On a CUDA GPU linear layers and 1x1 convolutions in half precision whose zeros are 2:4
    (`sc.NM(2, 4)`) run on its sparse tensor cores; all else runs as it was.

    Args:
        model: On the CPU or on one CUDA GPU; left as it was. It is run in evaluation mode.
        example: The inputs of one call, as for `prune`: sizes as they will be used.
        cache: Where measured times are kept: True for the usual place, a folder, or False.

    Returns:
        A module with the same outputs and without gradients; its `report` says what was measured.

    Raises:
        InputError: The model and its example are on several devices, or on one of another kind.
        VerificationError: The outputs differ from the model's; please report it.

    Example:
        >>> import torch
        >>> net = nn.Sequential(nn.Linear(64, 64), nn.ReLU()).eval()
        >>> with torch.no_grad():
        ...     _ = net[0].weight.mul_(torch.rand(64, 64) < 0.1)
        >>> fast = compile(net, torch.zeros(8, 64), cache=False)
        >>> torch.allclose(fast(torch.ones(3, 64)), net(torch.ones(3, 64)), atol=1e-5)
        True
    """
    folder = folder_of(cache)
    return compile_model(model, as_call(model, example), folder)
