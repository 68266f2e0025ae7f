"""Attention over tokens that lie as planes: one lane for a query, all of its scores at once.

For a few vectors of queries the scores of all keys are made, in tiles of registers: vectors of
queries times numbers of keys, and then the sums of values in the same way. Between the two a
softmax goes down the lanes. The scores of these queries stay in the cache, and no matrix of all
scores is ever in memory (as in Dao et al., "FlashAttention", 2022, but with a row of scores whole).
"""

from __future__ import annotations

from collections.abc import Sequence

from secateur.runtime.kernels import llvm
from secateur.runtime.kernels.activation import falling
from secateur.runtime.kernels.ir import Function

_ARGUMENTS = (
    "ptr x", "ptr y", "ptr geometry", "i64 first", "i64 last", "i64 image", "i64 unused",
)  # fmt: skip
POINTERS = ("k", "v", "mask", "scratch")
NUMBERS = (
    "heads", "queries", "keys", "size", "q_head", "q_pitch", "k_image", "k_head", "k_pitch",
    "v_image", "v_head", "v_pitch", "out_head", "out_pitch", "mask_image", "mask_head", "mask_key",
)  # fmt: skip
"""The geometry: addresses, numbers, and the scale, a float32 in the low half of an int64."""
_VECTORS = 2  # of queries


def lanes() -> int:
    """Queries that there must be: one vector of them."""
    return llvm.host().lanes


def scratch(heads: int, keys: int) -> int:
    """Floats that one image needs for scores."""
    return heads * keys * _VECTORS * lanes()


def attention(masked: bool) -> int:
    """The address of `softmax(scale * q k' + mask) v` for heads `[first, last)` of an image.

    Feature `c` of a head's queries is the plane at `x[head * q_head + c * q_pitch]`, of the image
    that `x` and `y` begin with; keys and values lie alike, from `k + image * k_image` on. mask,
    with `masked`: what is added, of all queries for one key side by side, `mask_key` floats apart.
    The geometry is int64: `POINTERS`, then `NUMBERS`, the scale. Every query must see a key.
    """
    target = llvm.host()
    return llvm.load(text(masked, target)).address("attention")


def text(masked: bool, target: llvm.Target) -> str:
    """The text of the function."""
    f = Function("attention", _ARGUMENTS, lanes=target.lanes, fused=target.fused)
    _Writer(f, masked, 6 if target.registers < 32 else 8).write()
    return f.text()


