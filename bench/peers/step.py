"""The training step of bench/gpu/step.ts as one would write it in PyTorch: the layers of transformers' InstructBLIP Q-Former
and LLaMA, frozen; around them attention in time with the same weights, LoRA as PEFT computes it, dynamic attention routing,
cross-entropy, a clipped norm and fused AdamW over what is trained. Eager, as one CUDA graph, and compiled and captured.

  step.py CASE.json      loss, gradients and one update of a case (float32, on the CPU), which tests hold against ours"""
import json
import sys

import torch
import torch.nn.functional as F
from torch import nn


class LoRA(nn.Module):
    def __init__(self, into, out, rank, **at):
        super().__init__()
        self.lora_A = nn.Parameter(torch.randn(rank, into, **at) / rank)
        self.lora_B = nn.Parameter(torch.zeros(out, rank, **at))


class Router(nn.Module):
    """How much each mask counts: softmax(W2 ReLU(W1 mean(x) + b1) + b2), [rows,n,D] to [rows,p]."""

    def __init__(self, width, hidden, masks, bias, **at):
        super().__init__()
        limit = (6 / (width + hidden)) ** 0.5
        self.w1 = nn.Parameter(torch.empty(hidden, width, **at).uniform_(-limit, limit))
        self.b1 = nn.Parameter(torch.zeros(hidden, **at))
        self.w2 = nn.Parameter(torch.zeros(masks, hidden, **at))
        self.b2 = nn.Parameter(torch.zeros(masks, **at))
        with torch.no_grad():
            self.b2[0] = bias

    def forward(self, x):
        pooled = x.mean(1, dtype=torch.float32)
        return torch.softmax(F.linear(F.relu(F.linear(pooled, self.w1, self.b1)), self.w2, self.b2), -1)


class Part(nn.Module):
    """What is trained in one attention: LoRA of queries and values, and a router where there is more than one mask."""

    def __init__(self, width, source, masks, config, **at):
        super().__init__()
        self.q, self.v = LoRA(width, width, config["rank"], **at), LoRA(source, width, config["rank"], **at)
        self.router = Router(width, config["hidden"], masks, config["bias"], **at) if masks > 1 else None
        self.scaling = config["alpha"] / config["rank"]


def linear(x, layer, lora=None, scaling=1.0):
    y = layer(x)
    return y if lora is None else y + F.linear(F.linear(x, lora.lora_A.to(x.dtype)), lora.lora_B.to(x.dtype)) * scaling


