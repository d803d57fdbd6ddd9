"""What the peers share: the counter-based generator that the addon has too (native/ops/copy.cc), inputs by name, timing
with and without CUDA graphs, samples of results. Alone: `common.py SEED STREAM COUNT [python|numpy|torch]` prints numbers."""
import json
import math
import os
import struct
import sys
import time

MASK = 0xFFFFFFFF
STREAMS = ["x", "q", "k", "v", "dy", "alpha", "w", "w1", "w2", "w3", "w4", "w5", "w6", "a", "b", "a2", "b2", "bias", "up"]  # bench/gpu/inputs.ts


def seed_of(text):
    h = 2166136261
    for c in text.encode():
        h = ((h ^ c) * 16777619) & MASK
    return h


def philox(counter, stream, seed):
    """Four random words for each counter: an int, or an int64 array of numpy or torch, whose products wrap around."""
    c = [counter & MASK, (counter >> 32) & MASK, stream & MASK, (stream >> 32) & MASK]
    k0, k1 = seed & MASK, (seed >> 32) & MASK
    for _ in range(10):
        p0, p1 = 0xD2511F53 * c[0], 0xCD9E8D57 * c[2]
        c = [((p1 >> 32) & MASK) ^ c[1] ^ k0, p1 & MASK, ((p0 >> 32) & MASK) ^ c[3] ^ k1, p0 & MASK]
        k0, k1 = (k0 + 0x9E3779B9) & MASK, (k1 + 0xBB67AE85) & MASK
    return c


def normal_four(upper, m, std=1.0):
    """Box and Muller over pairs, in float64, from the upper 24 bits of four words; m has log, sqrt, cos and sin."""
    unit = [(w + 0.5) * 2.0**-24 for w in upper]
    out = []
    for i in (0, 2):
        radius, angle = std * m.sqrt(-2.0 * m.log(unit[i])), 2.0 * math.pi * unit[i + 1]
        out += [radius * m.cos(angle), radius * m.sin(angle)]
    return out


def uniform_four(upper, low=0.0, high=1.0):
    return [low + (high - low) * (w * 2.0**-24) for w in upper]


def float32(x):
    return struct.unpack("f", struct.pack("f", x))[0]


def below(low, high):
    """The largest float32 below `high`."""
    bits = struct.unpack("i", struct.pack("f", high))[0]
    return low if low == high else struct.unpack("f", struct.pack("i", bits - 1 if high > 0 else bits + 1))[0]


def numbers(kind, seed, stream, count, library="python", low=0.0, high=1.0, std=1.0):
    """As a list of float32 numbers, by plain Python, numpy or torch."""
    groups = (count + 3) // 4
    def four(words, m):
        upper = [w >> 8 for w in words]
        return normal_four(upper, m, std) if kind == "normal" else uniform_four(upper, low, high)

    if library == "python":
        rows = [four(philox(g, stream, seed), math) for g in range(groups)]
        flat = [float32(x) for row in rows for x in row][:count]
    elif library == "numpy":
        import numpy as np

        flat = np.stack(four(philox(np.arange(groups, dtype=np.int64), stream, seed), np), 1).reshape(-1)[:count].astype(np.float32).tolist()
    else:
        import torch

        flat = tensor_of(torch, kind, seed, stream, count, "cpu", low, high, std).tolist()
    return flat if kind == "normal" else [min(x, below(low, high)) for x in flat]


