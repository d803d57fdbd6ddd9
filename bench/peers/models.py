"""Whole models of random weights from transformers: a LLaMA of 7 B, forward and one token at a time, and a Q-Former of
BERT's width; eager, as a CUDA graph, and with every layer compiled and the whole captured."""


def llama(torch, device, quick):
    from transformers import LlamaConfig, LlamaModel

    size = dict(vocab_size=100, hidden_size=64, intermediate_size=128, num_hidden_layers=2, num_attention_heads=4) if quick else dict(vocab_size=32001, hidden_size=4096, intermediate_size=11008, num_hidden_layers=32, num_attention_heads=32)
    config = LlamaConfig(attn_implementation="sdpa", **size)
    model = built(torch, device, lambda: LlamaModel(config))
    x = torch.randn(4, 96, config.hidden_size, device=device, dtype=torch.bfloat16)
    return model, model.layers, lambda: model(inputs_embeds=x, use_cache=False).last_hidden_state


def decode(torch, device, quick):
    """The token after 96 others, whose keys and values lie in a cache of a fixed size; with the output matrix, as ours."""
    from transformers import StaticCache

    model, layers, forward = llama(torch, device, quick)
    config, past = model.config, 96
    head = torch.randn(config.vocab_size, config.hidden_size, device=device, dtype=torch.bfloat16)
    cache = StaticCache(config=config, max_cache_len=160)
    start = torch.randn(1, past, config.hidden_size, device=device, dtype=torch.bfloat16)
    token, at = torch.full((1, 1), 5, device=device), torch.full((1,), past, device=device)
    with torch.no_grad():
        model(inputs_embeds=start, past_key_values=cache, use_cache=True)
    seen = torch.zeros(1, 1, 1, 160, device=device, dtype=torch.bfloat16)
    seen[..., past + 1 :] = float("-inf")

    def call():
        # The cache counts what was written to it; here it is always the same place that is written.
        for layer in cache.layers:
            length = getattr(layer, "cumulative_length", None)
            if torch.is_tensor(length):
                length.fill_(past)
            elif length is not None:
                layer.cumulative_length = past
        last = model(input_ids=token, attention_mask=seen, position_ids=at[None], past_key_values=cache, use_cache=True, cache_position=at).last_hidden_state[:, -1]
        return last, torch.argmax(last @ head.t(), -1)

    with torch.no_grad():
        whole = model(inputs_embeds=torch.cat([start, model.embed_tokens(token)], 1), use_cache=False).last_hidden_state[:, -1].float()
        for _ in range(2):
            error = float((call()[0].float() - whole).norm() / whole.norm())
            if not error < 5e-2:
                raise RuntimeError(f"a token by the cache differs by {error:.1e} from one without it")
    return model, layers, call


def qformer(torch, device, quick):
    from transformers import InstructBlipQFormerConfig, InstructBlipQFormerModel

    size = dict(hidden_size=48, num_hidden_layers=2, num_attention_heads=4, intermediate_size=96, encoder_hidden_size=40, vocab_size=100) if quick else dict(encoder_hidden_size=1408)
    config = InstructBlipQFormerConfig(**size)
    model = built(torch, device, lambda: InstructBlipQFormerModel(config))
    rows = 2 if quick else 32
    ids = torch.randint(0, config.vocab_size, (rows, 32), device=device)
    queries, seen = (torch.randn(rows, n, width, device=device, dtype=torch.bfloat16) for n, width in ((32, config.hidden_size), (257, config.encoder_hidden_size)))
    mask = torch.ones(rows, 64, dtype=torch.long, device=device)
    return model, model.encoder.layer, lambda: model(input_ids=ids, attention_mask=mask, query_embeds=queries, encoder_hidden_states=seen).last_hidden_state


def built(torch, device, make):
    """On the device from the start, bfloat16: 7 B parameters would not fit in memory as float32 first."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.bfloat16)
    try:
        with torch.device(device):
            return make().eval().requires_grad_(False)
    finally:
        torch.set_default_dtype(before)


def run(bench, _items):
    torch = bench.torch
    # The Q-Former peer has no attention in time: it computes less than ours.
    for name, make, item, same in (("transformers q-former", qformer, "model q-former 4/8/32", False), ("transformers llama", llama, "model llm 4/8/32", True), ("transformers llama", decode, "model decode 1", True)):
        state = {}

        def call():
            with torch.no_grad():
                return state["call"]()

        def prepared(compiled=False):
            if "call" not in state:
                state["model"], state["layers"], state["call"] = make(torch, bench.device, bench.quick)
            if compiled:
                for layer in state["layers"]:
                    layer.compile(dynamic=False)
                call()
            return call

        for mode, measure in (("eager", lambda: bench.eager([prepared()])), ("graph", lambda: bench.graph([prepared()])), ("compile", lambda: bench.graph([prepared(True)]))):
            if mode == "compile" and bench.device != "cuda":
                continue
            bench.row(name, item, "forward", mode, lambda measure=measure: {"us": measure()}, same)
        state.clear()
        if bench.device == "cuda":
            torch.cuda.empty_cache()
