"""Productions on anything with channels: convolutions, norms, gates, parameters, moves."""

from __future__ import annotations

from grammar import ALL, CHANNEL_FIRST, Step, Writer, step

SPATIAL = CHANNEL_FIRST


@step(ALL, weight=2)
def widen(w: Writer, one: Step) -> None:
    """A dense layer."""
    out = w.widths()
    w.run(f"x = {w.point(out)}(x)")
    w.c = out


@step(ALL, weight=2)
def activation(w: Writer, one: Step) -> None:
    function = w.pick(
        "F.relu(x)",
        "F.gelu(x)",
        "torch.sigmoid(x)",
        "x.tanh()",
        "F.silu(x)",
        "x.relu_()",
        "F.leaky_relu(x, 0.1)",
        "F.elu(x) + 1",
        "x.clamp(-2, 2)",
        "-x",
        "x * 2 + 1",
        "x.square()",
        "torch.where(x > 0, x, x * 0.3)",
        "x.masked_fill(x < -1, 0.5)",
        "F.dropout(x, 0.2, self.training)",
        "x.float().double()",
        "x.contiguous()",
        "x.clone()",
        "torch.maximum(x, x * 0.2)",
        "F.softplus(x)",
    )
    if function == "x.relu_()":
        w.run("x = x + 0")
    w.run(f"x = {function}")


@step(ALL)
def prelu(w: Writer, one: Step) -> None:
    if w.kind == "tokens":
        name = w.layer("scale", f"nn.Parameter(torch.ones({w.c}))")
        w.run(f"x = x * {name}")
    else:
        w.run(f"x = {w.layer('act', f'nn.PReLU({w.c})')}(x)")


@step(SPATIAL, weight=3)
def conv(w: Writer, one: Step) -> None:
    """Dense, grouped, depthwise; modules and functional calls."""
    style = w.pick("dense", "dense", "dense", "grouped", "depthwise", "functional")
    out = w.widths()
    size = w.pick(1, 3)
    mode = w.pick("zeros", "zeros", "zeros", "circular", "reflect" if w.nd != "3d" else "replicate")
    extra = f", padding={size // 2}, padding_mode={mode!r}, bias={w.chance(0.6)}"
    if style == "depthwise":
        out = w.c * w.pick(1, 1, 2)
        extra += f", groups={w.c}"
    if style == "grouped":
        groups = w.divisor(w.c)
        out = groups * w.pick(1, 2, 3)
        extra += f", groups={groups}"
    layer = w.layer("conv", f"nn.Conv{w.nd}({w.c}, {out}, {size}{extra})")
    if style == "functional":
        w.run(
            f"k = {layer}", f"x = F.conv{w.nd}(x, k.weight, k.bias, padding={size // 2}, groups=1)"
        )
    elif style == "depthwise" and w.chance(0.3):
        at = f"groups={w.channels()}, padding={size // 2}"
        w.run(f"x = F.conv{w.nd}(x, {layer}.weight, {layer}.bias, {at})")
    else:
        w.run(f"x = {layer}(x)")
    w.c = out


