"""Productions after blocks of well-known networks."""

from __future__ import annotations

from grammar import ALL, CHANNEL_FIRST, Step, Writer, step


@step("image")
def inverted_residual(w: Writer, one: Step) -> None:
    """MobileNet and ConvNeXt blocks."""
    inner, c = w.c * w.pick(2, 3), w.c
    style = w.pick("mobile", "next")
    if style == "mobile":
        parts = [
            f"nn.Conv2d({c}, {inner}, 1, bias=False), nn.BatchNorm2d({inner}), nn.ReLU6()",
            f"nn.Conv2d({inner}, {inner}, 3, padding=1, groups={inner}, bias=False)",
            f"nn.BatchNorm2d({inner}), nn.Hardswish(), nn.Conv2d({inner}, {c}, 1)",
        ]
        made = ", ".join(parts)
        w.run(f"x = x + {w.layer('block', f'nn.Sequential({made})')}(x)")
        return
    deep = w.layer("dw", f"nn.Conv2d({c}, {c}, 3, padding=1, groups={c})")
    up, down = w.layer("fc", f"nn.Linear({c}, {inner})"), w.layer("fc", f"nn.Linear({inner}, {c})")
    gamma = w.layer("gamma", f"nn.Parameter(torch.ones({c}))")
    w.run(
        f"y = {deep}(x).permute(0, 2, 3, 1)",
        f"y = {gamma} * {down}(F.gelu({up}(y)))",
        "x = x + y.permute(0, 3, 1, 2)",
    )


@step(CHANNEL_FIRST)
def ghost(w: Writer, one: Step) -> None:
    """Half of the channels computed cheaply from the other half."""
    out = w.pick(4, 6, 8)
    first = w.layer("conv", f"nn.Conv{w.nd}({w.c}, {out}, 1)")
    cheap = w.layer("cheap", f"nn.Conv{w.nd}({out}, {out}, 3, padding=1, groups={out})")
    w.run(f"y = F.relu({first}(x))", f"x = torch.cat([y, {cheap}(y)], dim=1)")
    w.c = 2 * out


@step(CHANNEL_FIRST)
def res2net(w: Writer, one: Step) -> None:
    """Pieces that see the pieces before them."""
    width, scales = w.pick(2, 3, 4), w.pick(2, 3)
    first = w.layer("conv", f"nn.Conv{w.nd}({w.c}, {width * scales}, 1)")
    made = f"nn.Conv{w.nd}({width}, {width}, 3, padding=1)"
    convs = w.layer("convs", f"nn.ModuleList({made} for _ in range({scales - 1}))")
    n = w.size(width)
    w.run(
        f"parts = torch.split({first}(x), {n}, 1)",
        "out = [parts[0]]",
        f"for conv, part in zip({convs}, parts[1:]):",
        "    out.append(F.relu(conv(part + out[-1])))",
        "x = torch.cat(out, 1)",
    )
    w.c = width * scales


@step(CHANNEL_FIRST)
def reparameterised(w: Writer, one: Step) -> None:
    """Kernels added, padded or joined before they are used (RepVGG)."""
    out = w.pick(4, 6, 8)
    big = w.layer("conv", f"nn.Conv{w.nd}({w.c}, {out}, 3, padding=1)")
    small = w.layer("conv", f"nn.Conv{w.nd}({w.c}, {out}, 1)")
    ones = ", ".join(["1, 1"] * len(w.space))
    joined = w.chance(0.3)
    if joined:
        extra = w.layer("conv", f"nn.Conv{w.nd}({w.c}, {w.pick(2, 3)}, 3, padding=1, bias=False)")
        w.run(
            f"k = torch.cat([{big}.weight, {extra}.weight])", f"x = F.conv{w.nd}(x, k, padding=1)"
        )
        w.c = out + int(w.source.inits[-1].split(", ")[1])
        return
    w.run(
        f"k = {big}.weight + F.pad({small}.weight, ({ones}))",
        f"x = F.conv{w.nd}(x, k, {w.pick('None', f'{big}.bias + {small}.bias')}, padding=1)",
    )
    w.c = out


