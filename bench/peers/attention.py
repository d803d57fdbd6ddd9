"""Attention in PyTorch: SDPA by each of its backends, with the copies that moving an axis costs there; FlexAttention with
DAR as its score_mod; DAR in eager operators, which is what results are compared with."""
from common import Inputs, difference


def windows(torch, item, device):
    """The mask bits of bench/gpu/attention.ts: M_0 keeps everything, M_j pairs near each other."""
    n, text, choices = item["n"], item["text"], item.get("choices", 1)
    i, k = torch.arange(n, device=device)[:, None], torch.arange(n, device=device)[None, :]
    queries = n - text if item["over"] == "space" else n
    sizes = [16, 8, 4] if item["over"] == "space" else [2, 1, 0]
    near = lambda w: ((i < queries) != (k < queries)) | ((i - k).abs() <= w)
    return torch.stack([torch.ones(n, n, dtype=torch.bool, device=device)] + [near(sizes[j - 1]) for j in range(1, choices)])


class Case:
    """One set: q, k, v as [b0,b1,n,heads,d] views of packed memory, dy, and what routing needs."""

    def __init__(self, torch, item, inputs, device):
        b0, b1, n, heads, d = (item[key] for key in ("b0", "b1", "n", "heads", "d"))
        width, keys, time = heads * d, item.get("keys", n), item["over"] == "time"
        shape = [b0, n, b1] if time else [b0, b1, n]
        order = (0, 2, 1, 3, 4) if time else (0, 1, 2, 3, 4)
        if "keys" in item:
            self.q, self.k, self.v = (inputs.normal(name, [b0, b1, rows, width]).view(b0, b1, rows, heads, d) for name, rows in (("q", n), ("k", keys), ("v", keys)))
        else:
            packed = inputs.normal("x", [*shape, 3 * width]).view(*shape, 3, heads, d)
            self.q, self.k, self.v = (packed.select(3, i).permute(*order) for i in range(3))
        wanted = item.get("gradients", "qkv")
        for name in "qkv":
            setattr(self, name, getattr(self, name).detach().requires_grad_(name in wanted))
        self.dy = inputs.normal("dy", [*shape, width])
        self.time, self.packed, self.item = time, "keys" not in item, item
        self.leaves = [t for t in (self.q, self.k, self.v) if t.requires_grad]
        if item["mode"] != "off":
            self.alpha, self.masks = inputs.uniform("alpha", [b0, b1, item["choices"]], 0.1, 1.0), windows(torch, item, device)
        clips = torch.arange(b0, device=device)[:, None] % 4 * (item["text"] // 8)
        self.tokens = (torch.arange(keys, device=device)[None, :] < keys - clips)[:, None, :].expand(b0, b1, keys) if item["text"] else None

    def rows(self, t):
        """[b0·b1, heads, n, d], copied where the axis that was moved makes that necessary."""
        b0, b1, n, heads, d = t.shape
        flat = (t.contiguous() if self.time else t).reshape(b0 * b1, n, heads, d)
        return flat.transpose(1, 2)

    def back(self, o):
        """The layout of y."""
        item = self.item
        y = o.transpose(1, 2).reshape(item["b0"], item["b1"], item["n"], item["heads"] * item["d"])
        return y.transpose(1, 2).contiguous() if self.time else y

    def gradients(self, torch, grads):
        """As our results lie: packed again, or those of q and v."""
        if not self.packed:
            return grads
        order = (0, 2, 1, 3, 4) if self.time else (0, 1, 2, 3, 4)
        return [torch.stack([g.permute(*order) for g in grads], 3).reshape(*self.dy.shape[:3], -1)]


def sdpa(torch, backend):
    from torch.nn.attention import SDPBackend, sdpa_kernel

    name = {"flash": "FLASH_ATTENTION", "cudnn": "CUDNN_ATTENTION", "efficient": "EFFICIENT_ATTENTION", "math": "MATH"}[backend]
    which = getattr(SDPBackend, name)

    def run(c):
        bias = None
        if c.tokens is not None and backend != "flash":
            b0, b1, n, heads, _ = c.q.shape
            bias = torch.zeros(c.tokens.shape, dtype=c.q.dtype, device=c.q.device).masked_fill(~c.tokens, float("-inf")).reshape(b0 * b1, 1, 1, -1).expand(-1, heads, n, -1)
        with sdpa_kernel(which):
            return c.back(torch.nn.functional.scaled_dot_product_attention(c.rows(c.q), c.rows(c.k), c.rows(c.v), attn_mask=bias, is_causal=bool(c.item.get("causal"))))

    return run


def flex(torch):
    from torch.nn.attention.flex_attention import flex_attention

    compiled = torch.compile(flex_attention, dynamic=False)

    def run(c):
        b0, b1, n = c.q.shape[:3]
        weight = torch.einsum("bj,jik->bik", c.alpha.reshape(b0 * b1, -1), c.masks.float())
        tokens = c.tokens.reshape(b0 * b1, -1) if c.tokens is not None else None

        def score_mod(score, b, h, i, k):
            s = score * weight[b, i, k]
            return s if tokens is None else torch.where(tokens[b, k], s, -float("inf"))

        return c.back(compiled(c.rows(c.q), c.rows(c.k), c.rows(c.v), score_mod=score_mod))

    return run


def eager_routing(torch):
    """DAR as one writes it first: scores in memory, softmax, product."""

    def run(c):
        b0, b1, n, heads, d = c.q.shape
        q, k, v = (c.rows(t).float() for t in (c.q, c.k, c.v))
        s = q @ k.transpose(-1, -2) / d**0.5
        alpha, masks = c.alpha.reshape(b0 * b1, -1), c.masks
        hidden = None if c.tokens is None else ~c.tokens.reshape(b0 * b1, 1, 1, -1)
        over = lambda s: torch.softmax(s if hidden is None else s.masked_fill(hidden, float("-inf")), -1)
        if c.item["mode"] == "score":
            p = over(s * torch.einsum("bj,jik->bik", alpha, masks.float())[:, None])
        else:
            p = sum(alpha[:, j, None, None, None] * over(s.masked_fill(~masks[j], float("-inf"))).nan_to_num(0.0) for j in range(masks.shape[0]))
        return c.back((p @ v).to(c.q.dtype))

    return run


def run(bench, items):
    torch = bench.torch
    for item in items:
        if item["kind"] != "attention":
            continue
        routed = item["mode"] != "off"
        peers = [(f"sdpa {b}", lambda b=b: sdpa(torch, b), not routed and (b != "flash" or not item["text"])) for b in ("flash", "cudnn", "efficient", *(("math",) if bench.quick else ()))]
        if routed:
            peers.append(("eager operators", lambda: eager_routing(torch), True))
        if item.get("flex"):  # compiled anew for each shape, which takes its time
            peers.append(("flex attention", lambda: flex(torch), True))
        state = {}

        def cases(item=item, state=state):
            """Built by the first row that needs them. Room for the slow ones' scores: as many sets as rotation needs, no more."""
            if "cases" not in state:
                bytes = 2 * 8 * item["b0"] * item["b1"] * item["n"] * item["heads"] * item["d"]
                sets = 2 if bench.quick else max(4 if bytes > 64e6 else 20, int(80e6 / bytes) + 1)
                inputs, state["cases"] = Inputs(torch, item, bench.device), []
                for _ in range(min(sets, 200)):
                    state["cases"].append(Case(torch, item, inputs, bench.device))
                    inputs.next()
            return state["cases"]

        for name, make, same in peers:
            measure(bench, item, name, make, same, cases)
        state.clear()
        if bench.device == "cuda":
            torch.cuda.empty_cache()


def measure(bench, item, name, make, same, cases):
    torch = bench.torch
    state = {}

    def forward(c):
        with torch.no_grad():
            return state["run"](c)

    def both(c):
        y = state["run"](c)
        return torch.autograd.grad(y, c.leaves, c.dy, retain_graph=False)

    for mode in ("graph", "eager"):
        timed = bench.graph if mode == "graph" else bench.eager

        def ahead(timed=timed, mode=mode):
            state.setdefault("run", None)
            state["run"] = state["run"] or make()
            digest = bench.digest([forward(cases()[0])])
            state[mode] = timed([lambda c=c: forward(c) for c in cases()])
            return {"us": state[mode], "digest": digest}

        def back(timed=timed, mode=mode):
            if mode not in state:
                raise RuntimeError("forward did not run")
            first = cases()[0]
            digest = bench.digest(first.gradients(torch, both(first)))
            return {"us": difference(timed([lambda c=c: both(c) for c in cases()]), state[mode]), "digest": digest}

        bench.row(name, item["id"], "forward", mode, ahead, same)
        if "backward" in item.get("passes", ["forward", "backward"]):
            bench.row(name, item["id"], "backward", mode, back, same)