def tensor_of(torch, kind, seed, stream, count, device, low=0.0, high=1.0, std=1.0, most=2**22):
    """As bench/gpu/inputs.ts draws them: what is larger than `most` repeats."""
    if count > most:
        row = tensor_of(torch, kind, seed, stream, most, device, low, high, std)
        return torch.cat([row.repeat(count // most), row[: count % most]])
    words = philox(torch.arange((count + 3) // 4, dtype=torch.int64, device=device), stream, seed)
    # Before anything is added: an integer tensor and a number make float32.
    upper = [(w >> 8).to(torch.float64) for w in words]
    four = normal_four(upper, torch, std) if kind == "normal" else uniform_four(upper, low, high)
    out = torch.stack(four, 1).reshape(-1)[:count].to(torch.float32)
    return out if kind == "normal" else out.clamp(max=below(low, high))


class Inputs:
    """Inputs of an item. The first set is drawn, the others are copies of it elsewhere in memory."""

    def __init__(self, torch, item, device):
        self.torch, self.item, self.device, self.first, self.used, self.bytes = torch, item, device, {}, set(), 0

    def next(self):
        self.used = set()

    def once(self, name, make):
        if name not in self.first:
            self.first[name] = make()
            self.bytes += self.first[name].numel() * self.first[name].element_size()
            self.used.add(name)
        elif name not in self.used:
            self.used.add(name)
            return self.first[name].detach().clone()
        return self.first[name]

    def normal(self, name, shape, std=1.0, dtype="bfloat16"):
        t = self.torch
        return self.once(name, lambda: tensor_of(t, "normal", seed_of(self.item["id"]), STREAMS.index(name), math.prod(shape), self.device, std=std).to(getattr(t, dtype)).reshape(shape))

    def uniform(self, name, shape, low, high):
        return self.once(name, lambda: tensor_of(self.torch, "uniform", seed_of(self.item["id"]), STREAMS.index(name), math.prod(shape), self.device, low, high).reshape(shape))


class Bench:
    """Collects rows and writes them, whole, after each."""

    def __init__(self, torch, device, path, quick, seconds):
        self.torch, self.device, self.path, self.quick, self.rows = torch, device, path, quick, []
        self.start, self.seconds = time.time(), seconds
        self.end = self.start + seconds

    def until(self, share):
        """From here on, what comes after this share of the time is late."""
        self.end = self.start + share * self.seconds

    @property
    def late(self):
        return time.time() > self.end

    def save(self, **more):
        text = json.dumps({**more, "rows": self.rows})
        if not self.path:
            return
        with open(self.path + ".part", "w") as f:
            f.write(text)
        os.replace(self.path + ".part", self.path)

    def row(self, peer, item, step, mode, make, same=True, **more):
        """make() gives {us, digest}. What it throws makes the row unavailable: a peer that cannot run is no fault of ours."""
        row = {"id": f"{peer}: {item} {step}, {mode}", "peer": peer, "item": item, "pass": step, "mode": mode, "same": same, **more}
        if self.late:
            self.rows.append({**row, "status": "unavailable", "reason": "no time was left"})
        else:
            try:
                self.rows.append({**row, "status": "ok", **make()})
            except Exception as error:
                lines = (str(error) or type(error).__name__).strip().splitlines()
                self.rows.append({**row, "status": "unavailable", "reason": lines[0][:300]})
        self.save()

    def wait(self):
        if self.device == "cuda":
            self.torch.cuda.synchronize()

    def sample(self, work, calls):
        def elapsed(times):
            start = time.perf_counter()
            for _ in range(times):
                work()
            self.wait()
            return 1e6 * (time.perf_counter() - start)

        once = spent = elapsed(1)
        while not self.quick and spent < 20000:  # until clocks are up and everything is loaded
            once = elapsed(1)
            spent += once
        repeat = 1 if self.quick else min(2000, max(1, math.ceil(2000 / once)))
        count = 3 if self.quick else 20
        us = sorted(elapsed(repeat) / (repeat * calls) for _ in range(count))
        at = lambda q: us[min(count - 1, int(q * count))]
        return {"median": at(0.5), "p10": at(0.1), "p90": at(0.9), "samples": count}

    def eager(self, calls):
        return self.sample(lambda: [call() for call in calls], len(calls))

    def graph(self, calls):
        """All calls captured into one CUDA graph, replayed."""
        torch = self.torch
        if self.device != "cuda":
            raise RuntimeError("graphs need a CUDA device")
        side = torch.cuda.Stream()
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            for call in calls[:2]:
                call()
        torch.cuda.current_stream().wait_stream(side)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            kept = [call() for call in calls]
        times = self.sample(graph.replay, len(calls))
        del kept, graph
        return times

    def digest(self, outputs):
        """As bench/gpu/kernels.ts has it."""
        out = []
        for t in outputs:
            flat = t.detach().reshape(-1).float()
            n = flat.numel()
            first = flat[:65536].double()
            number = lambda x: float(f"{x:.6g}") if math.isfinite(x) else None  # JSON has no NaN
            out.append({"at": [number(float(x)) for x in flat[:: max(1, n // 32)][:32].cpu()], "rms": number(float((first * first).mean().sqrt()))})
        return out


def difference(both, forward):
    """Times of backward: of both passes less those of forward. Where that is nothing, it was not measured."""
    if both["median"] <= forward["median"]:
        raise RuntimeError("both passes took no longer than forward alone: the difference is lost in the noise")
    return {**{k: max(0.0, both[k] - forward[k]) for k in ("median", "p10", "p90")}, "samples": both["samples"]}


if __name__ == "__main__":
    seed, stream, count = (int(x) for x in sys.argv[1:4])
    library = sys.argv[4] if len(sys.argv) > 4 else "python"
    print(json.dumps({"normal": numbers("normal", seed, stream, count, library), "uniform": numbers("uniform", seed, stream, count, library, -3.0, 5.0), "seed": seed_of("spatial 4/8/32")}))