@step(("flat", "tokens"))
def low_rank(w: Writer, one: Step) -> None:
    """LoRA, or a weight that is a product."""
    rank, out = w.pick(2, 4), w.widths(12)
    a = w.layer("a", f"nn.Parameter(torch.ones({rank}, {w.c}))")
    b = w.layer("b", f"nn.Parameter(torch.ones({out}, {rank}))")
    r = w.size(rank, literal=False)
    if w.chance(0.5):
        w.run(f"x = {w.point(out)}(x) + F.linear(F.linear(x, {a}), {b}) * (2 / {r})")
    else:
        w.run(f"x = F.linear(x, {w.pick(f'{b} @ {a}', f'torch.mm({b}, {a})')})")
    w.c = out


@step("tokens")
def gated_cell(w: Writer, one: Step) -> None:
    """A recurrence written by hand: one matrix for all gates."""
    hidden, gates = w.pick(4, 6), w.pick(3, 4)
    inputs = w.layer("ih", f"nn.Linear({w.c}, {gates * hidden})")
    states = w.layer("hh", f"nn.Linear({hidden}, {gates * hidden}, bias=False)")
    n = w.size(hidden)
    made = w.pick(f"x.new_zeros(x.shape[0], {n})", f"torch.zeros(x.size(0), {n}, dtype=x.dtype)")
    names = "i, f, g, o" if gates == 4 else "i, f, g"
    split = w.pick(f"chunk({gates}, 1)", f"split({n}, dim=-1)", f"view(-1, {gates}, {n}).unbind(1)")
    w.run(
        f"h = {made}",
        f"c = {made}",
        "seen = []",
        "for t in range(x.shape[1]):",
        f"    {names} = ({inputs}(x[:, t]) + {states}(h)).{split}",
        "    c = torch.sigmoid(f) * c + torch.sigmoid(i) * torch.tanh(g)",
        f"    h = {'torch.sigmoid(o) * ' if gates == 4 else ''}torch.tanh(c)",
        "    seen.append(h)",
        "x = torch.stack(seen, dim=1)",
    )
    w.c = hidden


@step("tokens")
def selective_scan(w: Writer, one: Step) -> None:
    """Mamba, without its kernels."""
    inner, state, rank = w.pick(4, 6, 8), w.pick(2, 3), w.pick(2, 3)
    join = w.layer("in_proj", f"nn.Linear({w.c}, {2 * inner}, bias=False)")
    conv = w.layer("conv", f"nn.Conv1d({inner}, {inner}, 3, padding=2, groups={inner})")
    proj = w.layer("x_proj", f"nn.Linear({inner}, {rank + 2 * state}, bias=False)")
    step_size = w.layer("dt", f"nn.Linear({rank}, {inner})")
    a = w.layer("a_log", f"nn.Parameter(torch.ones({inner}, {state}))")
    d = w.layer("d", f"nn.Parameter(torch.ones({inner}))")
    out = w.layer("out_proj", f"nn.Linear({inner}, {w.c}, bias=False)")
    r, s, n = w.size(rank), w.size(state), w.size(inner, "u.shape[-1]")
    w.run(
        f"u, z = {join}(x).chunk(2, dim=-1)",
        f"u = F.silu({conv}(u.transpose(1, 2))[..., :x.shape[1]].transpose(1, 2))",
        f"dt, bb, cc = {proj}(u).split([{r}, {s}, {s}], dim=-1)",
        f"dt = F.softplus({step_size}(dt))",
        f"decay = torch.exp(dt.unsqueeze(-1) * -torch.exp({a} * 0.1))",
        "gain = dt.unsqueeze(-1) * bb.unsqueeze(2) * u.unsqueeze(-1)",
        f"h = torch.zeros(x.shape[0], {n}, {s}, dtype=x.dtype)",
        "seen = []",
        "for t in range(x.shape[1]):",
        "    h = decay[:, t] * h + gain[:, t]",
        "    seen.append(torch.einsum('bdn,bn->bd', h, cc[:, t]))",
        f"y = torch.stack(seen, 1) + u * {d}",
        f"x = {out}(y * F.silu(z))",
    )


