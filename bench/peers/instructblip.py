"""The whole model as people have it today: transformers' InstructBLIP for video, which concatenates the frames' tokens,
with PEFT's LoRA on the Q-Former. `instructblip.py REQUEST.json` opens a checkpoint, then answers or trains, and prints
one line of JSON: bench/whole/child.ts does the same with this project, and bench/whole/record.ts says what is in it."""
import json
import re
import sys
import time


CLOCKS = {"wall": time.perf_counter, "cpu": time.process_time}
clock = time.perf_counter


def seconds(since):
    return clock() - since


def status(key):
    with open("/proc/self/status") as f:
        return 1024 * int(re.search(rf"{key}:\s+(\d+)", f.read()).group(1))


def opened(torch, request):
    """The frozen model; config.json names InstructBLIP, whose tensors are those of InstructBlipVideo."""
    from transformers import InstructBlipVideoConfig, InstructBlipVideoForConditionalGeneration

    with open(f"{request['folder']}/config.json") as f:
        given = {key: value for key, value in json.load(f).items() if key not in ("architectures", "model_type", "dtype", "video_token_index")}
    config = InstructBlipVideoConfig(**given, video_token_index=request["videoToken"])
    model = InstructBlipVideoForConditionalGeneration.from_pretrained(request["folder"], config=config, dtype=getattr(torch, request["dtype"]), attn_implementation="sdpa")
    return model.eval().requires_grad_(False)


def with_lora(model, lora):
    """LoRA of queries and values in every attention of the Q-Former."""
    from peft import LoraConfig, get_peft_model

    targets = r"qformer\.encoder\.layer\.\d+\.(attention|crossattention)\.attention\.(query|value)"
    return get_peft_model(model, LoraConfig(r=lora["r"], lora_alpha=lora["alpha"], lora_dropout=0.0, target_modules=targets, init_lora_weights="gaussian"))


def cached(torch, model, pixels):
    """Image features, computed once; from here on the model is given them for its pixels."""
    from transformers.modeling_outputs import BaseModelOutputWithPooling

    B, T = pixels.shape[:2]
    with torch.inference_mode():
        # A clip at a time, as here.
        seen = torch.cat([model.vision_model(pixel_values=pixels[b]).last_hidden_state for b in range(B)])
    seen = seen.clone()  # no inference tensor: gradients pass by it

    class Features(torch.nn.Module):
        def forward(self, pixel_values, **_):
            return BaseModelOutputWithPooling(last_hidden_state=seen[: pixel_values.shape[0]])

    model.vision_model = Features()


def ask(torch, model, pixels, request):
    from transformers import GenerationConfig, StoppingCriteria, StoppingCriteriaList

    times = []

    class Clock(StoppingCriteria):
        def __call__(self, ids, scores, **_):
            times.append(clock())
            return torch.zeros(ids.shape[0], dtype=torch.bool)

    L, T = model.config.num_query_tokens, pixels.shape[1]
    ids = torch.tensor([[request["videoToken"]] * (L * T) + request["prompt"][0]])
    start = clock()
    made = model.generate(
        pixel_values=pixels[:1],
        qformer_input_ids=torch.tensor(request["text"][:1]),
        input_ids=ids,
        # No id ends this answer.
        generation_config=GenerationConfig(max_new_tokens=request["tokens"], do_sample=False, eos_token_id=None, pad_token_id=0),
        stopping_criteria=StoppingCriteriaList([Clock()]),
    )
    return {"firstTokenSeconds": times[0] - start, "tokenSeconds": [b - a for a, b in zip(times, times[1:])], "answer": made[0, -request["tokens"] :].tolist()}


def train(torch, model, pixels, request):
    L, T = model.config.num_query_tokens, pixels.shape[1]
    peft = with_lora(model, request["lora"])
    trained = [p for p in peft.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=request["lr"], betas=(0.9, 0.95), eps=1e-8, weight_decay=0.05, fused=True)
    rows = [[request["videoToken"]] * (L * T) + prompt + answer for prompt, answer in zip(request["prompt"], request["answer"])]
    labels = [[-100] * (len(row) - len(answer)) + answer for row, answer in zip(rows, request["answer"])]
    if request["compile"]:
        torch._dynamo.config.recompile_limit = 64
        # Layer by layer: layers that are alike are compiled once.
        for layer in [*model.qformer.encoder.layer, *model.language_model.model.layers]:
            layer.compile()
    times, losses = [], []
    for _ in range(request["steps"]):
        start = clock()
        loss = peft(pixel_values=pixels, qformer_input_ids=torch.tensor(request["text"]), input_ids=torch.tensor(rows), labels=torch.tensor(labels), use_cache=False).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
        times.append(seconds(start))
    return {"stepSeconds": times, "losses": losses, "trained": sum(p.numel() for p in trained)}


def main():
    global clock
    with open(sys.argv[1]) as f:
        request = json.load(f)
    clock = CLOCKS[request["clock"]]
    import torch
    import peft
    import transformers

    transformers.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    torch.set_num_threads(request["threads"])
    torch.manual_seed(0)
    shape = [len(request["text"]), request["frames"], 3, request["imageSize"], request["imageSize"]]
    with open(request["pixels"], "rb") as f:
        pixels = torch.frombuffer(bytearray(f.read()), dtype=torch.float32).reshape(shape).to(getattr(torch, request["dtype"]))
    start = clock()
    model = opened(torch, request)
    load = seconds(start)
    if request["task"] == "ask":
        pixels = pixels[:1]
    start = clock()
    cached(torch, model, pixels)
    feature = seconds(start)
    found = {"ask": ask, "train": train}[request["task"]](torch, model, pixels, request)
    versions = {"python": sys.version.split()[0], "torch": torch.__version__, "transformers": transformers.__version__, "peft": peft.__version__}
    print(json.dumps({"loadSeconds": load, "featureSeconds": feature, "peakBytes": status("VmHWM"), "versions": versions, **found}))


if __name__ == "__main__":
    main()