def attend(block, x, heads, part=None, source=None, tokens=None, pooled=None, masks=None):
    """LayerNorm(x + dense(attention(x))), x [rows,n,D]; tokens [rows,keys], true where there is one; masks [p,n,n] of routing."""
    source = x if source is None else source
    own, (rows, n, width) = block.attention, x.shape
    split = lambda t: t.view(rows, -1, heads, width // heads).transpose(1, 2)
    q = split(linear(x, own.query, part and part.q, part.scaling if part else 1.0))
    k = split(own.key(source))
    v = split(linear(source, own.value, part and part.v, part.scaling if part else 1.0))
    if part is None or part.router is None:
        bias = None if tokens is None else torch.zeros_like(tokens, dtype=x.dtype).masked_fill(~tokens, float("-inf"))[:, None, None]
        mixed = F.scaled_dot_product_attention(q, k, v, attn_mask=bias)
    else:
        # One exponential serves all masks: P = e sum_j alpha_j M_j / Z_j.
        alpha = part.router(x if pooled is None else pooled)
        s = (q @ k.transpose(-1, -2)).float() * (width // heads) ** -0.5
        if tokens is not None:
            s = s.masked_fill(~tokens[:, None, None], float("-inf"))
        e = torch.exp(s - s.detach().amax(-1, keepdim=True))
        z = torch.einsum("rhik,jik->rhij", e, masks).clamp_min(1e-30)
        mixed = (e * torch.einsum("rhij,jik->rhik", alpha[:, None, None] / z, masks)).to(v.dtype) @ v
    return block.output(mixed.transpose(1, 2).reshape(rows, n, width), x)


class Layer(nn.Module):
    """A layer of the Q-Former with what is trained around it."""

    def __init__(self, frozen, heads, masks, last, config, **at):
        super().__init__()
        width = frozen.attention.attention.query.in_features
        self.frozen, self.heads, self.last = frozen, heads, last
        self.spatial, self.temporal = Part(width, width, masks, config, **at), Part(width, width, masks, config, **at)
        self.cross = Part(width, frozen.crossattention.attention.value.in_features, 1, config, **at) if hasattr(frozen, "crossattention") else None

    def forward(self, queries, text, tokens, image, space, time):
        """queries [B,T,L,D], text [B*T,K,D], image [B*T,K_V,D_v]."""
        layer, (B, T, L, D) = self.frozen, queries.shape
        masks = None if self.spatial.router is None else (space[: len(self.spatial.router.b2)], time[: len(self.spatial.router.b2)])
        own = queries.reshape(B * T, L, D)
        x = attend(layer.attention, torch.cat([own, text], 1), self.heads, self.spatial, tokens=tokens, pooled=own, masks=masks and masks[0])
        q, text = x[:, :L], x[:, L:]
        swapped = q.reshape(B, T, L, D).transpose(1, 2).reshape(B * L, T, D)
        q = attend(layer.attention, swapped, self.heads, self.temporal, masks=masks and masks[1])
        q = q.view(B, L, T, D).transpose(1, 2).reshape(B * T, L, D)
        if self.cross is not None:
            q = attend(layer.crossattention, q, self.heads, self.cross, source=image)
        q = layer.output_query(layer.intermediate_query(q), q)
        # The last layer's text output is unused.
        return q.view(B, T, L, D), text if self.last else layer.output(layer.intermediate(text), text)


class Model(nn.Module):
    """Q-Former, adapter, projection and language model. `qformer` and `language` are configurations of transformers."""

    def __init__(self, qformer, language, queries, adapter, device, dtype):
        super().__init__()
        from transformers import InstructBlipQFormerModel, LlamaForCausalLM

        D, P, N = qformer.hidden_size, adapter["choices"], qformer.num_hidden_layers
        at = {"device": device, "dtype": torch.float32}
        before = torch.get_default_dtype()
        torch.set_default_dtype(dtype)  # 7 B parameters would not fit as float32 first
        try:
            with torch.device(device):
                self.frozen = nn.ModuleDict({"qformer": InstructBlipQFormerModel(qformer), "language_projection": nn.Linear(D, language.hidden_size), "language_model": LlamaForCausalLM(language)})
                self.query_tokens = nn.Parameter(torch.randn(1, queries, D) * 0.02, requires_grad=False)
        finally:
            torch.set_default_dtype(before)
        self.frozen.eval().requires_grad_(False)
        self.temporal_position = nn.Parameter(torch.zeros(adapter["frames"], D, **at))
        self.spatial_position = nn.Parameter(torch.zeros(queries, D, **at))
        self.layer = nn.ModuleList(Layer(layer, qformer.num_attention_heads, 1 + m * P // N, m == N - 1, adapter, **at) for m, layer in enumerate(self.frozen["qformer"].encoder.layer))
        self.adapter = adapter

    def trained(self):
        return {name: p for name, p in self.named_parameters() if p.requires_grad}

    def masks(self, n, queries, windows, device):
        """M_0 keeps every pair, M_j those of one modality that are near each other and every pair of two."""
        i, k = torch.arange(n, device=device)[:, None], torch.arange(n, device=device)[None]
        return torch.stack([torch.ones(n, n, device=device), *((((i < queries) != (k < queries)) | ((i - k).abs() <= w)).float() for w in windows)])

    def prepare(self, inputs):
        """What depends on the inputs' shapes alone."""
        (_, T), L, K = inputs["features"].shape[:2], self.query_tokens.shape[1], inputs["text"].shape[1]
        device = inputs["features"].device
        return {**inputs, "space": self.masks(L + K, L, self.adapter["spatial"], device), "time": self.masks(T, T, self.adapter["temporal"], device)}

    def visual(self, inputs):
        """Visual tokens [B,L,D_llm]."""
        former, image, ids = self.frozen["qformer"], inputs["features"], inputs["text"]
        (B, T, keys, wide), (K, L, dtype) = image.shape, (ids.shape[1], self.query_tokens.shape[1], image.dtype)
        queries = (self.query_tokens.float() + self.temporal_position[:T, None] + self.spatial_position).to(dtype).expand(B, T, L, -1)
        words = former.embeddings.word_embeddings(ids) + former.embeddings.position_embeddings.weight[:K]
        text = words[:, None].expand(B, T, K, -1)
        x = former.embeddings.layernorm(torch.cat([queries, text], 2))
        queries, text = x[:, :, :L], x[:, :, L:].reshape(B * T, K, -1)
        seen = inputs.get("tokens")
        tokens = None if seen is None else torch.cat([torch.ones(B, L, dtype=torch.bool, device=ids.device), seen], 1)[:, None].expand(B, T, L + K).reshape(B * T, L + K)
        for layer in self.layer:
            queries, text = layer(queries, text, tokens, image.view(B * T, keys, wide), inputs["space"], inputs["time"])
        return self.frozen["language_projection"](queries.mean(1))

    def forward(self, inputs):
        """Cross-entropy, summed over the answer tokens."""
        language = self.frozen["language_model"]
        x = torch.cat([self.visual(inputs), language.get_input_embeddings()(inputs["ids"])], 1)
        hidden = language.model(inputs_embeds=x, attention_mask=inputs.get("attended"), position_ids=inputs.get("positions"), use_cache=False).last_hidden_state
        logits = language.lm_head(hidden.flatten(0, 1)[inputs["places"]])
        return F.cross_entropy(logits.float(), inputs["targets"], reduction="sum")


def optimizer_of(model, lr, device):
    matrices = [p for name, p in model.trained().items() if p.dim() > 1 and "position" not in name]
    others = [p for name, p in model.trained().items() if not (p.dim() > 1 and "position" not in name)]
    groups = [{"params": matrices, "weight_decay": 0.05}, {"params": others, "weight_decay": 0.0}]
    return torch.optim.AdamW(groups, lr=lr, betas=(0.9, 0.95), eps=1e-8, fused=True, **({"capturable": True} if device == "cuda" else {}))


class Step:
    """One step on inputs that lie where they are: loss, gradients, clipped norm, AdamW."""

    def __init__(self, model, inputs, factor, device, lr=1e-3):
        self.model, self.inputs, self.factor = model, model.prepare(inputs), factor
        self.optimizer = optimizer_of(model, lr, device)

    def gradients(self):
        self.optimizer.zero_grad(set_to_none=True)
        loss = self.model(self.inputs)
        (loss * self.factor).backward()
        return loss.detach()

    def __call__(self):
        loss = self.gradients()
        torch.nn.utils.clip_grad_norm_(list(self.model.trained().values()), 1.0)
        self.optimizer.step()
        return loss


# ---- the benchmark ----

FULL = {"frames": 64, "rank": 16, "alpha": 16, "choices": 4, "hidden": 64, "bias": 4.0, "spatial": [16, 8, 4], "temporal": [2, 1, 0]}


def built(device, quick):
    from transformers import InstructBlipQFormerConfig, LlamaConfig

    if quick:
        former = InstructBlipQFormerConfig(hidden_size=48, num_hidden_layers=4, num_attention_heads=4, intermediate_size=96, encoder_hidden_size=40, vocab_size=100)
        llama = dict(vocab_size=100, hidden_size=64, intermediate_size=128, num_hidden_layers=2, num_attention_heads=4)
    else:
        former = InstructBlipQFormerConfig(encoder_hidden_size=1408)
        llama = dict(vocab_size=32001, hidden_size=4096, intermediate_size=11008, num_hidden_layers=32, num_attention_heads=32)
    return Model(former, LlamaConfig(attn_implementation="sdpa", **llama), 32, FULL, device, torch.bfloat16)


def inputs_of(model, B, T, text, prompt, answers, device):
    """As bench/gpu/step.ts has them: every token is one, so that no mask is needed."""
    former, llama, L = model.frozen["qformer"].config, model.frozen["language_model"].config, model.query_tokens.shape[1]
    ids = lambda n, vocabulary: (3 + torch.arange(n, device=device) * 7919 % (vocabulary - 3))
    words = ids(B * prompt, llama.vocab_size).view(B, prompt)
    last = torch.arange(prompt - answers, prompt, device=device)
    places = (torch.arange(B, device=device)[:, None] * (L + prompt) + L + last - 1).flatten()
    features = torch.randn(B, T, 257, former.encoder_hidden_size, device=device, dtype=torch.bfloat16)
    return {"features": features, "text": ids(B * text, former.vocab_size).view(B, text), "ids": words, "places": places, "targets": words[:, last].flatten()}


def run(bench, _items):
    device = bench.device
    sizes = [(2, 3, 6, 9, 3)] if bench.quick else [(4, 8, 32, 64, 16), (2, 4, 32, 64, 16)]
    state = {}

    def model():
        if "model" not in state:
            state["model"] = built(device, bench.quick)
        return state["model"]

    for mode in ("eager", "graph", "compile"):
        for size in sizes:
            def measured(size=size, mode=mode):
                if mode == "compile" and device != "cuda":
                    raise RuntimeError("compiled steps are captured, and graphs need a CUDA device")
                if mode == "compile" and "compiled" not in state:
                    for layer in [*model().layer, *model().frozen["language_model"].model.layers]:
                        layer.compile(dynamic=False)
                    state["compiled"] = True
                B, _, _, _, answers = size
                step = Step(model(), inputs_of(model(), *size, device), 1 / (B * answers), device)
                if device == "cuda":
                    torch.cuda.reset_peak_memory_stats()
                us = bench.eager([step]) if mode == "eager" else bench.graph([step])
                return {"us": us, **({"peakBytes": torch.cuda.max_memory_allocated()} if device == "cuda" else {})}

            bench.row("transformers step", f"model step {'/'.join(str(n) for n in size[:3])}", "forward", mode, measured)
            if device == "cuda":
                torch.cuda.empty_cache()


# ---- a case ----

def main(path):
    from torch_cpu import read, write
    from transformers import InstructBlipQFormerConfig, LlamaConfig

    with open(path) as f:
        case = json.load(f)
    tensors = read(torch, case["tensors"])
    config = case["config"]
    language = LlamaConfig(attn_implementation="sdpa", **{k: v for k, v in config["text_config"].items() if k not in ("model_type", "architectures")})
    former = InstructBlipQFormerConfig(**{k: v for k, v in config["qformer_config"].items() if k != "model_type"})
    model = Model(former, language, config["num_query_tokens"], case["adapter"], "cpu", torch.float32)
    with torch.no_grad():
        own, given = model.state_dict(), set()
        for name, t in own.items():
            # Frozen layers are reached by two paths; under "frozen." they have the checkpoint's names.
            key = name.removeprefix("frozen.")
            if key in tensors:
                t.copy_(tensors[key])
                given.add(key)
        missing = [name for name in [*model.trained(), *(f"{n}" for n in tensors if not n.startswith(("vision_model.", "features")))] if name not in given]
        if missing:
            raise ValueError(f"no place or no value for {', '.join(missing[:5])}")
    integers = {name: torch.tensor(values, dtype=torch.long) for name, values in case["integers"].items()}
    inputs = {"features": tensors["features"], **integers}
    if "tokens" in inputs:
        inputs["tokens"] = inputs["tokens"].bool()
    step = Step(model, inputs, case["factor"], "cpu", case["lr"])
    loss = step.gradients()
    gradients = {f"d.{name}": p.grad.clone() for name, p in model.trained().items()}
    step()
    write(torch, case["out"], {"loss": loss.reshape(1), **gradients, **{f"after.{name}": p for name, p in model.trained().items()}})


if __name__ == "__main__":
    main(sys.argv[1])
