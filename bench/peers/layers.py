"""Everything else that is one layer: products by cuBLAS, LoRA by PEFT and by hand, norms, activations, loss, AdamW."""
from common import Inputs, difference


def linear(torch, item, inputs):
    """As bench/gpu/operators.ts has it: an x for each width, a dy for each."""
    m, xs, dys, parts = item["m"], {}, {}, []
    for i, (n, k) in enumerate(item["layers"]):
        w = inputs.normal(["w", "w1", "w2", "w3", "w4", "w5", "w6"][i], [n, k], k**-0.5)
        if k not in xs:
            xs[k] = inputs.normal("up" if xs else "x", [m, k])
        if n not in dys:
            dys[n] = inputs.normal("v" if dys else "dy", [m, n])
        parts.append((w, xs[k], dys[n]))
    return {"forward": lambda: [x @ w.t() for w, x, _ in parts], "backward": lambda: [dy @ w for w, _, dy in parts]}


def with_autograd(torch, run, leaves, dy):
    """A module's passes; backward is both of them, its own time the difference."""
    grads = lambda: torch.autograd.grad(run(), leaves, dy)

    def forward():
        with torch.no_grad():
            y = run()
        return list(y) if isinstance(y, (list, tuple)) else [y]

    return {"forward": forward, "both": lambda: list(grads())}


def lora_weights(item, inputs, names):
    m, n, k, r = (item[key] for key in ("m", "n", "k", "rank"))
    w, a, b = names
    return inputs.normal(w, [n, k], k**-0.5), inputs.normal(a, [r, k], k**-0.5, "float32"), inputs.normal(b, [n, r], r**-0.5, "float32")


def peft_layers(torch, item, inputs):
    """PEFT's own layers around Linear, A and B float32 as it keeps them beside bfloat16 weights."""
    from peft import LoraConfig, get_peft_model

    m, n, k, r = (item[key] for key in ("m", "n", "k", "rank"))
    names = {"q": ("w", "a", "b"), "v": ("w2", "a2", "b2")} if item["kind"] == "qkv" else {"q": ("w", "a", "b")}

    class Block(torch.nn.Module):
        def __init__(self):
            super().__init__()
            for part in ("q", "k", "v") if item["kind"] == "qkv" else ("q",):
                setattr(self, part, torch.nn.Linear(k, n, bias=False, device=inputs.device, dtype=torch.bfloat16))

        def forward(self, x):
            return [getattr(self, part)(x) for part in ("q", "k", "v") if hasattr(self, part)]

    model = get_peft_model(Block(), LoraConfig(r=r, lora_alpha=r, lora_dropout=0.0, target_modules=list(names), bias="none"))
    block = model.base_model.model
    with torch.no_grad():
        for part, streams in names.items():
            w, a, b = lora_weights(item, inputs, streams)
            layer = getattr(block, part)
            layer.base_layer.weight.copy_(w)
            layer.lora_A["default"].weight.copy_(a)
            layer.lora_B["default"].weight.copy_(b)
        if item["kind"] == "qkv":
            block.k.weight.copy_(inputs.normal("w1", [n, k], k**-0.5))
    x = inputs.normal("x", [m, k]).requires_grad_()
    trained = [getattr(block, part) for part in names]
    leaves = [x] + [p for layer in trained for p in (layer.lora_A["default"].weight, layer.lora_B["default"].weight)]
    return with_autograd(torch, lambda: block(x), leaves, dys(item, inputs))


def hand_lora(torch, item, inputs):
    """The same with addmm and bfloat16 throughout: the least that PyTorch can launch."""
    m, n, k = item["m"], item["n"], item["k"]
    x = inputs.normal("x", [m, k]).requires_grad_()
    low = [lora_weights(item, inputs, streams) for streams in ([("w", "a", "b"), ("w2", "a2", "b2")] if item["kind"] == "qkv" else [("w", "a", "b")])]
    low = [(w, a.bfloat16().requires_grad_(), b.bfloat16().requires_grad_()) for w, a, b in low]
    part = lambda w, a, b: torch.addmm(x @ w.t(), x @ a.t(), b.t())
    if item["kind"] == "qkv":
        key = inputs.normal("w1", [n, k], k**-0.5)
        run = lambda: [part(*low[0]), x @ key.t(), part(*low[1])]
    else:
        run = lambda: [part(*low[0])]
    return with_autograd(torch, run, [x] + [t for _, a, b in low for t in (a, b)], dys(item, inputs))


def dys(item, inputs):
    shape = [item["m"], item["n"]]
    return [inputs.normal(name, shape) for name in ("q", "k", "v")] if item["kind"] == "qkv" else [inputs.normal("dy", shape)]