@step(SPATIAL, keeps=False)
def strided(w: Writer, one: Step) -> None:
    """Smaller or larger space."""
    if w.chance(0.5) and all(n % 2 == 0 and n > 2 for n in w.space):
        layer = w.pick(
            w.layer("conv", f"nn.Conv{w.nd}({w.c}, {w.c}, 3, stride=2, padding=1)"),
            f"F.max_pool{w.nd}",
            f"F.avg_pool{w.nd}",
        )
        w.run(f"x = {layer}(x{', 2' if layer.startswith('F') else ''})")
        w.space = tuple(n // 2 for n in w.space)
    elif max(w.space) <= 8 and w.nd != "3d":
        if w.chance(0.5):
            w.run("x = F.interpolate(x, scale_factor=2, mode='nearest')")
        else:
            out = w.widths()
            groups = w.pick(1, 1, w.divisor(w.c))
            out = groups * max(1, out // groups)
            layer = w.layer(
                "up", f"nn.ConvTranspose{w.nd}({w.c}, {out}, 2, stride=2, groups={groups})"
            )
            w.run(f"x = {layer}(x)")
            w.c = out
        w.space = tuple(n * 2 for n in w.space)


@step(SPATIAL, weight=0.5)
def transposed(w: Writer, one: Step) -> None:
    groups = w.pick(1, w.divisor(w.c), w.c)
    out = groups * w.pick(1, 2)
    layer = w.layer("up", f"nn.ConvTranspose{w.nd}({w.c}, {out}, 3, padding=1, groups={groups})")
    w.run(f"x = {layer}(x)")
    w.c = out


@step(SPATIAL, weight=2)
def batch_norm(w: Writer, one: Step) -> None:
    affine = w.pick("", "", ", affine=False")
    kind = w.pick("BatchNorm", "BatchNorm", "BatchNorm", "InstanceNorm")
    if kind == "InstanceNorm":
        affine = w.pick("", ", affine=True", ", affine=True, track_running_stats=True")
    w.run(f"x = {w.layer('norm', f'nn.{kind}{w.nd}({w.c}{affine})')}(x)")


@step(("flat", "tokens"))
def batch_norm_1d(w: Writer, one: Step) -> None:
    layer = w.layer("norm", f"nn.BatchNorm1d({w.c})")
    if w.kind == "flat":
        w.run(f"x = {layer}(x)")
    else:
        w.run(f"x = {layer}(x.transpose(1, 2)).transpose(1, 2)")


@step(ALL, statistical=True, weight=2)
def norm(w: Writer, one: Step) -> None:
    """Layer, group and RMS norms over channels."""
    style = w.pick("layer", "group", "group", "rms", "hand", "l2")
    if style == "group" and w.kind != "tokens":
        groups = w.pick(1, 2, w.divisor(w.c), w.c)
        groups = groups if w.c % groups == 0 else 1
        if w.c // groups == 1 and w.kind == "flat":
            groups = 1
        layer = w.layer("norm", f"nn.GroupNorm({groups}, {w.c}, affine={w.chance(0.8)})")
        w.run(f"x = {layer}(x)")
    elif style == "l2":
        w.run(
            w.pick(
                f"x = F.normalize(x, dim={w.axis()})",
                f"x = x / (x.norm(dim={w.axis()}, keepdim=True) + 1e-6)",
            )
        )
    elif style == "hand":
        name = w.layer("scale", f"nn.Parameter(torch.ones({w.per_channel()}))")
        d = w.axis()
        w.run(f"x = x * torch.rsqrt(x.pow(2).mean({d}, keepdim=True) + 1e-6) * {name}")
    else:
        layer = w.layer("norm", f"nn.{'RMSNorm' if style == 'rms' else 'LayerNorm'}({w.c})")
        if w.dim == w.rank - 1:
            w.run(f"x = {layer}(x)")
        else:
            w.run(f"x = {layer}(x.movedim(1, -1)).movedim(-1, 1)")


@step(ALL, statistical=True)
def reduce(w: Writer, one: Step) -> None:
    """Over channels, broadcast back."""
    d = w.axis()
    w.run(
        w.pick(
            f"x = x * torch.sigmoid(x.mean({d}, keepdim=True))",
            f"x = x + x.sum({d}, keepdim=True)",
            f"x = x - x.amax({d}, keepdim=True)",
            f"x = x + x.max({d}, keepdim=True)[0]",
            f"x = x.softmax({d})",
            f"x = F.log_softmax(x, {d})",
            f"x = (x - x.mean({d}, keepdim=True)) / x.std({d}, keepdim=True)",
            f"x = x / x.abs().sum({d}, keepdim=True).clamp_min(1e-3)",
            f"x = x * x.logsumexp({d}, keepdim=True)",
        )
    )


@step(SPATIAL)
def squeeze_excite(w: Writer, one: Step) -> None:
    inner = w.pick(2, 3, 4)
    dims = list(range(2, w.rank))
    ones = ", 1" * len(dims)
    if w.chance(0.5):
        first = w.layer("fc", f"nn.Linear({w.c}, {inner})")
        second = w.layer("fc", f"nn.Linear({inner}, {w.c})")
        b = w.pick("x.shape[0]", "x.size(0)", "-1")
        c = w.size(w.c, w.channels(), *(["-1"] if b != "-1" else []))
        w.run(f"g = {second}(F.relu({first}(x.mean({dims}))))")
        w.run(
            w.pick(
                f"x = x * torch.sigmoid(g).view({b}, {c}{ones})",
                f"x = x * torch.sigmoid(g).view({b}, {c}{ones}).expand_as(x)",
                f"x = x * torch.sigmoid(g)[(...,) + (None,) * {len(dims)}]",
            )
        )
    else:
        first = w.layer("conv", f"nn.Conv{w.nd}({w.c}, {inner}, 1)")
        second = w.layer("conv", f"nn.Conv{w.nd}({inner}, {w.c}, 1)")
        pool = w.pick(f"x.mean({dims}, keepdim=True)", f"F.adaptive_avg_pool{w.nd}(x, 1)")
        w.run(f"x = x * F.hardsigmoid({second}(F.relu({first}({pool}))))")


@step(ALL)
def gate(w: Writer, one: Step) -> None:
    w.run(f"x = x * torch.sigmoid({w.point(w.c)}(x))")


@step(ALL)
def moved(w: Writer, one: Step) -> None:
    """Positions moved, over space or channels."""
    last = w.rank - 1
    space = 1 if w.kind == "tokens" else last
    d = w.pick(w.dim, space, space) if w.space else 1
    w.run(w.pick(f"x = x.flip({d})", f"x = torch.roll(x, 1, {d})", f"x = x.roll(-1, dims={d})"))


@step(SPATIAL)
def padded(w: Writer, one: Step) -> None:
    """Channels of zeros, as in parameter-free shortcuts."""
    more = w.pick(1, 2, w.c)
    zeros = "0, 0, " * len(w.space)
    w.run(f"x = F.pad(x, ({zeros}{w.pick(f'0, {more}', f'{more}, 0')}))")
    w.c += more


@step(ALL)
def scaled(w: Writer, one: Step) -> None:
    """A parameter or buffer by channel."""
    shape = w.per_channel()
    if w.chance(0.7):
        name = w.layer("scale", f"nn.Parameter(torch.ones({shape}))")
    else:
        name = f"self.{w.fresh('scale')}"
        w.init(f"self.register_buffer({name[5:]!r}, torch.ones({shape}))")
    w.run(f"x = x {w.pick('*', '+', '*')} {name}")


@step(ALL)
def shared(w: Writer, one: Step) -> None:
    """One module called twice, or one weight used by two."""
    layer = w.point(w.c, bias=True)
    w.run(f"x = F.relu({layer}(x))")
    if w.kind in ("flat", "tokens") and w.chance(0.4):
        w.run(f"x = F.linear(x, {layer}.weight{w.pick('', '.t()', '.T')})")
    else:
        w.run(f"x = {layer}(x)")


@step(ALL)
def tied(w: Writer, one: Step) -> None:
    first, second = w.point(w.c, bias=True), w.point(w.c, bias=True)
    w.init(f"{second}.weight = {first}.weight")
    w.run(f"x = {second}(torch.tanh({first}(x)))")


@step(ALL)
def weight_norm(w: Writer, one: Step) -> None:
    out = w.widths(16)
    if w.kind in ("flat", "tokens"):
        made = f"nn.Linear({w.c}, {out})"
    else:
        made = f"nn.Conv{w.nd}({w.c}, {out}, 3, padding=1)"
    dim = w.pick("", "", ", dim=None", ", dim=1")
    layer = w.layer("wn", f"torch.nn.utils.parametrizations.weight_norm({made}{dim})")
    w.run(f"x = {layer}(x)")
    w.c = out


@step(ALL)
def zero_state(w: Writer, one: Step) -> None:
    """A sum that starts from zeros of the right shape."""
    layer = w.point(w.c)
    n = w.size(w.c, w.channels())
    space = "".join(f", x.shape[{d}]" for d in range(2 if w.dim == 1 else 1, w.rank - (w.dim == 2)))
    shape = f"x.shape[0], {n}{space}" if w.dim == 1 else f"x.shape[0]{space}, {n}"
    w.run(
        w.pick(
            "h = torch.zeros_like(x)",
            f"h = x.new_zeros({shape})",
            f"h = torch.zeros({shape}, dtype=x.dtype)",
            f"h = torch.zeros(({shape}), dtype=x.dtype, device=x.device)",
            f"h = x.new_zeros(({shape}))",
        )
    )
    w.run(f"h = torch.tanh({layer}(x) + h)", f"x = {layer}(h) + h")


@step(ALL, weight=0.7)
def einsum(w: Writer, one: Step) -> None:
    out = w.widths(16)
    letters = "bchwd"[: w.rank] if w.dim == 1 else "bnc"
    name = w.layer("w", f"nn.Parameter(torch.ones({w.c}, {out}))")
    w.run(f"x = torch.einsum('{letters},co->{letters.replace('c', 'o')}', x, {name})")
    w.c = out


@step(ALL, weight=0.5)
def permuted(w: Writer, one: Step) -> None:
    """Channels in another order, or picked one by one."""
    order = list(range(w.c))
    w.rng.shuffle(order)
    name = f"self.{w.fresh('order')}"
    w.init(f"self.register_buffer({name[5:]!r}, torch.tensor({order}))")
    colons = ":, " if w.dim == 1 else "..., "
    w.run(w.pick(f"x = x[{colons}{name}]", f"x = x.index_select({w.axis()}, {name})"))


@step(ALL, weight=0.5)
def written(w: Writer, one: Step) -> None:
    """A part of the channels replaced, in place."""
    if w.c < 2:
        return
    n = w.rng.randint(1, w.c - 1)
    colons = ":, " if w.dim == 1 else "..., "
    size = w.size(n)
    w.run("x = x.clone()", f"x[{colons}:{size}] = x[{colons}:{size}] {w.pick('* 2', '+ 1', '* 0')}")
