"""The cases of client.ts in PyTorch, as a user of a recent or an older release would write them. Each function returns a
closure that computes everything anew and gives the outputs by name."""
import math

import torch
import torch.nn.functional as F

SDPA = getattr(F, "scaled_dot_product_attention", None)  # since PyTorch 2


def attention(q, k, v, heads):
    """q [rows,n,D], k and v [rows,m,D] -> [rows,n,D]"""
    rows, n, d = q.shape
    q, k, v = (x.view(rows, -1, heads, d // heads).transpose(1, 2) for x in (q, k, v))
    if SDPA:
        mixed = SDPA(q, k, v)
    else:
        mixed = torch.softmax((q * (1 / math.sqrt(d // heads))) @ k.transpose(-1, -2), -1) @ v
    return mixed.transpose(1, 2).reshape(rows, n, d)


def swap(x):
    """[a,b,c,D] -> [a,c,b,D], a copy"""
    return x.permute(0, 2, 1, 3).contiguous()


class Layers:
    """Functions over a case's tensors by their names. Where a pair of LoRA has a name of its own it is added, as PEFT does."""

    def __init__(self, tensors, sizes):
        self.tensors, self.heads = tensors, sizes["heads"]
        self.eps, self.scaling = sizes.get("eps", 1e-12), sizes.get("scaling", 1.0)

    def linear(self, x, name, lora=None):
        y = F.linear(x, self.tensors[f"{name}.weight"], self.tensors[f"{name}.bias"])
        if lora and f"{lora}.A" in self.tensors:
            y = y + F.linear(F.linear(x, self.tensors[f"{lora}.A"]), self.tensors[f"{lora}.B"]) * self.scaling
        return y

    def norm(self, x, name):
        return F.layer_norm(x, x.shape[-1:], self.tensors[f"{name}.weight"], self.tensors[f"{name}.bias"], self.eps)

    def block(self, x, names, lora, source=None):
        """LayerNorm(x + dense(attention(x))), x [rows,n,D]; keys and values from source [rows,m,*]."""
        source = x if source is None else source
        q = self.linear(x, names["query"], f"{lora}.q")
        k = self.linear(source, names["key"])
        v = self.linear(source, names["value"], f"{lora}.v")
        return self.norm(x + self.linear(attention(q, k, v, self.heads), names["dense"]), names["norm"])

    def feed(self, x, inner, outer):
        return self.norm(x + self.linear(F.gelu(self.linear(x, f"{inner}.dense")), f"{outer}.dense"), f"{outer}.LayerNorm")

    def over_time(self, x, names, lora):
        """The block over T of [B,T,L,D]."""
        B, T, L, D = x.shape
        return swap(self.block(swap(x).view(B * L, T, D), names, lora).view(B, L, T, D))


def core(case, tensors):
    heads, joint = case["sizes"]["heads"], case["form"] == "joint"
    q, k, v = (tensors[name] for name in "qkv")
    B, T, L, D = q.shape

    def forward():
        if joint:
            return {"joint": attention(*(x.view(B, T * L, D) for x in (q, k, v)), heads).view(B, T, L, D)}
        space = attention(*(x.view(B * T, L, D) for x in (q, k, v)), heads).view(B, T, L, D)
        time = attention(*(swap(x).view(B * L, T, D) for x in (q, k, v)), heads)
        return {"space": space, "time": swap(time.view(B, L, T, D))}

    def gradients(outputs):
        dq, dk, dv = torch.autograd.grad(list(outputs.values()), [q, k, v], [tensors["dy"]] * len(outputs))
        return {"dq": dq, "dk": dk, "dv": dv}

    return forward, gradients, [q, k, v]


def block(case, tensors):
    layers, x = Layers(tensors, case["sizes"]), tensors["x"]
    names = {part: part for part in ("query", "key", "value", "dense", "norm")}
    loras = {name: t for name, t in tensors.items() if name.startswith("lora.")}
    B, T, L, D = x.shape

    def forward():
        if case["form"] == "joint":
            return {"y": layers.block(x.view(B, T * L, D), names, "lora.space").view(B, T, L, D)}
        space = layers.block(x.view(B * T, L, D), names, "lora.space").view(B, T, L, D)
        return {"y": layers.over_time(space, names, "lora.time")}

    return forward, of_y(tensors, {"dx": x, **{f"d.{name}": t for name, t in loras.items()}}), [x, *loras.values()]


def qformer(case, tensors):
    sizes, queries, image = case["sizes"], tensors["queries"], tensors["image"]
    layers, loras = Layers(tensors, sizes), {name: t for name, t in tensors.items() if name.startswith("lora.")}
    B, T, L, D = queries.shape
    K, KV, joint = sizes["K"], sizes["KV"], case["form"] == "joint"
    rows, n = (B, T * L) if joint else (B * T, L)  # what attends together: the query tokens of a video, or of a frame
    count = sizes["layers"]

    def names(layer, kind):
        at = f"qformer.encoder.layer.{layer}.{kind}"
        return {**{part: f"{at}.attention.{part}" for part in ("query", "key", "value")}, "dense": f"{at}.output.dense", "norm": f"{at}.output.LayerNorm"}

    def forward():
        x = queries.view(rows, n, D)
        if K:
            text = tensors["text"] if joint else tensors["text"].unsqueeze(1).expand(B, T, K, D).reshape(rows, K, D)
            x = torch.cat([x, text], 1)
        x = layers.norm(x, "qformer.embeddings.layernorm")
        for m in range(count):
            lora, at = f"lora.layer.{m}", f"qformer.encoder.layer.{m}"
            x = layers.block(x, names(m, "attention"), f"{lora}.space")
            q, text = x[:, :n], x[:, n:]
            if not joint:
                q = layers.over_time(q.reshape(B, T, L, D), names(m, "attention"), f"{lora}.time")
            if m % 2 == 0:
                q = layers.block(q.reshape(B * T, L, D), names(m, "crossattention"), f"{lora}.cross", image.view(B * T, KV, -1))
            q = layers.feed(q.reshape(rows, n, D), f"{at}.intermediate_query", f"{at}.output_query")
            # The last layer's text output is unused.
            x = torch.cat([q, layers.feed(text, f"{at}.intermediate", f"{at}.output")], 1) if K and m + 1 < count else q
        return {"y": x.view(B, T, L, D)}

    return forward, of_y(tensors, {f"d.{name}": t for name, t in loras.items()}), list(loras.values())


def linear(case, tensors):
    return lambda: {"y": F.linear(tensors["x"], tensors["weight"])}, None, []


def of_y(tensors, wanted):
    def gradients(outputs):
        return dict(zip(wanted, torch.autograd.grad(outputs["y"], list(wanted.values()), tensors["dy"])))

    return gradients


KINDS = {"core": core, "block": block, "qformer": qformer, "linear": linear}


def prepare(case, tensors, compiled=False):
    """The function that is timed: () -> outputs by name. Compiled, forward is one graph for these shapes, and so is its backward."""
    dtype = getattr(torch, case["dtype"])
    tensors = {name: t.to(dtype) for name, t in tensors.items()}
    forward, gradients, trained = KINDS[case["kind"]](case, tensors)
    if compiled:
        forward = torch.compile(forward, dynamic=False)
    if case["pass"] == "forward":
        def run():
            with torch.inference_mode():
                return forward()

        return run
    if not trained:
        raise ValueError(f"{case['kind']} without LoRA has nothing to train")
    for t in trained:
        t.requires_grad_()

    def run():
        outputs = forward()
        return {**outputs, **gradients(outputs)}

    return run
