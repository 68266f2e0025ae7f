"""A seeded grammar of valid PyTorch networks, written out as the source of honest nn.Modules.

A network is a tree of `Step`s. Every step adapts to the shape that reaches it, so that any subtree
may be deleted and the rest is still a valid network: that is how failures are minimised. A step
writes lines of `__init__` and of `forward`; sizes come from attributes, lists, a configuration
object, tensor shapes, or are literals.
"""

from __future__ import annotations

import linecache
import math
import random
import types
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

CHANNEL_FIRST = ("seq", "image", "volume")
ALL = ("flat", "seq", "image", "volume", "tokens")


@dataclass(frozen=True)
class Step:
    """One production: which, with which random choices, and the steps inside its branches."""

    name: str
    seed: int
    branches: tuple[tuple[Step, ...], ...] = ()

    def __str__(self) -> str:
        inner = "".join(f"({' '.join(map(str, branch))})" for branch in self.branches)
        return f"{self.name}:{self.seed}{inner}"


@dataclass(frozen=True)
class Kind:
    """A registered production. keeps: the shape of what comes out differs in channels at most."""

    write: Callable[[Writer, Step], None]
    accepts: tuple[str, ...]
    keeps: bool
    statistical: bool
    branches: int
    weight: float


STEPS: dict[str, Kind] = {}


def step(
    accepts: str | tuple[str, ...],
    *,
    keeps: bool = True,
    statistical: bool = False,
    branches: int = 0,
    weight: float = 1.0,
) -> Callable[[Callable[[Writer, Step], None]], Callable[[Writer, Step], None]]:
    """Register a production for some kinds of tensors."""

    def register(write: Callable[[Writer, Step], None]) -> Callable[[Writer, Step], None]:
        wanted = (accepts,) if isinstance(accepts, str) else accepts
        STEPS[write.__name__] = Kind(write, wanted, keeps, statistical, branches, weight)
        return write

    return register


@dataclass
class Source:
    """The lines of one class."""

    name: str
    inits: list[str] = field(default_factory=list)
    runs: list[str] = field(default_factory=list)
    body: list[str] = field(default_factory=list)

    def text(self) -> str:
        """The class."""
        return "\n".join(
            [
                f"class {self.name}(nn.Module):",
                *[f"    {line}" for line in self.body],
                "    def __init__(self, cfg):",
                "        super().__init__()",
                *[f"        {line}" for line in self.inits],
                "",
                "    def forward(self, x):",
                *[f"        {line}" for line in self.runs],
            ]
        )