@step("tokens")
def routed(w: Writer, one: Step) -> None:
    """A mixture of experts that picks tokens by their scores."""
    count, inner = w.pick(2, 3), w.pick(4, 6)
    up = w.layer("up", f"nn.Parameter(torch.ones({count}, {w.c}, {inner}))")
    down = w.layer("down", f"nn.Parameter(torch.ones({count}, {inner}, {w.c}))")
    gate = w.layer("gate", f"nn.Linear({w.c}, {count}, bias=False)")
    c = w.size(w.c, "x.shape[-1]")
    style = w.pick("bmm", "loop", "index")
    w.run(f"flat = x.reshape(-1, {c})", f"score, best = {gate}(flat).softmax(-1).max(-1)")
    if style == "bmm":
        w.run(
            f"y = torch.bmm(flat.unsqueeze(1), {up}[best]).relu()",
            f"y = torch.bmm(y, {down}[best]).squeeze(1) * score[:, None]",
        )
    elif style == "loop":
        w.run("y = torch.zeros_like(flat)", f"for e in range({count}):",
              "    mine = (best == e).unsqueeze(-1)",
              f"    part = (flat @ {up}[e]).relu() @ {down}[e]",
              "    y = y + torch.where(mine, part, 0.0)")  # fmt: skip
    else:
        w.run("y = torch.zeros_like(flat)", f"for e in range({count}):",
              "    rows = (best == e).nonzero().squeeze(-1)",
              f"    part = (flat[rows] @ {up}[e]).relu() @ {down}[e]",
              "    y = y.index_add(0, rows, part * score[rows, None])")  # fmt: skip
    w.run("x = x + y.view_as(x)")


@step("tokens", weight=1.5)
def rotary(w: Writer, one: Step) -> None:
    """Attention with interleaved or halved rotations, and a causal mask in a buffer."""
    heads, width = w.pick(1, 2, 3), w.pick(2, 4)
    inner, n = heads * width, w.space[0]
    q, k, v = (w.point(inner) for _ in range(3))
    cos, sin = w.fresh("cos"), w.fresh("sin")
    for name, value in ((cos, 0.8), (sin, 0.6)):
        w.init(f"self.register_buffer('{name}', torch.full(({n}, {width // 2}), {value}))")
    h, d = w.size(heads), w.size(width)
    w.run("b, n = x.shape[:2]")
    w.run(f"layers = {q}, {k}, {v}")
    w.run(f"q, k, v = (f(x).view(b, n, {h}, {d}).transpose(1, 2) for f in layers)")
    if w.chance(0.5):
        w.run("q1, q2 = q[..., ::2], q[..., 1::2]", "k1, k2 = k[..., ::2], k[..., 1::2]")
        join = "torch.stack((a, b_), -1).flatten(-2)"
    else:
        w.run("q1, q2 = q.chunk(2, -1)", "k1, k2 = k.chunk(2, -1)")
        join = "torch.cat((a, b_), -1)"
    for name in "qk":
        w.run(
            f"a = {name}1 * self.{cos}[:n] - {name}2 * self.{sin}[:n]",
            f"b_ = {name}1 * self.{sin}[:n] + {name}2 * self.{cos}[:n]",
            f"{name} = {join}",
        )
    w.run(
        "s = (q @ k.mT) * 0.4", "y = s.softmax(-1) @ v", "x = y.transpose(1, 2).reshape(b, n, -1)"
    )
    w.c = inner


@step("tokens", weight=0.7)
def linear_attention(w: Writer, one: Step) -> None:
    """Keys and values are contracted over positions first."""
    heads, width = w.pick(1, 2), w.pick(2, 3, 4)
    inner = heads * width
    qkv = w.layer("qkv", f"nn.Linear({w.c}, {3 * inner})")
    h = w.size(heads)
    w.run(
        f"q, k, v = {qkv}(x).chunk(3, -1)",
        f"q, k, v = (t.unflatten(-1, ({h}, -1)).transpose(1, 2) for t in (q, k, v))",
        w.pick("kv = k.mT @ v", "kv = torch.einsum('bhnd,bhne->bhde', k, v)"),
        w.pick("y = q @ kv * 0.2", "y = torch.einsum('bhnd,bhde->bhne', q, kv) * 0.2"),
        "x = y.transpose(1, 2).flatten(2)",
    )
    w.c = inner