class _Writer:
    """Writes it; `n` are the numbers of the geometry. rows: of a tile of registers."""

    def __init__(self, f: Function, masked: bool, rows: int) -> None:
        self.f, self.masked = f, masked
        self.rows = (rows, 2, 1)
        self.k, self.v, self.mask, self.scratch = (
            f.read("%geometry", i, "ptr") for i in range(len(POINTERS))
        )
        self.n = {name: f.read("%geometry", i) for i, name in enumerate(NUMBERS, len(POINTERS))}
        self.scale = f.broadcast(f.at("%geometry", len(POINTERS) + len(NUMBERS), "i64"))

    def write(self) -> None:
        """Heads, and vectors of queries of each: the last of them overlap those before."""
        f, n = self.f, self.n
        used = f.integer("add", f.integer("mul", "%image", n["heads"]), "%first")
        room = f.integer("mul", n["keys"], _VECTORS * f.lanes)
        self.scores = f.at(self.scratch, f.integer("mul", used, room))
        self.k, self.v, mask = (
            f.at(base, f.integer("mul", "%image", n[f"{name}_image"]))
            for base, name in ((self.k, "k"), (self.v, "v"), (self.mask, "mask"))
        )
        final = f.integer("sub", n["queries"], f.lanes)
        with f.loop("%first", "%last") as head:
            q, k, v, out, seen = (
                f.at(base, f.integer("mul", head.index, n[f"{name}_head"]))
                for base, name in (
                    ("%x", "q"), (self.k, "k"), (self.v, "v"), ("%y", "out"), (mask, "mask"),
                )
            )  # fmt: skip
            with f.loop(0, n["queries"], _VECTORS * f.lanes) as many:
                self._queries(q, k, v, out, seen, many.index, _VECTORS)
            with f.loop(many.index, f.integer("add", n["queries"], f.lanes - 1), f.lanes) as one:
                self._queries(q, k, v, out, seen, f.least(one.index, final), 1)

    def _queries(self, q: str, k: str, v: str, out: str, seen: str, at: str, vectors: int) -> None:
        """Some vectors of queries of one head."""
        f, n, step = self.f, self.n, vectors * self.f.lanes
        q, out, seen = f.at(q, at), f.at(out, at), f.at(seen, at)
        most = [f.constant(float("-inf"))] * vectors
        begin = "0"
        for rows in self.rows:
            with f.loop(begin, n["keys"], rows, most) as key:
                keys = [f.at(f.at(k, key.index), r) for r in range(rows)]
                sums = self._product(n["size"], (q, n["q_pitch"]), keys, n["k_pitch"], vectors)
                place = f.at(self.scores, f.integer("mul", key.index, step))
                for r in range(rows):
                    for i in range(vectors):
                        score = f.mul(sums[r * vectors + i], self.scale)
                        if self.masked:
                            row = f.integer("mul", f.integer("add", key.index, r), n["mask_key"])
                            score = f.add(score, f.load(f.at(f.at(seen, row), i * f.lanes)))
                        f.store(score, f.at(place, r * step + i * f.lanes))
                        key.after[i] = f.intrinsic("maximum", key.after[i], score)
            begin, most = key.index, key.values
        shares = self._softmax(most, step)
        begin = "0"
        for rows in self.rows:
            with f.loop(begin, n["size"], rows) as c:
                features = [f.integer("add", c.index, r) for r in range(rows)]
                values = [f.at(v, f.integer("mul", i, n["v_pitch"])) for i in features]
                sums = self._product(n["keys"], (self.scores, str(step)), values, "1", vectors)
                for r, feature in enumerate(features):
                    place = f.at(out, f.integer("mul", feature, n["out_pitch"]))
                    for i in range(vectors):
                        done = f.mul(sums[r * vectors + i], shares[i])
                        f.store(done, f.at(place, i * f.lanes))
            begin = c.index

    def _product(
        self, count: str, x: tuple[str, str], rows: Sequence[str], pitch: str, vectors: int
    ) -> list[str]:
        """Sums over `count` vectors of `x`, a place and a pitch, times numbers of each row."""
        f = self.f
        with f.loop(0, count, 1, [f.constant(0)] * (len(rows) * vectors)) as i:
            place = f.at(x[0], f.integer("mul", i.index, x[1]))
            loaded = [f.load(f.at(place, v * f.lanes)) for v in range(vectors)]
            further = f.integer("mul", i.index, pitch)
            for r, row in enumerate(rows):
                number = f.broadcast(f.at(row, further))
                for v, vector in enumerate(loaded, r * vectors):
                    i.after[v] = f.fma(number, vector, i.values[v])
        return i.values

    def _softmax(self, most: Sequence[str], step: int) -> list[str]:
        """Scores to powers of e; what their sums are to be divided by, as factors."""
        f, begin = self.f, "0"
        sums = [f.constant(0)] * len(most)
        for rows in (2, 1):
            with f.loop(begin, self.n["keys"], rows, sums) as key:
                place = f.at(self.scores, f.integer("mul", key.index, step))
                for r in range(rows):
                    for i, top in enumerate(most):
                        here = f.at(place, r * step + i * f.lanes)
                        power = falling(f, f.sub(f.load(here), top))
                        f.store(power, here)
                        key.after[i] = f.add(key.after[i], power)
            begin, sums = key.index, key.values
        return [f.div(f.constant(1), total) for total in sums]
