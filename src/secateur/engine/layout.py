"""Where activations lie: planes with their borders in place, shared by all layers that can.

Layers without a stride read and write the same positions, so that their inputs, outputs and
residuals have rows of one length: those values form a class, and each class has one form.
"""

from __future__ import annotations

from collections.abc import Container, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from torch import Tensor

from secateur.engine.graph import Graph, Node
from secateur.engine.layer import Layer
from secateur.runtime.planes import phases

SLACK = 64
"""Positions that a kernel may compute behind an image's end."""
_LINE = 16  # floats in a cache line


@dataclass(frozen=True)
class Form:
    """How one value lies in memory, in floats.

    size: height and width of an image; (1, tokens) of tokens, whose features are the planes. row:
    between rows. margin: from the start of a plane to its first pixel. pitch: between planes.
    image: whether planes are channels of images, or features of tokens.
    Tokens with a pitch of 0 lie one after the other, without planes.
    """

    size: tuple[int, int]
    row: int
    margin: int
    pitch: int
    image: bool = True

    @property
    def positions(self) -> int:
        """Positions of a plane, the border between rows included."""
        return (self.size[0] - 1) * self.row + self.size[1]

    @property
    def bordered(self) -> bool:
        """Whether there is a border, beside images or only above and below, that must stay zero."""
        return self.image and (self.row > self.size[1] or self.margin > 0)

    def floats(self, shape: Sequence[int]) -> int:
        """Room that a value of this shape needs."""
        if not self.pitch:
            return self.size[1] * shape[-1] + SLACK
        planes = shape[0] * shape[1] if self.image else shape[-1]
        return planes * self.pitch + SLACK + self.margin

    def view(self, buffer: Tensor, shape: Sequence[int]) -> Tensor:
        """The value in a buffer, as a tensor of its shape."""
        start = int(buffer.storage_offset()) + self.margin
        return buffer.as_strided(tuple(shape), self.strides(shape), start)

    def strides(self, shape: Sequence[int]) -> tuple[int, ...]:
        """The strides of a tensor that lies so.

        Example:
            >>> Form((1, 6), 6, 0, 80, image=False).strides((2, 3, 4))
            (3, 1, 80)
        """
        if self.image:
            inner = (self.row, 1) if len(shape) == 4 else (1,)
            return (shape[1] * self.pitch, self.pitch, *inner)
        ahead, step = [], 1 if self.pitch else shape[-1]
        for size in reversed(shape[:-1]):
            ahead.append(step)
            step *= size
        return (*reversed(ahead), self.pitch or 1)


@dataclass(frozen=True)
class Layout:
    """values: the forms of values, by name. split: those of strided layers' phases, by layer."""

    values: Mapping[str, Form]
    split: Mapping[str, Form]


def tokens(shape: Sequence[int]) -> Form:
    """The form of a value of tokens `[..., features]`."""
    count = 1
    for size in shape[:-1]:
        count *= size
    return Form((1, count), count, 0, _pitch(count + SLACK), image=False)


def flat(shape: Sequence[int]) -> Form:
    """The form of a value that lies without gaps."""
    return Form((1, tokens(shape).size[1]), 0, 0, 0, image=False)


def image_size(shape: Sequence[int]) -> tuple[int, int]:
    """Height and width of `[n, c, h, w]` or `[n, c, l]`."""
    return (shape[2], shape[3]) if len(shape) == 4 else (1, shape[2])


