"""PyTorch on the CPU as an opponent of bench/: `torch_cpu.py THREADS [compile]` answers the requests of client.ts, a line of JSON
each, until its stdin closes. Needs torch alone, 1.13 or newer; with `compile`, torch.compile and a C++ compiler."""
import ctypes
import gc
import json
import os
import re
import struct
import sys
import time


def blas(torch):
    """What computes its matrix products: as it was built, and what the process has really loaded."""
    shown = torch.__config__.show()
    built = re.search(r"oneAPI Math Kernel Library Version [\d.]+", shown) or re.search(r"BLAS_INFO=\w+", shown)
    found = [built.group(0)] if built else []
    try:
        with open("/proc/self/maps") as f:
            files = sorted(set(re.findall(r"/\S*(?:blas|blis|mkl_rt|mkl_core|nvpl|armpl)\S*\.so\S*", f.read())))
    except OSError:
        files = []
    for path in files:
        try:
            name = ctypes.CDLL(path).openblas_get_corename
            name.restype = ctypes.c_char_p
            found.append(f"{os.path.basename(path)} with the kernels of {name().decode()}")
        except (AttributeError, OSError):
            found.append(os.path.basename(path))
    dnnl = re.search(r"MKL-DNN v[\d.]+", shown)
    return ", ".join([*found, *([dnnl.group(0)] if dnnl else [])])


def read(torch, path):
    """Tensors of a safetensors file of float32."""
    tensors = {}
    with open(path, "rb") as f:
        (length,) = struct.unpack("<Q", f.read(8))
        header = json.loads(f.read(length))
        for name, entry in header.items():
            if name == "__metadata__":
                continue
            if entry["dtype"] != "F32":
                raise ValueError(f"{path}: tensor {name} is {entry['dtype']}, expected F32")
            begin, end = entry["data_offsets"]
            storage = bytearray(end - begin)
            f.seek(8 + length + begin)
            f.readinto(storage)
            tensors[name] = torch.frombuffer(storage, dtype=torch.float32).clone().reshape(entry["shape"]) if storage else torch.empty(entry["shape"])
    return tensors


def write(torch, path, tensors):
    header, at, data = {}, 0, []
    for name, t in tensors.items():
        t = t.detach().to(torch.float32).contiguous()
        raw = ctypes.string_at(t.data_ptr(), 4 * t.numel())
        header[name] = {"dtype": "F32", "shape": list(t.shape), "data_offsets": [at, at + len(raw)]}
        at += len(raw)
        data.append(raw)
    text = json.dumps(header).encode()
    with open(path, "wb") as f:
        f.write(struct.pack("<Q", len(text)) + text)
        for raw in data:
            f.write(raw)


def resident(key):
    """VmRSS or VmHWM of this process in bytes; None where there is no /proc."""
    try:
        with open("/proc/self/status") as f:
            return 1024 * int(re.search(rf"{key}:\s+(\d+)", f.read()).group(1))
    except (OSError, AttributeError):
        return None


class Server:
    def __init__(self, torch, compiled):
        import torch_cases

        self.torch, self.cases, self.compiled, self.prepared = torch, torch_cases, compiled, {}

    def prepare(self, case, outputs):
        before = resident("VmRSS")
        run = self.cases.prepare(case, read(self.torch, case["tensors"]), self.compiled)
        write(self.torch, outputs, run())
        self.prepared[case["id"]] = run, before
        return {}

    def sample(self, id, ms):
        run, _ = self.prepared[id]
        run()
        wall, cpu, end = [], [], time.perf_counter() + ms / 1e3
        while not wall or time.perf_counter() < end:
            a, b = time.process_time(), time.perf_counter()
            run()
            c, d = time.perf_counter(), time.process_time()
            wall.append(round(1e6 * (c - b), 3))
            cpu.append(round(1e6 * (d - a), 3))
        return {"wall": wall, "cpu": cpu}

    def peak(self, id):
        run, before = self.prepared[id]
        try:
            with open("/proc/self/clear_refs", "w") as f:
                f.write("5")  # the high-water mark starts again
        except OSError:
            return {"bytes": None}
        run()
        most = resident("VmHWM")
        return {"bytes": None if most is None or before is None else max(0, most - before)}

    def forget(self, id):
        self.prepared.pop(id, None)
        if self.compiled:
            self.torch._dynamo.reset()
        gc.collect()
        try:
            ctypes.CDLL(None).malloc_trim(0)  # so that the next case's peak is its own
        except (AttributeError, OSError, TypeError):
            pass  # not glibc
        return {}


def main():
    replies = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what a library prints is no reply

    def say(value):
        replies.write(json.dumps(value) + "\n")
        replies.flush()

    try:
        import torch
    except Exception as error:
        return say({"missing": f"{sys.executable}: {error}"})
    threads = int(sys.argv[1])
    torch.set_num_threads(threads)
    torch.manual_seed(0)
    compiled = sys.argv[2:] == ["compile"]
    if compiled:
        try:
            torch.compile(lambda x: torch.sin(x) + 1)(torch.zeros(64))  # compiles C++
        except Exception as error:
            return say({"missing": f"{sys.executable}: torch.compile: {(str(error) or type(error).__name__).strip().splitlines()[0][:200]}"})
    server = Server(torch, compiled)
    attention = "scaled_dot_product_attention" if server.cases.SDPA else "softmax by hand"
    say({"version": torch.__version__, "details": {"BLAS": blas(torch), "threads": str(torch.get_num_threads()), "attention": attention, **({"compiler": "inductor"} if compiled else {}), "python": sys.executable}})
    for line in sys.stdin:
        request = json.loads(line)
        try:
            say(getattr(server, request.pop("do"))(**request))
        except Exception as error:
            say({"unavailable": (str(error) or type(error).__name__).strip().splitlines()[0][:300]})


if __name__ == "__main__":
    main()