class Writer:
    """Writes steps; `kind`, `c` and `space` describe the value that the variable `x` holds."""

    def __init__(self, kind: str, c: int, space: tuple[int, ...], batch: int) -> None:
        self.kind, self.c, self.space, self.batch = kind, c, space, batch
        self.classes: list[Source] = []
        self.source = Source("Net")
        self.config: dict[str, int] = {}
        self.globals: list[str] = []
        self.rng = random.Random(0)
        self.count = 0

    # --- lines ----------------------------------------------------------------------------------

    def fresh(self, prefix: str) -> str:
        """A new name."""
        self.count += 1
        return f"{prefix}{self.count}"

    def init(self, line: str) -> None:
        self.source.inits.append(line)

    def run(self, *lines: str) -> None:
        self.source.runs.extend(lines)

    def layer(self, prefix: str, value: str) -> str:
        """A new attribute, as `self.name`."""
        name = f"self.{self.fresh(prefix)}"
        self.init(f"{name} = {value}")
        return name

    def keep(self, prefix: str = "kept") -> str:
        """A variable that holds the present value."""
        name = self.fresh(prefix)
        self.run(f"{name} = x")
        return name

    def pick(self, *choices: Any) -> Any:
        return self.rng.choice(choices)

    def chance(self, p: float) -> bool:
        return self.rng.random() < p

    # --- sizes ----------------------------------------------------------------------------------

    def size(self, value: int, *derived: str, literal: bool = True) -> str:
        """An expression for a size, in one of the many ways in which people write them."""
        roll = self.rng.random()
        if derived and roll < 0.4:
            return str(self.pick(*derived))
        if literal and roll > 0.9:
            return self._constant(value)
        if roll > 0.65:
            return self._stored(value)
        return self.layer("n", str(value))

    def _constant(self, value: int) -> str:
        """A size that no attribute of an instance holds."""
        style = self.pick("literal", "literal", "class", "global", "sum")
        if style == "class":
            name = self.fresh("SIZE")
            self.source.body.append(f"{name} = {value}")
            return f"self.{name}"
        if style == "global":
            name = self.fresh("WIDTH")
            self.globals.append(f"{name} = {value}")
            return name
        return str(value) if style == "literal" else f"({value - 1} + 1)"

    def _stored(self, value: int) -> str:
        """A size inside something else."""
        style = self.pick("list", "tuple", "dict", "config", "config", "property", "nested", "len",
                          "numpy")  # fmt: skip
        other = self.pick(1, 5, 7)
        if style == "config":
            key = self.fresh("size")
            self.config[key] = value
            return f"{self.layer('cfg', 'cfg')}.{key}"
        if style == "property":
            name, hidden = self.fresh("width"), self.layer("n", str(value))
            self.source.body += ["@property", f"def {name}(self):", f"    return {hidden}"]
            return f"self.{name}"
        if style == "len":
            return f"len({self.layer('names', repr(['x'] * value))})"
        made, read = {
            "list": (f"[{other}, {value}]", "[1]"),
            "tuple": (f"({value}, {other})", "[0]"),
            "dict": (f"{{'other': {other}, 'size': {value}}}", "['size']"),
            "nested": (f"{{'sizes': [{other}, ({value}, 2)]}}", "['sizes'][1][0]"),
            "numpy": (f"int(np.int64({value}))", ""),
        }[style]
        return self.layer("sizes", made) + read

    def widths(self, most: int = 24) -> int:
        """A channel count with factors."""
        return int(self.pick(*[n for n in (4, 6, 8, 8, 12, 12, 16, 16, 24) if n <= most]))

    def divisor(self, n: int, *, least: int = 2, most: int = 8) -> int:
        """A divisor of n in a range, or 1."""
        found = [d for d in range(least, min(most, n) + 1) if n % d == 0]
        return int(self.pick(*found)) if found else 1

    @property
    def rank(self) -> int:
        """Dimensions of x."""
        return 2 + len(self.space)

    @property
    def dim(self) -> int:
        """The dimension of the channels."""
        return 1 if self.kind != "tokens" else 2

    @property
    def nd(self) -> str:
        return f"{len(self.space)}d"

    def axis(self) -> str:
        """The channel dimension, from the front or the back."""
        return str(self.pick(self.dim, self.dim - self.rank))

    def channels(self) -> str:
        """The channel count, read off x."""
        return str(self.pick(f"x.shape[{self.dim}]", f"x.size({self.dim})"))

    def per_channel(self) -> str:
        """The shape of a parameter that broadcasts over x by channel."""
        ones = ", 1" * len(self.space) if self.kind != "tokens" else ""
        return f"{self.c}{ones or ','}"

    def point(self, c_out: int, *, bias: bool | None = None) -> str:
        """A layer that maps channels to channels at every position."""
        extra = "" if (self.chance(0.7) if bias is None else bias) else ", bias=False"
        if self.kind in ("flat", "tokens"):
            return self.layer("fc", f"nn.Linear({self.c}, {c_out}{extra})")
        return self.layer("conv", f"nn.Conv{self.nd}({self.c}, {c_out}, 1{extra})")

    # --- steps ----------------------------------------------------------------------------------

    def write(self, steps: tuple[Step, ...]) -> None:
        """Write steps one after the other; those that do not fit the present shape are left out."""
        for one in steps:
            kind = STEPS[one.name]
            if self.kind not in kind.accepts:
                continue
            outer, self.rng = self.rng, random.Random(one.seed)
            if self.chance(0.3):
                self._wrapped(kind, one)
            else:
                kind.write(self, one)
            self.rng = outer

    def _wrapped(self, kind: Kind, one: Step) -> None:
        """The step as a module of its own."""
        outer, self.source = self.source, Source(self.fresh("Part"))
        kind.write(self, one)
        self.run("return x")
        inner, self.source = self.source, outer
        self.classes.append(inner)
        name = self.layer(self.pick("part", "block", "stage"), f"{inner.name}(cfg)")
        self.run(f"x = {name}(x)")

    def branch(self, steps: tuple[Step, ...], c_out: int | None = None) -> None:
        """Write steps that keep all but the channels, then go back to `c_out` channels."""
        kind, space = self.kind, self.space
        self.write(steps)
        assert (self.kind, self.space) == (kind, space), "a branch changed more than channels"
        if c_out is not None and self.c != c_out:
            self.run(f"x = {self.point(c_out)}(x)")
            self.c = c_out


