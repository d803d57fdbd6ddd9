"""Whole models of random weights from transformers: a LLaMA of 7 B and a Q-Former of BERT's width, eager, as a CUDA graph,
and with every layer compiled and the whole captured."""


def llama(torch, device, quick):
    from transformers import LlamaConfig, LlamaModel

    size = dict(vocab_size=100, hidden_size=64, intermediate_size=128, num_hidden_layers=2, num_attention_heads=4) if quick else dict(vocab_size=32001, hidden_size=4096, intermediate_size=11008, num_hidden_layers=32, num_attention_heads=32)
    config = LlamaConfig(attn_implementation="sdpa", **size)
    model = built(torch, device, lambda: LlamaModel(config))
    x = torch.randn(4, 96, config.hidden_size, device=device, dtype=torch.bfloat16)
    return model, model.layers, lambda: model(inputs_embeds=x, use_cache=False).last_hidden_state


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
    for name, make, item, same in (("transformers q-former", qformer, "model q-former 4/8/32", False), ("transformers llama", llama, "model llm 4/8/32", True)):
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
