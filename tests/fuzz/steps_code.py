"""Productions about how people write sizes: loops, shape arithmetic, functional weights."""

from __future__ import annotations

from grammar import ALL, CHANNEL_FIRST, Step, Writer, step


@step("tokens", weight=1.5)
def transposed_for_scores(w: Writer, one: Step) -> None:
    """Attention as the first BERT wrote it: shapes added as tuples."""
    heads, width = w.pick(2, 3), w.pick(2, 3, 4)
    inner = heads * width
    layers = [w.point(inner) for _ in range(3)]
    h, d = w.size(heads, f"{layers[0]}.out_features // {width}"), w.size(width)
    total = w.size(inner, f"{h} * {d}")
    w.run(f"shape = x.{w.pick('size()', 'shape')}[:-1] + ({h}, {d})")
    for name, layer in zip("qkv", layers, strict=True):
        w.run(f"{name} = {layer}(x).view({w.pick('*shape', 'shape')}).permute(0, 2, 1, 3)")
    w.run(
        w.pick(
            "a = torch.matmul(q, k.transpose(-1, -2)) / 1.7",
            f"a = (q / {width**0.5:.3f}) @ k.mT",
            f"a = torch.matmul(q, k.transpose(-1, -2)) / math.sqrt({w.layer('dim', str(width))})",
        )
    )
    if w.chance(0.3):
        w.run(
            "mask = torch.ones(a.shape[-2:], dtype=torch.bool).tril()",
            "a = a.masked_fill(~mask, float('-inf'))",
        )
    w.run(
        "y = (a.softmax(dim=-1) @ v).permute(0, 2, 1, 3).contiguous()",
        f"x = y.view(y.size()[:-2] + ({total},))",
        f"x = {w.layer('proj', f'nn.Linear({inner}, {w.c})')}(x)",
    )


@step(ALL)
def loop(w: Writer, one: Step) -> None:
    """Equal groups, one after the other."""
    groups = w.divisor(w.c, most=4)
    inner, out = w.c // groups, w.pick(2, 3, 4)
    c, w.c = w.c, inner
    layer = w.point(out)
    w.c = c
    n, d = w.size(groups), w.size(inner, f"{w.channels()} // {groups}")
    colons = ":, " if w.dim == 1 else "..., "
    w.run(
        "parts = []",
        f"for i in range({n}):",
        f"    parts.append({layer}(x[{colons}i * {d}:(i + 1) * {d}]))",
        f"x = torch.cat(parts, {w.axis()})",
    )
    w.c = groups * out


@step(ALL)
def several(w: Writer, one: Step) -> None:
    """A split by a list of sizes, each piece with its own scale."""
    if w.c < 4:
        return
    cuts = sorted(w.rng.sample(range(1, w.c), 2))
    sizes = [cuts[0], cuts[1] - cuts[0], w.c - cuts[1]]
    name = w.layer("sizes", f"{sizes}" if w.chance(0.5) else f"{tuple(sizes)}")
    w.run(
        f"a, b, c = x.split({w.pick(name, f'list({name})')}, dim={w.axis()})",
        f"x = torch.cat([{w.pick('c, a, b', 'a, b, c', 'b, c')}], dim={w.axis()})",
    )
    if "b, c]" in w.source.runs[-1] and "a, " not in w.source.runs[-1]:
        w.c -= sizes[0]


@step(ALL)
def condition(w: Writer, one: Step) -> None:
    """A decision on a size."""
    layer = w.point(w.c)
    n = w.size(w.c, literal=False)
    w.run(
        w.pick(
            f"if {w.channels()} == {n}:",
            f"if {w.channels()} > 2:",
            f"if {w.channels()} % 2 == {w.c % 2}:",
            f"if x.dim() == {w.rank}:",
            f"if {w.channels()} != {n} + 1:",
            f"if {n} in ({w.c}, {w.c + 1}):",
        ),
        f"    x = {layer}(x)",
    )


@step(ALL)
def number(w: Writer, one: Step) -> None:
    """The value of a size enters the computation."""
    c = w.pick(w.channels(), w.size(w.c, literal=False))
    w.run(
        w.pick(
            f"x = x / {c}",
            f"x = x * {c} ** -0.5",
            f"x = x / math.sqrt({c})",
            f"x = x + 1 / {c}",
            f"x = x * torch.tensor({c}, dtype=x.dtype).rsqrt()",
            f"x = torch.mul(x, {c})",
        )
    )