@dataclass(frozen=True)
class Program:
    """A whole network: what goes in, and the steps."""

    seed: int
    kind: str
    c: int
    space: tuple[int, ...]
    batch: int
    ids: bool
    steps: tuple[Step, ...]
    outputs: str = "one"

    def source(self) -> str:
        """The network's Python."""
        writer = Writer(self.kind, self.c, self.space, self.batch)
        if self.ids:
            name = writer.layer("embedding", f"nn.Embedding(11, {self.c})")
            writer.run(f"x = {name}(x)")
        writer.write(self.steps)
        writer.rng = random.Random(self.seed)
        _finish(writer, self.outputs)
        parts = [one.text() for one in [*writer.classes, writer.source]]
        config = f"CONFIG = SimpleNamespace(**{writer.config!r})"
        return "\n\n".join([*writer.globals, *parts, config, "net = Net(CONFIG)"])

    def build(self) -> nn.Module:
        """The network, in float64, with random weights and statistics; randomly in train mode."""
        text = self.source()
        name = f"fuzz/program_{self.seed}.py"
        linecache.cache[name] = (len(text), None, [f"{line}\n" for line in text.split("\n")], name)
        scope: dict[str, Any] = {
            "torch": torch,
            "nn": nn,
            "F": F,
            "SimpleNamespace": types.SimpleNamespace,
            "math": math,
            "np": np,
        }
        exec(compile(text, name, "exec"), scope)
        net: nn.Module = scope["net"].double()
        randomise(net, self.seed)
        return net.train(self.seed % 3 == 0)

    def example(self, batch: int | None = None) -> Tensor:
        """An input."""
        generator = torch.Generator().manual_seed(self.seed + 17)
        first = self.batch if batch is None else batch
        if self.ids:
            return torch.randint(0, 11, (first, *self.space), generator=generator)
        middle = (*self.space, self.c) if self.kind == "tokens" else (self.c, *self.space)
        return torch.randn(first, *middle, generator=generator, dtype=torch.float64)

    def __str__(self) -> str:
        steps = " ".join(map(str, self.steps))
        shape = f"{self.kind} batch={self.batch} c={self.c} space={self.space}"
        return f"# seed {self.seed}: {shape}; {steps}\n{self.source()}"


def _finish(writer: Writer, outputs: str) -> None:
    """To a linear head."""
    if writer.kind in CHANNEL_FIRST:
        dims = list(range(2, writer.rank))
        writer.run(f"x = x.mean({dims})")
    elif writer.kind == "tokens" and writer.chance(0.5):
        writer.run("x = x.mean(1)")
    head = writer.layer("head", f"nn.Linear({writer.c}, 3)")
    if outputs == "one":
        writer.run(f"return {head}(x)")
    elif outputs == "features":
        writer.run(f"return {head}(x), x.sum(-1)")
    else:
        other = writer.layer("head", f"nn.Linear({writer.c}, 5)")
        writer.run(f"return {{'first': {head}(x), 'second': {other}(x).tanh()}}")


def randomise(net: nn.Module, seed: int) -> None:
    """Weights and statistics under which nothing cancels out and nothing explodes."""
    generator = torch.Generator().manual_seed(seed)

    def normal(tensor: Tensor, scale: float) -> Tensor:
        noise = torch.randn(tensor.shape, generator=generator, dtype=torch.float64)
        return (noise * scale).to(tensor.dtype)

    with torch.no_grad():
        for name, tensor in [*net.named_parameters(), *net.named_buffers()]:
            if not tensor.is_floating_point():
                continue
            spread = tensor.numel() // max(tensor.shape[0], 1) if tensor.dim() else 1
            if tensor.dim() >= 2 and spread > 1:
                tensor.copy_(normal(tensor, 1.2 * spread**-0.5))
            elif "var" in name or "weight" in name or "original" in name or tensor.dim() == 0:
                tensor.copy_(0.6 + normal(tensor, 0.5).abs())
            else:
                tensor.copy_(normal(tensor, 0.4))


def make_program(seed: int) -> Program:
    """A random program. Half of them have no normalisation over channels, so are cut exactly."""
    rng = random.Random(seed)
    statistical = rng.random() < 0.4
    kind = rng.choice(["image"] * 5 + ["tokens"] * 5 + ["flat"] * 2 + ["seq"] * 2 + ["volume"])
    side = rng.choice([4, 4, 6, 8])
    space = {
        "flat": (),
        "seq": (side,),
        "image": (side, rng.choice([side, 4])),
        "volume": (4, 4, 4),
        "tokens": (rng.choice([4, 6, 9, 16]),),
    }[kind]
    c = rng.choice([3, 4, 6, 8, 8, 12])
    steps = tuple(random_steps(rng, rng.randint(1, 6), statistical, keeps=False, depth=0))
    return Program(
        seed=seed,
        kind=kind,
        c=c,
        space=space,
        batch=rng.choice([2, 3, 3, 4, 5]),
        ids=kind == "tokens" and rng.random() < 0.25,
        steps=(Step("widen", rng.randrange(1000)), *steps),
        outputs=rng.choice(["one"] * 6 + ["features", "two"]),
    )


def random_steps(
    rng: random.Random, n: int, statistical: bool, *, keeps: bool, depth: int
) -> Iterator[Step]:
    """Steps drawn without regard to shapes: those that do not fit are skipped when written."""
    names = [
        name
        for name, kind in STEPS.items()
        if (statistical or not kind.statistical) and (kind.keeps or not keeps)
        if depth < 2 or not kind.branches
    ]
    weights = [STEPS[name].weight for name in names]
    for name in rng.choices(names, weights, k=n * 3):
        branches = tuple(
            tuple(random_steps(rng, rng.randint(0, 2), statistical, keeps=True, depth=depth + 1))
            for _ in range(STEPS[name].branches)
        )
        yield Step(name, rng.randrange(1_000_000), branches)