def functional(torch, item, inputs):
    F, kind = torch.nn.functional, item["kind"]
    rows, width = item["rows"], item["width"]
    x = inputs.normal("x", [rows, width]).requires_grad_()
    if kind == "cross_entropy":
        labels = torch.arange(rows, device=inputs.device) * 7919 % width
        return with_autograd(torch, lambda: F.cross_entropy(x.float(), labels), [x], torch.ones((), device=inputs.device))
    dy = inputs.normal("dy", [rows, width])
    if kind == "gelu":
        return with_autograd(torch, lambda: F.gelu(x), [x], dy)
    if kind == "silu_mul":
        up = inputs.normal("up", [rows, width]).requires_grad_()
        return with_autograd(torch, lambda: F.silu(x) * up, [x, up], dy)
    w, bias = (inputs.normal(name, [width], 1.0, "float32").bfloat16() for name in ("w", "bias"))
    if kind == "layernorm":
        w, bias = w.requires_grad_(), bias.requires_grad_()
        return {k: (lambda f=f: f()[:1]) for k, f in with_autograd(torch, lambda: F.layer_norm(x, [width], w, bias, 1e-6), [x, w, bias], dy).items()}
    return with_autograd(torch, lambda: F.rms_norm(x, [width], w, 1e-6), [x], dy)


def vit(torch, item, inputs):
    F = torch.nn.functional
    frames, tokens, heads, d, mlp = (item[key] for key in ("frames", "tokens", "heads", "d", "mlp"))
    D, rows = heads * d, frames * tokens
    w, w1, w2, w3 = inputs.normal("w", [3 * D, D], D**-0.5), inputs.normal("w1", [D, D], D**-0.5), inputs.normal("w2", [mlp, D], D**-0.5), inputs.normal("w3", [D, mlp], mlp**-0.5)
    x = inputs.normal("x", [rows, D])

    def forward():
        with torch.no_grad():
            q, k, v = F.linear(F.layer_norm(x, [D], eps=1e-6), w).view(frames, tokens, 3, heads, d).permute(2, 0, 3, 1, 4)
            mid = x + F.linear(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(rows, D), w1)
            return [mid + F.linear(F.gelu(F.linear(F.layer_norm(mid, [D], eps=1e-6), w2)), w3)]

    return {"forward": forward}


def adamw(torch, item, inputs):
    w = inputs.normal("w", [item["n"]], 1.0, "float32").clone().requires_grad_()
    w.grad = inputs.normal("x", [item["n"]], 1.0, "float32")
    device = inputs.device
    optimizer = torch.optim.AdamW([w], lr=1e-4, betas=(0.9, 0.95), eps=1e-8, weight_decay=0.05, fused=True, **({"capturable": True} if device == "cuda" else {}))
    return {"forward": lambda: optimizer.step() and []}


def swap(torch, item, inputs):
    x = inputs.normal("x", item["shape"])
    return {"forward": lambda: [x.transpose(1, 2).contiguous()]}


KINDS = {
    "linear": [("cublas", linear)], "lora": [("peft", peft_layers), ("addmm", hand_lora)], "qkv": [("peft", peft_layers), ("addmm", hand_lora)], "vit": [("torch", vit)],
    "adamw": [("torch fused", adamw)], "swap": [("permute + contiguous", swap)], **{kind: [("torch", functional)] for kind in ("layernorm", "rmsnorm", "gelu", "silu_mul", "cross_entropy")},
}


def run(bench, items):
    for item in items:
        for name, make in KINDS.get(item["kind"], []):
            measure(bench, item, name, make)
        if bench.device == "cuda":
            bench.torch.cuda.empty_cache()


def measure(bench, item, name, make):
    torch, state = bench.torch, {}

    def sets():
        """Built by the first row that needs them, so that what fails there is that row's."""
        if "sets" not in state:
            inputs, made = Inputs(torch, item, bench.device), []
            made.append(make(torch, item, inputs))
            count = 2 if bench.quick else min(400, max(4 if inputs.bytes > 64e6 else 20, int(80e6 / inputs.bytes) + 1))
            while len(made) < count:
                inputs.next()
                made.append(make(torch, item, inputs))
            state["sets"] = made
        return state["sets"]

    for mode in ("graph", "eager"):
        timed = bench.graph if mode == "graph" else bench.eager

        def ahead(timed=timed, mode=mode):
            calls = [s["forward"] for s in sets()]
            digest = bench.digest(calls[0]() or [])
            state[mode] = timed(calls)
            return {"us": state[mode], "digest": digest}

        def back(timed=timed, mode=mode):
            first = sets()[0]
            if "backward" in first:
                return {"us": timed([s["backward"] for s in sets()]), "digest": bench.digest(first["backward"]())}
            if mode not in state:
                raise RuntimeError("forward did not run")
            digest = bench.digest(first["both"]())
            return {"us": difference(timed([s["both"] for s in sets()]), state[mode]), "digest": digest}

        bench.row(name, item["id"], "forward", mode, ahead)
        if "backward" in item.get("passes", ["forward", "backward"]):
            bench.row(name, item["id"], "backward", mode, back)