@step(ALL)
def repeated(w: Writer, one: Step) -> None:
    """Channels written several times."""
    if w.c > 24:
        return
    times, d = w.pick(2, 3), w.axis()
    n = w.size(times)
    ones = ["1"] * w.rank
    ones[w.dim] = n
    w.run(
        w.pick(
            f"x = x.repeat({', '.join(ones)})",
            f"x = torch.repeat_interleave(x, {n}, dim={d})",
            f"x = torch.cat([x] * {n}, {d})",
            f"x = x.repeat_interleave({n}, {d})",
        )
    )
    w.c *= times


@step(ALL)
def functional(w: Writer, one: Step) -> None:
    """Weights used outside the module that holds them."""
    out = w.widths(16)
    if w.kind in ("flat", "tokens"):
        name = w.layer("w", f"nn.Parameter(torch.ones({w.c}, {out}))")
        w.run(
            w.pick(
                f"x = x @ {name}",
                f"x = torch.matmul(x, {name})",
                f"x = F.linear(x, {name}.T)",
                f"x = F.linear(x, {name}.t().contiguous())",
                f"x = torch.tensordot(x, {name}, dims=1)",
                f"x = (x.unsqueeze(-1) * {name}).sum(-2)",
            )
        )
    else:
        layer = w.layer("conv", f"nn.Conv{w.nd}({w.c}, {out}, 1)")
        w.run(
            w.pick(
                f"y = F.linear(x.movedim(1, -1), {layer}.weight.flatten(1), {layer}.bias)",
                f"y = F.linear(x.movedim(1, -1), {layer}.weight.view({layer}.out_channels, -1))",
                f"y = x.movedim(1, -1) @ {layer}.weight.flatten(1).t()",
            ),
            "x = y.movedim(-1, 1)",
        )
    w.c = out


@step(CHANNEL_FIRST)
def functional_norm(w: Writer, one: Step) -> None:
    name = w.layer("bn", f"nn.BatchNorm{w.nd}({w.c})")
    w.run(
        f"bn = {name}",
        "x = F.batch_norm(x, bn.running_mean, bn.running_var, bn.weight, bn.bias, False)",
    )


@step(ALL, statistical=True)
def functional_layer_norm(w: Writer, one: Step) -> None:
    c = w.size(w.c, w.channels())
    name = w.layer("g", f"nn.Parameter(torch.ones({w.c}))")
    if w.dim == w.rank - 1:
        w.run(f"x = F.layer_norm(x, ({c},){w.pick('', f', {name}', f', weight={name}, eps=1e-3')})")
    else:
        w.run(
            f"x = F.group_norm(x, {w.pick('1', w.size(w.divisor(w.c)))}, {name})"
            if w.chance(0.5)
            else "x = F.layer_norm(x, x.shape[1:])"
        )


@step("tokens", weight=0.7)
def chosen_tokens(w: Writer, one: Step) -> None:
    """The best tokens first, by a learned score."""
    score = w.layer("score", f"nn.Linear({w.c}, 1)")
    c = w.size(w.c, "x.shape[-1]", "-1")
    w.run(
        f"order = {score}(x).squeeze(-1).argsort(1)",
        w.pick(
            f"x = x.gather(1, order[..., None].expand(-1, -1, {c if c != '-1' else 'x.shape[2]'}))",
            "x = torch.stack([t[o] for t, o in zip(x, order)])",
            "x = x[torch.arange(x.shape[0])[:, None], order]",
            "x = torch.take_along_dim(x, order.unsqueeze(-1), dim=1)",
        ),
    )


@step("tokens", weight=0.5)
def spectral(w: Writer, one: Step) -> None:
    w.run("x = torch.fft.irfft(torch.fft.rfft(x, dim=1) * 0.7, n=x.shape[1], dim=1) + x")


@step("tokens", weight=0.7)
def cumulative(w: Writer, one: Step) -> None:
    w.run(
        w.pick(
            "x = x.cumsum(1) * 0.3",
            "x = F.pad(x[:, :-1], (0, 0, 1, 0))",
            "x = x - x.roll(1, 1)",
            "x = x + F.avg_pool1d(x.mT, 3, 1, 1).mT",
            "x = torch.cat((x[:, 1:], x[:, :1]), 1)",
        )
    )