@step("tokens", weight=0.7)
def decoder_layer(w: Writer, one: Step) -> None:
    """Attention to a memory made of the same tokens, in PyTorch's own module or by hand."""
    memory = w.pick(4, 6, 8)
    source, q = w.layer("fc", f"nn.Linear({w.c}, {memory})"), w.point(8)
    kv = w.layer("kv", f"nn.Linear({memory}, 16)")
    h = w.size(2)
    w.run(
        f"m = {source}(x).relu()",
        "b, n = x.shape[:2]",
        f"k, v = {kv}(m).view(b, -1, 2, {h}, 4).permute(2, 0, 3, 1, 4)",
        f"q = {q}(x).view(b, n, {h}, 4).transpose(1, 2)",
        "y = F.scaled_dot_product_attention(q, k, v)",
        "x = y.transpose(1, 2).flatten(2)",
    )
    w.c = 8


@step("tokens", weight=0.7)
def spatial_gating(w: Writer, one: Step) -> None:
    """gMLP: half of the channels gate the other half through a mix over positions."""
    n, inner = w.space[0], w.pick(4, 6)
    up, mix = w.point(2 * inner), w.layer("mix", f"nn.Conv1d({n}, {n}, 1)")
    w.run(f"u, v = {up}(x).chunk(2, dim=-1)", f"x = u * {mix}(v)")
    w.c = inner


@step(("flat", "tokens"), weight=0.7)
def splines(w: Writer, one: Step) -> None:
    """Every channel in a few basis functions (KAN)."""
    out = w.widths(8)
    name = w.layer("coefficients", f"nn.Parameter(torch.ones({out}, {w.c}, 3))")
    lead = "b" if w.kind == "flat" else "bn"
    w.run("y = torch.stack([x, x.sin(), x.square() * 0.3], -1)")
    w.run(w.pick(f"x = torch.einsum('{lead}ck,ock->{lead}o', y, {name})",
                 f"x = F.linear(y.flatten(-2), {name}.flatten(1))"))  # fmt: skip
    w.c = out


@step(ALL, weight=0.7)
def pairs(w: Writer, one: Step) -> None:
    """Every second channel."""
    if w.c % 2:
        return
    at = ":, {}" if w.dim == 1 else "..., {}"
    even, odd = at.format("0::2"), at.format("1::2")
    if w.chance(0.5):
        w.run(f"x = x[{even}] {w.pick('+', '*')} x[{odd}]")
        w.c //= 2
    else:
        w.run(f"x = torch.stack((x[{even}], -x[{odd}]), {w.dim + 1}).flatten({w.dim}, {w.dim + 1})")


@step(ALL)
def last_ones(w: Writer, one: Step) -> None:
    """Slices counted from the end."""
    if w.c < 3:
        return
    n = w.size(w.rng.randint(1, w.c - 1))
    at = ":, " if w.dim == 1 else "..., "
    w.run(f"a, b = x[{at}-{n}:], x[{at}:-{n}]", f"x = torch.cat([a, b], {w.axis()})")


@step("image", weight=0.7)
def involution(w: Writer, one: Step) -> None:
    """A kernel for every position, shared by the channels of a group."""
    groups = w.divisor(w.c, most=4)
    kernel = w.layer("kernel", f"nn.Conv2d({w.c}, {groups * 9}, 1)")
    g, c = w.size(groups), w.size(w.c // groups, "-1")
    w.run(
        "b, _, h, q = x.shape",
        f"k = {kernel}(x).view(b, {g}, 1, 9, h, q)",
        f"u = F.unfold(x, 3, padding=1).view(b, {g}, {c}, 9, h, q)",
        "x = (k * u).sum(3).flatten(1, 2)",
    )


@step(CHANNEL_FIRST, weight=0.7)
def resized_skip(w: Writer, one: Step) -> None:
    """Down and up again, joined with what came before (U-Net)."""
    if any(n % 2 or n == 2 for n in w.space) or w.nd == "3d":
        return
    inner = w.pick(4, 6, 8)
    down = w.layer("down", f"nn.Conv{w.nd}({w.c}, {inner}, 3, stride=2, padding=1)")
    up = w.pick(
        w.layer("up", f"nn.ConvTranspose{w.nd}({inner}, {inner}, 2, stride=2)") + "(y)",
        "F.interpolate(y, size=x.shape[2:])", "F.interpolate(y, scale_factor=2.0)",
    )  # fmt: skip
    w.run(f"y = F.relu({down}(x))", f"x = torch.cat([x, {up}], dim=1)")
    w.c += inner
