"""Productions that change the kind of tensor, and those that view channels as several axes."""

from __future__ import annotations

from math import prod

from grammar import ALL, CHANNEL_FIRST, Step, Writer, step


@step(CHANNEL_FIRST, weight=0.7)
def shuffle(w: Writer, one: Step) -> None:
    """Channel shuffle."""
    groups = w.divisor(w.c, most=4)
    rest = "".join(f", x.shape[{d}]" for d in range(2, w.rank))
    if w.kind == "image" and w.chance(0.2):
        w.run(f"x = {w.layer('shuffle', f'nn.ChannelShuffle({groups})')}(x)")
        return
    n = w.size(groups)
    per = w.size(w.c // groups, f"{w.channels()} // {n}", *(["-1"] if w.chance(0.3) else []))
    all_ = w.size(w.c, w.channels(), "-1")
    w.run(
        "b = x.shape[0]",
        f"all_channels = {all_}",
        f"y = x.view(b, {n}, {per}{rest}).transpose(1, 2)",
        f"x = y.reshape(b, all_channels{rest})",
    )


@step("image", keeps=False, weight=0.7)
def pixel_shuffle(w: Writer, one: Step) -> None:
    if w.chance(0.5) and max(w.space) <= 8:
        out = w.widths(8)
        w.run(f"x = F.pixel_shuffle({w.point(out * 4)}(x), 2)")
        w.c, w.space = out, tuple(n * 2 for n in w.space)
    elif all(n % 2 == 0 and n > 2 for n in w.space):
        w.run("x = F.pixel_unshuffle(x, 2)")
        w.c, w.space = w.c * 4, tuple(n // 2 for n in w.space)


@step("image", keeps=False, weight=0.7)
def space_to_depth(w: Writer, one: Step) -> None:
    """As in YOLO's focus and Swin's patch merging: strided slices joined."""
    if any(n % 2 or n == 2 for n in w.space):
        return
    parts = [f"x[:, :, {i}::2, {j}::2]" for j in (0, 1) for i in (0, 1)]
    w.run(f"x = torch.cat([{', '.join(parts)}], 1)")
    w.c, w.space = w.c * 4, tuple(n // 2 for n in w.space)
    w.run(f"x = {w.point(8)}(x)")
    w.c = 8


@step("image", keeps=False)
def to_tokens(w: Writer, one: Step) -> None:
    """Pixels or patches become tokens; perhaps with positions and a class token."""
    n = prod(w.space)
    w.run(
        w.pick(
            "x = x.flatten(2).transpose(1, 2)",
            f"x = x.view(x.shape[0], {w.size(w.c, 'x.shape[1]')}, -1).permute(0, 2, 1)",
            f"x = x.permute(0, 2, 3, 1).reshape(x.shape[0], -1, {w.size(w.c, 'x.shape[1]')})",
            "x = x.permute(0, 2, 3, 1).flatten(1, 2)",
        )
    )
    w.kind, w.space = "tokens", (n,)


@step("tokens", keeps=False)
def to_image(w: Writer, one: Step) -> None:
    n = w.space[0]
    sides = [(h, n // h) for h in range(2, n) if n % h == 0]
    if not sides:
        return
    h, width = w.pick(*sides)
    hh, ww = w.size(h), w.size(width)
    c = w.size(w.c, "x.shape[-1]", "x.shape[2]")
    w.run(
        w.pick(
            f"x = x.transpose(1, 2).reshape(x.shape[0], {c}, {hh}, {ww})",
            f"x = x.transpose(1, 2).unflatten(2, ({hh}, {ww}))",
            f"x = x.view(x.shape[0], {hh}, {ww}, {c}).permute(0, 3, 1, 2)",
            f"x = x.transpose(-2, -1).contiguous().view(-1, {c}, {hh}, {ww})",
        )
    )
    w.kind, w.space = "image", (h, width)


@step(("seq", "image", "volume"), keeps=False, weight=0.7)
def to_flat(w: Writer, one: Step) -> None:
    dims = list(range(2, w.rank))
    if w.chance(0.5) or w.c * prod(w.space) > 200:
        w.run(
            w.pick(
                f"x = x.mean({dims})",
                f"x = F.adaptive_avg_pool{w.nd}(x, 1).flatten(1)",
                f"x = x.amax({dims})",
                f"x = F.adaptive_max_pool{w.nd}(x, 1).reshape(x.shape[0], -1)",
                f"x = F.adaptive_avg_pool{w.nd}(x, 1).reshape(-1, {w.size(w.c, 'x.shape[1]')})",
            )
        )
    else:
        total = w.c * prod(w.space)
        w.run(
            w.pick(
                "x = x.flatten(1)",
                "x = x.contiguous().view(x.shape[0], -1)",
                "x = torch.flatten(x, 1)",
                f"x = x.reshape(-1, {w.size(total)})",
                "x = x.reshape(len(x), -1)",
            )
        )
        w.c = total
    w.kind, w.space = "flat", ()
    w.run(f"x = {w.point(8)}(x)")
    w.c = 8


@step("tokens", keeps=False, weight=0.5)
def tokens_to_flat(w: Writer, one: Step) -> None:
    total = w.c * w.space[0]
    choice = w.pick("mean", "first", "last", "flat", "max", "pool")
    w.run(
        {
            "mean": "x = x.mean(1)",
            "first": "x = x[:, 0]",
            "last": "x = x[:, -1, :]",
            "flat": w.pick(
                "x = x.flatten(1)",
                f"x = x.reshape(x.shape[0], {w.size(total, 'x.shape[1] * x.shape[2]')})",
            ),
            "max": "x = x.max(1)[0]",
            "pool": "x = F.adaptive_avg_pool1d(x.transpose(1, 2), 1).squeeze(-1)",
        }[choice]
    )
    w.c = total if choice == "flat" else w.c
    w.kind, w.space = "flat", ()


@step("flat", keeps=False, weight=0.7)
def from_flat(w: Writer, one: Step) -> None:
    """A decoder's start: features become tokens or images."""
    c, n = w.pick(4, 6, 8), w.pick(4, 6)
    if w.chance(0.5):
        w.run(f"x = {w.point(c * n)}(x).view(-1, {w.size(n)}, {w.size(c)})")
        w.kind, w.space = "tokens", (n,)
    else:
        layer = w.point(c * 4)
        w.run(
            f"x = {layer}(x)",
            w.pick(
                f"x = x.view(x.shape[0], {w.size(c, 'x.shape[1] // 4')}, 2, 2)",
                f"x = x.unflatten(1, ({w.size(c, '-1')}, 2, 2))",
                f"x = x.reshape(-1, {w.size(c)}, {w.size(2)}, {w.size(2)})",
            ),
        )
        w.kind, w.space = "image", (2, 2)
    w.c = c


@step(("seq", "tokens"), keeps=False, weight=0.7)
def transpose(w: Writer, one: Step) -> None:
    """Tokens to a sequence with channels first, and back."""
    w.run(
        w.pick(
            "x = x.transpose(1, 2)", "x = x.permute(0, 2, 1)", "x = x.mT", "x = x.swapaxes(1, 2)"
        )
    )
    w.kind = "tokens" if w.kind == "seq" else "seq"


@step(("flat", "tokens"))
def grouped_linear(w: Writer, one: Step) -> None:
    """Channels seen as groups x inner, with one matrix a group."""
    groups = w.divisor(w.c)
    inner, out = w.c // groups, w.pick(2, 3, 4)
    name = w.layer("w", f"nn.Parameter(torch.ones({groups}, {inner}, {out}))")
    n = w.size(groups)
    i = w.size(inner, f"x.shape[-1] // {n}", "-1")
    lead = "x.shape[0]" if w.kind == "flat" else "x.shape[0], x.shape[1]"
    y = w.pick(f"x.view({lead}, {n}, {i})", f"x.unflatten(-1, ({n}, {i}))")
    letters = "b" if w.kind == "flat" else "bn"
    w.run(f"y = {y}", f"y = torch.einsum('{letters}gi,gio->{letters}go', y, {name})")
    w.run(
        w.pick(
            "x = y.flatten(-2)",
            f"x = y.reshape({lead}, -1)",
            f"x = y.reshape({lead}, {w.size(groups * out)})",
        )
    )
    w.c = groups * out


@step(ALL, statistical=True, weight=0.7)
def grouped_reduction(w: Writer, one: Step) -> None:
    """Maxout, or a softmax inside groups."""
    groups = w.divisor(w.c)
    inner = w.c // groups
    n, i = w.size(groups), w.size(inner)
    d = w.dim
    w.run(f"y = x.unflatten({d}, ({n}, {i}))")
    if w.chance(0.5):
        w.run(f"x = y.{w.pick('amax', 'mean', 'sum')}({d + 1})")
        w.c = groups
    else:
        w.run(f"x = (y.softmax({d + 1}) * y).flatten({d}, {d + 1})")


@step("flat", weight=0.7)
def bilinear(w: Writer, one: Step) -> None:
    out = w.widths(12)
    w.run(f"x = {w.layer('bi', f'nn.Bilinear({w.c}, {w.c}, {out})')}(x, {w.point(w.c)}(x))")
    w.c = out


@step(ALL)
def film(w: Writer, one: Step) -> None:
    """Scale and shift predicted from the pooled input."""
    layer = w.layer("film", f"nn.Linear({w.c}, {2 * w.c})")
    n = w.size(w.c, w.channels())
    pooled = "x" if w.kind == "flat" else f"x.mean({list(range(2, w.rank)) if w.dim == 1 else 1})"
    w.run(f"m = {layer}({pooled})")
    w.run(
        w.pick(
            "scale, shift = m.chunk(2, -1)",
            f"scale, shift = m.split({n}, 1)",
            f"scale, shift = m[:, :{n}], m[:, {n}:]",
            f"scale, shift = m.view(-1, 2, {n}).unbind(1)",
            "scale, shift = m.reshape(m.shape[0], 2, -1).permute(1, 0, 2)",
        )
    )
    if w.space:
        at = "[:, None, :]" if w.dim == 2 else "[:, :" + ", None" * len(w.space) + "]"
        w.run(f"scale, shift = scale{at}, shift{at}")
    w.run("x = x * (1 + scale) + shift")


@step("image", weight=0.7)
def unfolded(w: Writer, one: Step) -> None:
    """F.unfold as the first half of a convolution, or a sum over a neighbourhood."""
    if w.chance(0.5):
        out = w.widths(12)
        name = w.layer("fc", f"nn.Linear({w.c * 9}, {out})")
        n = w.size(out, "y.shape[-1]")
        w.run(
            "h, q = x.shape[-2:]",
            f"y = {name}(F.unfold(x, 3, padding=1).transpose(1, 2))",
            f"x = y.transpose(1, 2).reshape(x.shape[0], {n}, h, q)",
        )
        w.c = out
    else:
        w.run(
            f"c = {w.size(w.c, 'x.shape[1]')}",
            "y = F.unfold(x, 3, padding=1).view(x.shape[0], c, 9, *x.shape[2:])",
            "x = y.mean(2)",
        )


@step("image", weight=0.7)
def spatial_gate(w: Writer, one: Step) -> None:
    layer = w.layer("conv", f"nn.Conv2d({w.c}, 1, 3, padding=1)")
    w.run(f"x = x * torch.sigmoid({layer}(x))")


@step("image", weight=0.5)
def per_row(w: Writer, one: Step) -> None:
    """A sequence model's view of an image: rows go into the batch."""
    layer = w.layer("fc", f"nn.Linear({w.c}, {w.c})")
    h, q = w.space
    c = w.size(w.c, "x.shape[1]")
    w.run(
        f"b, h, q, c = x.shape[0], {w.size(h, 'x.shape[2]')}, {w.size(q, 'x.shape[3]')}, {c}",
        f"y = {layer}(x.permute(0, 2, 3, 1).reshape(b * h, q, c))",
        "x = y.view(b, h, q, c).permute(0, 3, 1, 2)",
    )
