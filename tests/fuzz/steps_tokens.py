"""Productions on tokens: attention in many hands, recurrences, mixers, experts."""

from __future__ import annotations

from grammar import Step, Writer, step


def _heads(w: Writer, inner: int, heads: int) -> tuple[str, str]:
    """Expressions for the number of heads and their width."""
    if w.chance(0.6):
        h = w.size(heads)
        d = w.size(inner // heads, f"self.inner_{w.count} // {h}", literal=w.chance(0.3))
    else:
        d = w.size(inner // heads)
        h = w.size(heads, f"self.inner_{w.count} // {d}", literal=w.chance(0.3))
    for text in (h, d):
        for word in text.split():
            if word.startswith("self.inner_"):
                w.init(f"{word} = {inner}")
    if w.chance(0.25):
        d = "-1"
    elif w.chance(0.2):
        h = "-1"
    return h, d


def _scale(w: Writer, inner: int, heads: int) -> str:
    width = inner // heads
    return str(
        w.pick(
            f"{width**-0.5:.4f}",
            "q.shape[-1] ** -0.5",
            w.layer("scale", f"{width} ** -0.5"),
            f"{w.layer('dim', str(width))} ** -0.5",
            "0.3",
        )
    )


@step("tokens", weight=3)
def attention(w: Writer, one: Step) -> None:
    """Multi-head attention by hand."""
    heads = w.pick(1, 2, 2, 3, 4)
    width = w.pick(2, 3, 4, 6)
    inner = heads * width
    if w.c % heads == 0 and w.chance(0.6):
        inner, width = w.c, w.c // heads
    h, d = _heads(w, inner, heads)
    w.run("b, n = x.shape[0], x.shape[1]")
    if w.chance(0.5):
        qkv = w.layer("qkv", f"nn.Linear({w.c}, {3 * inner}, bias={w.chance(0.7)})")
        style = w.pick("five", "five", "chunk", "split", "slice")
        if style == "five":
            w.run(
                f"qkv = {qkv}(x).{w.pick('view', 'reshape')}(b, n, 3, {h}, {d})",
                "qkv = qkv.permute(2, 0, 3, 1, 4)",
                w.pick(
                    "q, k, v = qkv.unbind(0)", "q, k, v = qkv[0], qkv[1], qkv[2]", "q, k, v = qkv"
                ),
            )
        else:
            s = w.size(inner, "y.shape[-1] // 3")
            w.run(
                f"y = {qkv}(x)",
                {
                    "chunk": "q, k, v = y.chunk(3, dim=-1)",
                    "split": f"q, k, v = y.split({s}, dim=2)",
                    "slice": f"q, k, v = y[..., :{s}], y[..., {s}:2 * {s}], y[..., 2 * {s}:]",
                }[style],
            )
            w.run(f"q, k, v = (t.view(b, n, {h}, {d}).transpose(1, 2) for t in (q, k, v))")
    else:
        layers = [w.point(inner) for _ in range(3)]
        view = w.pick(
            f"view(b, n, {h}, {d}).transpose(1, 2)",
            f"unflatten(-1, ({h}, {d})).permute(0, 2, 1, 3)",
        )
        w.run(*[f"{name} = {layer}(x).{view}" for name, layer in zip("qkv", layers, strict=True)])
    if w.chance(0.2):
        _rotate(w, width)
    _attend(w, inner, heads)
    w.run(f"x = {w.layer('proj', f'nn.Linear({inner}, {w.c})')}(x)")


def _rotate(w: Writer, width: int) -> None:
    """Halves of the head dimension, as in rotary embeddings."""
    if width % 2 == 0:
        w.run(
            "m = q.shape[-1] // 2",
            w.pick("q1, q2 = q.chunk(2, -1)", "q1, q2 = q[..., :m], q[..., m:]"),
            "q = q * 0.8 + torch.cat((-q2, q1), -1) * 0.6",
        )


def _attend(w: Writer, inner: int, heads: int) -> None:
    """From q, k, v [b, h, n, d] to x [b, n, inner]."""
    style = w.pick("matmul", "matmul", "fused", "einsum", "bmm")
    if style == "fused":
        extra = w.pick("", ", is_causal=True", ", scale=0.4")
        w.run(f"y = F.scaled_dot_product_attention(q, k, v{extra})")
    elif style == "einsum":
        w.run(
            f"a = torch.einsum('bhid,bhjd->bhij', q, k) * {_scale(w, inner, heads)}",
            "y = torch.einsum('bhij,bhjd->bhid', a.softmax(-1), v)",
        )
    elif style == "bmm":
        h, d = "q.shape[1]", "q.shape[-1]"
        w.run(
            f"h, d = {h}, {d}",
            "q, k, v = (t.reshape(-1, t.shape[2], t.shape[3]) for t in (q, k, v))",
            f"a = torch.bmm(q, k.transpose(1, 2)) * {_scale(w, inner, heads)}",
            "y = torch.bmm(a.softmax(-1), v).view(b, h, n, d)",
        )
    else:
        w.run(f"a = q @ k.{w.pick('transpose(-2, -1)', 'mT')} * {_scale(w, inner, heads)}")
        if w.chance(0.3):
            bias = w.layer("bias", f"nn.Parameter(torch.ones({heads}, 1, 1))")
            w.run(f"a = a + {bias}")
        if w.chance(0.15):
            talk = w.layer("talk", f"nn.Linear({heads}, {heads})")
            w.run(f"a = {talk}(a.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)")
        w.run("y = F.dropout(a.softmax(-1), 0.1, self.training) @ v")
    w.run(
        w.pick(
            "x = y.transpose(1, 2).flatten(2)",
            "x = y.transpose(1, 2).reshape(b, n, -1)",
            f"x = y.transpose(1, 2).reshape(b, n, {w.size(inner, 'y.shape[1] * y.shape[3]')})",
            f"x = y.permute(0, 2, 1, 3).contiguous().view(b, n, {w.size(inner)})",
            *(["x = y.transpose(1, 2).reshape(x.shape)"] if inner == w.c else []),
        )
    )


@step("tokens", weight=1.5)
def grouped_query(w: Writer, one: Step) -> None:
    """Fewer key heads than query heads."""
    kv, share, width = w.pick(1, 2, 2, 3), w.pick(2, 3), w.pick(2, 3, 4)
    q = w.point(kv * share * width)
    k, v = w.point(kv * width), w.point(kv * width)
    heads, kvs, d = w.size(kv * share), w.size(kv), w.size(width)
    rep = w.size(share, f"{heads} // {kvs}")
    w.run(
        "b, n = x.shape[0], x.shape[1]",
        f"q = {q}(x).view(b, n, {w.pick(heads, '-1')}, {d}).transpose(1, 2)",
        f"k = {k}(x).view(b, n, {w.pick(kvs, '-1')}, {d}).transpose(1, 2)",
        f"v = {v}(x).view(b, n, {w.pick(kvs, '-1')}, {d}).transpose(1, 2)",
    )
    style = w.pick("interleave", "expand", "enable", "five")
    if style == "five":
        w.run(
            f"q = q.view(b, {kvs}, {rep}, n, {d})",
            "a = (q @ k.unsqueeze(2).mT * 0.4).softmax(-1)",
            "y = (a @ v.unsqueeze(2)).flatten(1, 2)",
        )
    else:
        if style == "interleave":
            w.run(f"k, v = k.repeat_interleave({rep}, dim=1), v.repeat_interleave({rep}, 1)")
        elif style == "expand":
            w.run(
                f"k = k[:, :, None].expand(b, {kvs}, {rep}, n, {d}).reshape(b, {heads}, n, {d})",
                f"v = v[:, :, None].expand(-1, -1, {rep}, -1, -1).reshape(b, {heads}, n, {d})",
            )
        extra = ", enable_gqa=True" if style == "enable" else ""
        w.run(f"y = F.scaled_dot_product_attention(q, k, v{extra}, scale=0.4)")
    total = kv * share * width
    w.run(f"x = y.transpose(1, 2).reshape(b, n, {w.size(total, '-1')})")
    w.run(f"x = {w.layer('proj', f'nn.Linear({total}, {w.c})')}(x)")


@step("tokens", weight=1.5)
def module_attention(w: Writer, one: Step) -> None:
    """nn.MultiheadAttention on itself or on a memory."""
    heads = w.divisor(w.c, most=4)
    memory = w.chance(0.3)
    kdim = w.pick(4, 6) if memory else w.c
    extra = f", kdim={kdim}, vdim={kdim}" if memory else ""
    layer = w.layer("mha", f"nn.MultiheadAttention({w.c}, {heads}, batch_first=True{extra})")
    if memory:
        source = w.layer("fc", f"nn.Linear({w.c}, {kdim})")
        w.run(f"m = {source}(x)", f"x = {layer}(x, m, m, need_weights={w.chance(0.5)})[0]")
    else:
        w.run(f"x, _ = {layer}(x, x, x, need_weights={w.chance(0.5)})")


@step("tokens", statistical=True)
def encoder_layer(w: Writer, one: Step) -> None:
    heads = w.divisor(w.c, most=4)
    options = f"dim_feedforward={w.widths()}, batch_first=True, norm_first={w.chance(0.5)}"
    w.run(f"x = {w.layer('enc', f'nn.TransformerEncoderLayer({w.c}, {heads}, {options})')}(x)")


@step("tokens", weight=2)
def recurrent(w: Writer, one: Step) -> None:
    """LSTM, GRU, RNN in all their options."""
    kind = w.pick("LSTM", "LSTM", "GRU", "GRU", "RNN")
    hidden, layers, both = w.pick(4, 6, 8), w.pick(1, 1, 2), w.chance(0.3)
    proj = w.pick(2, 3) if kind == "LSTM" and w.chance(0.3) else 0
    options = f", batch_first=True, num_layers={layers}, bidirectional={both}"
    options += f", proj_size={proj}" if proj else ""
    layer = w.layer("rnn", f"nn.{kind}({w.c}, {hidden}{options})")
    directions, out = 1 + both, proj or hidden
    state = ""
    if w.chance(0.4):
        style = w.pick("zeros", "learned")
        if style == "zeros":
            n = w.size(hidden, f"{layer}.hidden_size")
            made = f"torch.zeros({layers * directions}, x.shape[0], {{}}, dtype=x.dtype)"
            sizes = [w.size(out) if proj else n, n]
            states = [made.format(size) for size in sizes]
        else:
            names = [
                w.layer("h0", f"nn.Parameter(torch.ones({layers * directions}, 1, {size}))")
                for size in ((out, hidden) if kind == "LSTM" else (out,))
            ]
            states = [f"{name}.expand(-1, x.shape[0], -1).contiguous()" for name in names]
        state = f", ({', '.join(states)})" if kind == "LSTM" else f", {states[0]}"
    w.run(f"y, last = {layer}(x{state})")
    if w.chance(0.4):
        h = "last[0]" if kind == "LSTM" else "last"
        scale = w.layer("fc", f"nn.Linear({out}, {directions * out})")
        w.run(f"y = y * torch.sigmoid({scale}({h}[-1]))[:, None]")
    w.run("x = y")
    w.c = directions * out


@step("tokens", weight=0.7)
def cells(w: Writer, one: Step) -> None:
    """A loop over time by hand."""
    kind, hidden = w.pick("LSTM", "GRU", "RNN"), w.pick(4, 6, 8)
    cell = w.layer("cell", f"nn.{kind}Cell({w.c}, {hidden})")
    n = w.size(hidden, f"{cell}.hidden_size")
    w.run(
        f"h = x.new_zeros(x.shape[0], {n})",
        "c = torch.zeros_like(h)",
        "out = []",
        "for t in range(x.shape[1]):",
    )
    if kind == "LSTM":
        w.run(f"    h, c = {cell}(x[:, t], (h, c))")
    else:
        w.run(f"    h = {cell}(x[:, t], h)")
    w.run("    out.append(h)", "x = torch.stack(out, 1)")
    w.c = hidden


@step("tokens", weight=2)
def mlp(w: Writer, one: Step) -> None:
    inner = w.widths()
    style = w.pick("plain", "swiglu", "chunk", "conv")
    if style == "conv":
        up, down = f"nn.Conv1d({w.c}, {inner}, 1)", f"nn.Conv1d({inner}, {w.c}, 1)"
        w.run(f"x = {w.layer('mlp', f'nn.Sequential({up}, nn.GELU(), {down})')}(x.mT).mT")
        return
    down = w.layer("down", f"nn.Linear({inner}, {w.c})")
    if style == "chunk":
        up = w.layer("up", f"nn.Linear({w.c}, {2 * inner})")
        w.run(f"a, g = {up}(x).chunk(2, -1)", f"x = {down}(a * F.silu(g))")
    else:
        up, gate = w.point(inner), w.point(inner)
        w.run(f"x = {down}(F.gelu({up}(x)){f' * {gate}(x)' if style == 'swiglu' else ''})")


@step("tokens", weight=0.7)
def mixer(w: Writer, one: Step) -> None:
    """A dense layer over positions."""
    n = w.space[0]
    w.run(f"x = {w.layer('mix', f'nn.Linear({n}, {n})')}(x.transpose(1, 2)).transpose(1, 2)")


@step("tokens")
def positions(w: Writer, one: Step) -> None:
    n = w.space[0]
    if w.chance(0.5):
        w.run(f"x = x + {w.layer('pos', f'nn.Parameter(torch.ones(1, {n}, {w.c}))')}")
    else:
        table = w.layer("pos", f"nn.Embedding({n + 3}, {w.c})")
        w.run(f"x = x + {table}(torch.arange(x.shape[1]))")


@step("tokens", keeps=False, weight=0.7)
def class_token(w: Writer, one: Step) -> None:
    token = w.layer("cls", f"nn.Parameter(torch.ones(1, 1, {w.c}))")
    w.run(
        w.pick(
            f"x = torch.cat([{token}.expand(x.shape[0], -1, -1), x], 1)",
            f"x = torch.cat([{token}.repeat(x.shape[0], 1, 1), x], dim=1)",
            f"x = torch.cat([{token}.expand(x.shape[0], 1, {w.size(w.c, 'x.shape[2]')}), x], 1)",
        )
    )
    w.space = (w.space[0] + 1,)


@step("tokens")
def experts(w: Writer, one: Step) -> None:
    """A soft mixture."""
    count, out = w.pick(2, 3), w.widths(12)
    name = w.layer("experts", f"nn.ModuleList(nn.Linear({w.c}, {out}) for _ in range({count}))")
    router = w.layer("router", f"nn.Linear({w.c}, {count})")
    w.run(f"g = {router}(x).softmax(-1)")
    if w.chance(0.5):
        w.run(f"y = torch.stack([e(x) for e in {name}], -2)", "x = (y * g.unsqueeze(-1)).sum(-2)")
    else:
        w.run(f"x = sum(g[..., i, None] * e(x) for i, e in enumerate({name}))")
    w.c = out


@step("tokens", statistical=True, weight=0.7)
def channel_attention(w: Writer, one: Step) -> None:
    """Attention among channels of a head (XCiT)."""
    heads = w.divisor(w.c, most=4)
    qkv = w.layer("qkv", f"nn.Linear({w.c}, {3 * w.c})")
    h, d = w.size(heads), w.size(w.c // heads, "-1")
    w.run(
        "b, n, c = x.shape",
        f"q, k, v = {qkv}(x).reshape(b, n, 3, {h}, {d}).permute(2, 0, 3, 4, 1)",
        "a = (F.normalize(q, dim=-1) @ F.normalize(k, dim=-1).mT).softmax(-1)",
        "x = (a @ v).permute(0, 3, 1, 2).reshape(b, n, c)",
    )


@step("tokens", weight=0.7)
def windows(w: Writer, one: Step) -> None:
    """Tokens in windows, mixed inside."""
    n = w.space[0]
    size = w.divisor(n, most=4)
    mix = w.layer("mix", f"nn.Linear({w.c}, {w.c})")
    s, c = w.size(size), w.size(w.c, "x.shape[2]")
    w.run(
        "b, n = x.shape[:2]",
        f"y = x.view(b, n // {s}, {s}, {c}).reshape(-1, {s}, {c})",
        f"y = {mix}(y) + y.mean(1, keepdim=True)",
        f"x = y.view(b, n // {s}, {s}, {c}).reshape(b, n, {c})",
    )
