"""Productions with branches: residuals, dense connections, pieces, gates from halves, stacks."""

from __future__ import annotations

from grammar import ALL, Step, Writer, step


@step(ALL, branches=1, weight=3)
def residual(w: Writer, one: Step) -> None:
    c, kept = w.c, w.keep()
    w.branch(one.branches[0], c)
    w.run(
        w.pick(
            f"x = x + {kept}",
            f"x = {kept} + x",
            f"x = torch.add({kept}, x)",
            f"x = F.relu(x + {kept})",
            f"x = {kept} + 0.5 * x",
            f"x = x - {kept}",
        )
    )


@step(ALL, branches=1)
def projected(w: Writer, one: Step) -> None:
    """A residual whose skip is projected, and a multiplied one."""
    kept, c = w.keep(), w.c
    w.branch(one.branches[0])
    inner, w.c = w.c, c
    skip = w.point(inner)
    w.c = inner
    w.run(f"x = x {w.pick('+', '*')} {skip}({kept})")


@step(ALL, branches=2, weight=2)
def concatenated(w: Writer, one: Step) -> None:
    """Dense connections and parallel branches."""
    kept, c = w.keep(), w.c
    w.branch(one.branches[0])
    first, c1 = w.keep("first"), w.c
    w.run(f"x = {kept}")
    w.c = c
    w.branch(one.branches[1])
    parts = [(first, c1), ("x", w.c)]
    if w.chance(0.4):
        parts.insert(w.pick(0, 1, 2), (kept, c))
    w.run(f"x = torch.cat([{', '.join(name for name, _ in parts)}], {w.axis()})")
    w.c = sum(n for _, n in parts)


@step(ALL, branches=2, weight=2)
def pieces(w: Writer, one: Step) -> None:
    """Split, treat each piece, join or multiply."""
    c = w.c
    if c < 2:
        return
    halves = w.chance(0.6) and c % 2 == 0
    a = c // 2 if halves else w.rng.randint(1, c - 1)
    d = w.axis()
    n1 = w.size(a, *([f"{w.channels()} // 2"] if halves else []))
    n2 = w.size(c - a, f"{w.channels()} - {n1}")
    colons = ":, " if w.dim == 1 else "..., "
    style = w.pick("split", "slice", "narrow", *(["chunk", "even", "tensor"] if halves else []))
    w.run(
        {
            "split": f"a, x = x.split([{n1}, {n2}], {d})",
            "slice": f"a, x = x[{colons}:{n1}], x[{colons}{n1}:]",
            "narrow": f"a, x = x.narrow({d}, 0, {n1}), x.narrow({d}, {n1}, {n2})",
            "chunk": f"a, x = x.chunk(2, {d})",
            "even": f"a, x = torch.split(x, {n1}, {d})",
            "tensor": f"a, x = torch.tensor_split(x, 2, {d})",
        }[style]
    )
    held = w.fresh("held")
    w.run(f"{held} = a")
    w.c = c - a
    w.branch(one.branches[0])
    second, c2 = w.keep("second"), w.c
    w.run(f"x = {held}")
    w.c = a
    w.branch(one.branches[1])
    if w.c == c2 and w.chance(0.4):
        w.run(f"x = {w.pick(f'x * {second}', f'x + {second}', f'torch.sigmoid(x) * {second}')}")
        return
    w.run(f"x = torch.cat(({w.pick(f'x, {second}', f'{second}, x')}), dim={w.axis()})")
    w.c += c2


@step(ALL)
def glu(w: Writer, one: Step) -> None:
    """A gate from the other half."""
    inner = w.widths(16)
    layer = w.point(2 * inner)
    w.run(f"x = F.glu({layer}(x), {w.axis()})")
    w.c = inner


@step(ALL)
def stacked(w: Writer, one: Step) -> None:
    out = w.widths(12)
    first, second = w.point(out), w.point(out)
    d = w.pick(0, 1, -1)
    w.run(f"s = torch.stack([{first}(x), {second}(x)], {d})")
    w.run(
        *w.pick(
            [f"x = s.sum({d})"],
            [f"x = s.mean(dim={d})"],
            [f"a, x = s.unbind({d})", "x = a * x"],
            [f"x = s.amax({d})"],
            [f"x = (s.softmax({d}) * s).sum({d})"],
            [f"x = s.select({d}, 1)"],
        )
    )
    w.c = out
