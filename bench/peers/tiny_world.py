"""What a user of transformers and PEFT has for videos, on the tiny world: InstructBlipVideo, which gives the language model
the tokens of all frames, with LoRA on the Q-Former, trained on the same samples in the same order as ours and asked the same
test questions. `tiny_world.py REQUEST.json`; bench/peers/tiny-world.ts writes the request and reads the line of JSON.

Its processor writes placeholders for four frames, whatever the clip has; the ids here are built by hand."""
import json
import statistics
import sys
import time

from instructblip import opened, status, with_lora


def rows(torch, samples, answers, video, visual):
    """Visual placeholders, prompt and answer, padded on the right; labels on the answer alone."""
    ids = [[video] * visual + s["prompt"] + a for s, a in zip(samples, answers)]
    width = max(map(len, ids))
    tensor = lambda fill, of: torch.tensor([of(i) + [fill] * (width - len(ids[i])) for i in range(len(ids))])
    return {
        "input_ids": tensor(0, lambda i: ids[i]),
        "attention_mask": tensor(0, lambda i: [1] * len(ids[i])),
        "labels": tensor(-100, lambda i: [-100] * (len(ids[i]) - len(answers[i])) + answers[i]),
    }


def texts(torch, samples):
    width = max(len(s["text"]) for s in samples)
    pad = lambda fill, of: torch.tensor([of(s) + [fill] * (width - len(s["text"])) for s in samples])
    return {"qformer_input_ids": pad(0, lambda s: s["text"]), "qformer_attention_mask": pad(0, lambda s: [1] * len(s["text"]))}


def main():
    import torch
    import peft
    import transformers
    from transformers.modeling_outputs import BaseModelOutputWithPooling

    with open(sys.argv[1]) as f:
        request = json.load(f)
    transformers.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    torch.set_num_threads(request["threads"])
    torch.manual_seed(request["seed"])
    with open(request["features"], "rb") as f:
        features = torch.frombuffer(bytearray(f.read()), dtype=torch.float32).reshape(request["shape"])
    model = opened(torch, request)
    visual = model.config.num_query_tokens * request["shape"][1]

    class Given(torch.nn.Module):
        """The features stand where pixels would: [B·T,tokens,width,1]."""

        def forward(self, pixel_values, **_):
            return BaseModelOutputWithPooling(last_hidden_state=pixel_values.squeeze(-1))

    model.vision_model = Given()
    model = with_lora(model, request["lora"])
    seen = lambda samples: features[[s["clip"] for s in samples]].unsqueeze(-1)
    trained = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=request["lr"], betas=(0.9, 0.95), eps=1e-8, weight_decay=0.05)
    times, losses = [], []
    for batch, factor in zip(request["batches"], request["factors"]):
        start = time.perf_counter()
        samples = [request["train"][i] for i in batch]
        for group in optimizer.param_groups:
            group["lr"] = request["lr"] * factor
        inputs = rows(torch, samples, [s["answer"] for s in samples], request["videoToken"], visual)
        loss = model(pixel_values=seen(samples), **texts(torch, samples), **inputs, use_cache=False).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
        times.append(time.perf_counter() - start)
    chosen = []
    with torch.inference_mode():
        for sample in request["test"]:
            samples = [sample] * len(sample["choices"])
            inputs = rows(torch, samples, sample["choices"], request["videoToken"], visual)
            labels = inputs.pop("labels")
            logits = model(pixel_values=seen(samples), **texts(torch, samples), **inputs).logits[:, :-1]
            each = torch.nn.functional.cross_entropy(logits.transpose(1, 2), labels[:, 1:], reduction="none", ignore_index=-100)
            chosen.append(int((each.sum(1) / (labels[:, 1:] != -100).sum(1)).argmin()))
    print(json.dumps({
        "chosen": chosen,
        "stepSeconds": statistics.median(times),
        "losses": losses,
        "trained": sum(p.numel() for p in trained),
        "peakBytes": status("VmHWM"),
        "versions": {"torch": torch.__version__, "transformers": transformers.__version__, "peft": peft.__version__},
    }))


if __name__ == "__main__":
    main()