@step("image", weight=0.7)
def dynamic_conv(w: Writer, one: Step) -> None:
    """A depthwise kernel made from the input."""
    layer = w.layer("kernel", f"nn.Linear({w.c}, {w.c * 9})")
    w.run(
        "b, c, h, q = x.shape",
        f"k = {layer}(x.mean([2, 3])).view({w.pick('-1', 'b * c')}, 1, 3, 3)",
        "x = F.conv2d(x.reshape(1, b * c, h, q), k, padding=1, groups=b * c).view(b, c, h, q)",
    )


@step("image", statistical=True, weight=0.7)
def standardised(w: Writer, one: Step) -> None:
    """Weight standardisation, or a spectral norm."""
    out = w.widths(12)
    made = f"nn.Conv2d({w.c}, {out}, 3, padding=1)"
    if w.chance(0.3):
        w.run(f"x = {w.layer('sn', f'torch.nn.utils.parametrizations.spectral_norm({made})')}(x)")
    else:
        layer, n = w.layer("conv", made), w.size(out, "k.shape[0]")
        w.run(
            f"k = {layer}.weight",
            w.pick(
                "k = (k - k.mean((1, 2, 3), True)) / (k.std((1, 2, 3), keepdim=True) + 1e-5)",
                f"k = F.batch_norm(k.reshape(1, {n}, -1), None, None, training=True).view_as(k)",
            ),
            f"x = F.conv2d(x, k, {layer}.bias, padding=1)",
        )
    w.c = out


@step(ALL)
def checkpointed(w: Writer, one: Step) -> None:
    layer = w.point(w.c)
    call = "torch.utils.checkpoint.checkpoint"
    w.run(f"x = x + {call}({layer}, x, use_reentrant=False)")


@step(ALL)
def containers(w: Writer, one: Step) -> None:
    """Modules in lists and dictionaries, with a depth."""
    depth = w.pick(1, 2, 3)
    made = w.point(w.c).replace("self.", "")
    made = w.source.inits.pop().split(" = ", 1)[1]
    style = w.pick("sequential", "list", "dict")
    if style == "sequential":
        w.run(f"x = {w.layer('seq', f'nn.Sequential({made}, nn.ReLU(), {made})')}(x)")
    elif style == "list":
        n = w.layer("depth", str(depth))
        name = w.layer("layers", f"nn.ModuleList({made} for _ in range({n}))")
        w.run(f"for i in range({n}):", f"    x = torch.tanh({name}[i](x)) + x")
    else:
        name = w.layer("layers", f"nn.ModuleDict({{'a': {made}, 'b': {made}}})")
        w.run(f"for layer in {name}.values():", "    x = layer(x).relu()")


@step("tokens", weight=0.7)
def memory_keys(w: Writer, one: Step) -> None:
    """Learned keys and values beside the computed ones."""
    heads, width, extra = 2, w.pick(2, 3, 4), w.pick(1, 3)
    q, k, v = (w.point(heads * width) for _ in range(3))
    mk, mv = (
        w.layer("mem", f"nn.Parameter(torch.ones(1, {heads}, {extra}, {width}))") for _ in range(2)
    )
    h = w.size(heads)
    w.run(
        "b, n = x.shape[:2]",
        f"q, k, v = (f(x).view(b, n, {h}, -1).transpose(1, 2) for f in ({q}, {k}, {v}))",
        f"k, v = (torch.cat((m.expand(b, -1, -1, -1), t), 2) for m, t in (({mk}, k), ({mv}, v)))",
        "y = (q @ k.mT * 0.5).softmax(-1) @ v",
        "x = y.transpose(1, 2).flatten(2)",
    )
    w.c = heads * width


@step(("flat", "tokens"), weight=0.7)
def outer(w: Writer, one: Step) -> None:
    """An outer product of two short vectors."""
    a, b = w.pick(2, 3, 4), w.pick(2, 3, 4)
    first, second = w.point(a), w.point(b)
    w.run(
        f"y = {first}(x).unsqueeze(-1) * {second}(x).unsqueeze(-2)",
        w.pick("x = y.flatten(-2)", f"x = y.reshape(*x.shape[:-1], {w.size(a * b, '-1')})"),
    )
    w.c = a * b
