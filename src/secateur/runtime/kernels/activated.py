"""A kernel without an activation, and the activation behind it, while outputs are near.

Emitted kernels know the activations that take an instruction or two. For all others they add up,
some planes at a time, and a loop of LLVM's puts the activation on these where they lie.
"""

from __future__ import annotations

from dataclasses import replace

from secateur.core.errors import InputError
from secateur.runtime.kernels import llvm
from secateur.runtime.kernels.activation import activate
from secateur.runtime.kernels.bound import ARGUMENTS, CONTEXT, BoundKernel
from secateur.runtime.kernels.ir import Function
from secateur.runtime.planes import Kernel, Planes

_NAME = "activated"
_NEAR = 128 << 10  # bytes of planes at a time: they stay in the level-2 cache
_AT_ONCE = 2  # vectors, which do not wait for each other


def plain(layer: Planes) -> Planes:
    """The layer without its activation."""
    return replace(layer, activation="none")


class ActivatedKernel(BoundKernel):
    """A `planes.Kernel` made of another one for `plain(layer)`, and the layer's activation.

    All activations leave zero as it is, so that borders stay zero.

    Raises:
        InputError: The other kernel's steps are no whole vectors.

    Example:
        >>> import numpy as np
        >>> from secateur.runtime.kernels.csr import CsrKernel
        >>> from secateur.runtime.planes import from_linear
        >>> layer = from_linear(np.eye(2, dtype=np.float32), pitch=16, activation="silu")
        >>> x, y = np.full((2, 16), -30, np.float32), np.ones((2, 16), np.float32)
        >>> if llvm.available():
        ...     kernel = ActivatedKernel(CsrKernel(plain(layer)), layer)
        ...     kernel(x.ctypes.data, y.ctypes.data, 0, 0, 16, 0, 2)
        ...     assert (abs(y) < 1e-11).all()
    """

    def __init__(self, inner: Kernel, layer: Planes) -> None:
        target = llvm.host()
        fits = (n for n in (16, 8, 4) if n <= target.lanes and inner.step % n == 0)
        lanes = next(fits, 0)  # code for AVX2 runs on machines with AVX-512 too
        if not lanes:
            raise InputError(f"steps of {inner.step} positions are no whole vectors")
        self.step, self.wide, self.block = inner.step, inner.wide, inner.block
        self.inner = inner
        many = max(1, _NEAR // (4 * layer.out_pitch * inner.block)) * inner.block
        numbers = (inner.address, layer.out_pitch, many)
        text = source(layer.activation, replace(target, lanes=lanes))
        super().__init__(inner.name, text, _NAME, (), numbers)
        self.bytes += inner.bytes


def source(activation: str, target: llvm.Target) -> str:
    """The text of the function for an activation."""
    f = Function(_NAME, [CONTEXT, *ARGUMENTS], lanes=target.lanes, fused=target.fused)
    inner = f.read("%context", 0, "ptr")
    pitch, many = (f.read("%context", i) for i in (1, 2))
    blocks = f.integer("sdiv", f.integer("add", f.integer("sub", "%last", "%first"), many), many)
    with f.loop(0, blocks) as block:
        begin = f.integer("add", "%first", f.integer("mul", block.index, many))
        end = f.least(f.integer("add", begin, many), "%last")
        f.write(
            f"call void {inner}(ptr %x, ptr %y, ptr %residual, i64 %begin, i64 %end, "
            f"i64 {begin}, i64 {end})"
        )
        with f.loop(begin, end) as plane:
            y, start = f.at("%y", f.integer("mul", plane.index, pitch)), "%begin"
            for size in (_AT_ONCE, 1):
                with f.loop(start, "%end", size * f.lanes) as position:
                    for i in range(size):
                        place = f.at(f.at(y, position.index), i * f.lanes)
                        f.store(activate(f, activation, f.load(place)), place)
                start = position.index
    return f.text()