def lay_out(
    graph: Graph,
    shapes: Mapping[str, Sequence[int]],
    chosen: Iterable[str],
    plain: Container[str] = (),
    direct: Container[str] = (),
) -> Layout:
    """Forms for everything that the chosen layers read and write.

    Args:
        graph: After `fuse`.
        shapes: Of every tensor.
        chosen: Layers with kernels.
        plain: Those whose kernels take tokens as they are.
        direct: Those whose kernels read images as they are whatever their stride: no phases.
    """
    chosen = set(chosen)
    nodes = [node for node in graph.nodes if node.op == "layer" and node.name in chosen]
    values = {
        name: tokens(shapes[name])
        for node in nodes
        if not graph.layers[node.name].dims and node.name not in plain
        for name in (*node.refs, node.name)
    }
    values |= {node.name: flat(shapes[node.name]) for node in nodes if node.name in plain}
    convolutions = [node for node in nodes if graph.layers[node.name].dims]
    classes = _classes(graph, convolutions)
    split: dict[str, Form] = {}
    for members in classes:
        form = _form(graph, shapes, convolutions, members, direct)
        for name in members:
            values[name] = replace(form, size=image_size(shapes[name]))
        for node in convolutions:
            layer = graph.layers[node.name]
            if node.name in members and max(layer.stride) > 1 and node.name not in direct:
                size = _phase(image_size(shapes[node.refs[0]]), layer)
                split[node.name] = replace(form, size=size)
    return Layout(values, split)


def _classes(graph: Graph, nodes: Sequence[Node]) -> list[set[str]]:
    """Values that must have the same rows, each set once."""
    home: dict[str, set[str]] = {}

    def join(first: str, second: str) -> None:
        merged = home.setdefault(first, {first}) | home.setdefault(second, {second})
        for name in merged:
            home[name] = merged

    for node in nodes:
        x, *residual = node.refs
        home.setdefault(node.name, {node.name})
        home.setdefault(x, {x})
        if max(graph.layers[node.name].stride) == 1:
            join(x, node.name)
        for name in residual:
            join(name, node.name)
    return [members for name, members in home.items() if name == min(members)]


def _form(
    graph: Graph,
    shapes: Mapping[str, Sequence[int]],
    nodes: Sequence[Node],
    members: set[str],
    direct: Container[str],
) -> Form:
    """Rows, margins and pitch that fit every member, and every layer that reads one."""
    sizes = [image_size(shapes[name]) for name in members]
    high, row = (max(size[i] for size in sizes) for i in (0, 1))
    above = left = below = 0
    for node in nodes:
        layer, inside = graph.layers[node.name], image_size(shapes[node.refs[0]])
        outside, stride = image_size(shapes[node.name]), layer.stride
        if node.name in direct and max(stride) > 1:
            if node.refs[0] not in members:
                continue
            first, last = _reach(layer.named(stride=(1, 1)))
        elif node.name in members:
            inside, stride = _phase(inside, layer), (1, 1)
            first, last = _reach(layer)
        else:
            continue
        over = [last[i] + (outside[i] - 1) * stride[i] + 1 - inside[i] for i in (0, 1)]
        row = max(row, inside[1] + max(0, -first[1], over[1]))
        high = max(high, inside[0])
        above, left = max(above, -first[0]), max(left, -first[1])
        below = max(below, over[0], last[0])
    margin = _up(above * row + left)
    behind = max(SLACK, below * row + left + SLACK // 4)
    return Form((high, row), row, margin, _pitch(margin + high * row + behind))


def _phase(size: tuple[int, int], layer: Layer) -> tuple[int, int]:
    """Height and width of the largest phase of an input."""
    (h, w), (a, b) = size, layer.stride
    return -(-h // a), -(-w // b)


def _reach(layer: Layer) -> tuple[list[int], list[int]]:
    """The first and last row and column that output position 0 reads, in phases."""
    kernel, dilation, padding, stride = layer.kernel, layer.dilation, layer.padding, layer.stride
    first = [min(0, -p // s) for p, s in zip(padding, stride, strict=True)]
    last = [
        max(0, ((k - 1) * d - p) // s)
        for k, d, p, s in zip(kernel, dilation, padding, stride, strict=True)
    ]
    return first, last


def split_phases(layer: Layer) -> list[tuple[int, int]]:
    """The phases that a strided layer reads, in the order of its planes."""
    return phases(layer.kernel, layer.stride, layer.padding, layer.dilation)


def _up(floats: int) -> int:
    return -(-floats // _LINE) * _LINE


def _pitch(floats: int) -> int:
    """An odd number of cache lines, so that planes do not fall into the same sets of a cache."""
    lines = -(-floats // _LINE)
    return (lines | 1) * _LINE
