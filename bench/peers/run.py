"""The peers: what PyTorch and its libraries make of bench/gpu/shapes.json on the same device. What is not installed is
"unavailable". Ends with 0, or with 3 where nothing could run; the last line printed says why.

  run.py [--to FILE] [--seconds N] [--quick] [--wait] [--only ceilings|step|layers|attention|models]

--wait: nothing is asked of the device before a line arrives on stdin. MT_PEERS_DEVICE=cpu: a try without a GPU."""
import importlib
import json
import os
import sys

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path.insert(0, HERE)


def option(name, default=None):
    return sys.argv[sys.argv.index(f"--{name}") + 1] if f"--{name}" in sys.argv else default


def ceilings(bench):
    """cuBLAS's product of two large matrices, and a large copy."""
    torch, n = bench.torch, 64 if bench.quick else 8192

    def product():
        x, w = (torch.randn(n, n, device=bench.device, dtype=torch.bfloat16) for _ in range(2))
        us = bench.graph([lambda: x @ w.t()]) if bench.device == "cuda" else bench.eager([lambda: x @ w.t()])
        return {"us": us, "unit": "TFLOP/s", "value": 2 * n**3 / us["median"] / 1e6}

    def copy():
        x = torch.zeros(1024 if bench.quick else 2**28, device=bench.device)
        y = torch.empty_like(x)
        us = bench.eager([lambda: y.copy_(x)])
        return {"us": us, "unit": "GB/s", "value": 8 * x.numel() / us["median"] / 1e3}

    bench.row("torch", f"product of {n}³", "forward", "graph", product)
    bench.row("torch", "copy", "forward", "eager", copy)


def main():
    try:
        import torch
    except Exception as error:
        print(f"torch: {error}")
        return 3
    if "--wait" in sys.argv:
        sys.stdin.readline()
    device = os.environ.get("MT_PEERS_DEVICE", "cuda")
    if device == "cuda" and not torch.cuda.is_available():
        print(f"torch {torch.__version__} finds no CUDA device")
        return 3
    from common import Bench

    quick, only = "--quick" in sys.argv, option("only")
    with open(os.path.join(HERE, "..", "gpu", "shapes.json")) as f:
        items = json.load(f)["quick" if quick else "items"]
    bench = Bench(torch, device, option("to"), quick, float(option("seconds", 1e6)))
    versions = {}
    for name in ("torch", "triton", "transformers", "peft"):
        try:
            from importlib.metadata import version

            versions[name] = version(name)
        except Exception:
            versions[name] = None
    for group, share in ((only, 1.0),) if only else (("step", 0.4), ("layers", 0.6), ("attention", 0.8), ("models", 1.0)):
        bench.until(share)
        if group == "ceilings":
            ceilings(bench)
        else:
            importlib.import_module(group).run(bench, items)
    bench.save(device=device, versions=versions)
    fine = sum(row["status"] == "ok" for row in bench.rows)
    missing = [row for row in bench.rows if row["status"] != "ok"]
    print(f"{fine} of {len(bench.rows)} rows" + (f"; {missing[0]['id']}: {missing[0]['reason']}" if missing else ""))
    return 0 if fine else 3


if __name__ == "__main__":
    sys.exit(main())
