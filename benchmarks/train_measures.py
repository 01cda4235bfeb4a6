"""One measurement of train_throughput.py, in a process of its own: `python benchmarks/train_measures.py JOB`, in JSON."""

import json
import resource
import statistics
import sys
import tempfile
import time
from contextlib import nullcontext
from math import ceil, prod
from pathlib import Path

import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F
from torch.profiler import ProfilerActivity
from torch.profiler import profile as record
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode
from train_throughput import Setting

from stylemed.data.store import COLUMNS, FORMAT, VERSION, SliceDataset, SliceStore
from stylemed.training.gan import GanTrainer
from stylemed.training.schedule import gan_config


class SmoothImages:
    """A data set in memory: random images [n, 1, R, R] in [-1, 1] without fine detail."""

    channels = 1

    def __init__(self, resolution: int, count: int = 64):
        coarse = torch.randn(count, 1, 8, 8, generator=torch.Generator().manual_seed(0))
        self.resolution = resolution
        self.pixels = F.interpolate(coarse, size=resolution, mode="bicubic").tanh()

    def __len__(self) -> int:
        return len(self.pixels)

    def images(self, positions):
        return self.pixels[positions]


def make_trainer(s: Setting, dataset=None, **more):
    """The trainer of a setting."""
    changes = {**s.changes, "start_resolution": s.resolution, **more}
    if s.batch is not None:
        changes |= {"batch": {}, "batch_default": s.batch}
    if "r1_interval" not in changes:
        changes |= {"r1_interval": s.r1} if s.r1 else {"r1_gamma": 0.0}
    return GanTrainer(dataset or SmoothImages(s.resolution), gan_config(s.preset, s.resolution, **changes), 0, s.device)


def synchronize(device: str) -> None:
    if device == "cuda":
        torch.cuda.synchronize()


def peak_mib(device: str) -> float:
    """Peak memory so far: the process's on CPU, the tensors' on a GPU."""
    if device == "cuda":
        return torch.cuda.max_memory_allocated() / 2**20
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def steps_of(s: Setting) -> int:
    """Steps of a block: whole periods of R1."""
    return max(s.r1, 1) * ceil(s.block_steps / max(s.r1, 1))


def run_block(trainer, s: Setting) -> float:
    """Images per second over one block."""
    synchronize(s.device)
    before, started = trainer.nimg, time.perf_counter()
    for _ in range(steps_of(s)):
        trainer.step()
    synchronize(s.device)
    return (trainer.nimg - before) / (time.perf_counter() - started)


def throughput(s: Setting, seconds: float) -> dict:
    """Rates of blocks, at least three (if so many are asked for) and then until `seconds` have passed; peak memory."""
    base = peak_mib(s.device)
    trainer = make_trainer(s)
    for _ in range(s.warmup):
        run_block(trainer, s)
    rates, started = [], time.perf_counter()
    while len(rates) < s.blocks and (len(rates) < 3 or time.perf_counter() - started < seconds):
        rates.append(run_block(trainer, s))
    result = {"rates": rates, "batch": trainer.now.batch, "steps": steps_of(s), "peak_mib": peak_mib(s.device)}
    result |= {"imports_mib": base, "skipped": trainer.guard_g.skipped + trainer.guard_d.skipped}
    if s.device == "cuda":
        del trainer
        result["gflop_per_image"] = per_image(count_flops(s), s)
    return result


def conv_flops(x, w, _bias, _stride, _padding, _dilation, transposed, *_, out_shape, **__) -> int:
    """Right for grouped convolutions too, which torch's own formula is not in the backward pass."""
    side = x if transposed else out_shape
    return 2 * side[0] * prod(side[2:]) * prod(w)


def conv_backward_flops(grad, x, w, _b, stride, padding, dilation, transposed, _op, _g, mask, out_shape) -> int:
    return (mask[0] + mask[1]) * conv_flops(x, w, _b, stride, padding, dilation, transposed, out_shape=grad)


def count_flops(s: Setting) -> dict[str, float]:
    """GFLOP per image of each phase; convolutions and matrix products (a multiplication and an addition are two)."""
    trainer = make_trainer(s, r1_interval=2, r1_gamma=1.0, compile=False)  # steps with and without R1 by turns
    formulas = {torch.ops.aten.convolution: conv_flops, torch.ops.aten.convolution_backward: conv_backward_flops}
    counter, spent = FlopCounterMode(display=False, custom_mapping=formulas), {}
    counter.mod_tracker = nullcontext()  # its hooks do not stand autograd.grad, which R1 calls
    counter.mod_tracker.parents = {"Global"}

    def counted(name: str) -> None:
        function = getattr(trainer, name)

        def wrapper(*args, **kwargs):
            before = counter.get_total_flops()
            result = function(*args, **kwargs)
            spent[name] = counter.get_total_flops() - before
            return result

        setattr(trainer, name, wrapper)

    for name in ("_train_discriminator", "_train_generator"):
        counted(name)
    phases = []
    for _ in range(2):
        with counter:
            trainer.step()
        total = counter.get_total_flops()
        phases.append({k: v / trainer.now.batch / 1e9 for k, v in {**spent, "step": total}.items()})
    with_r1, without = phases
    return {
        "D step without R1": without["_train_discriminator"],
        "R1": with_r1["_train_discriminator"] - without["_train_discriminator"],
        "G step": without["_train_generator"],
        "whole step without R1": without["step"],
        "whole step with R1": with_r1["step"],
    }


def per_image(phases: dict[str, float], s: Setting) -> float:
    """GFLOP per image, averaged over a period of R1."""
    return phases["whole step without R1"] + (phases["R1"] / s.r1 if s.r1 else 0.0)


def conv_limit(s: Setting, quick: bool) -> dict[str, float]:
    """GFLOP/s of the step's own 3x3 (4x4 where fused) convolutions alone, forward and backward, by memory layout."""
    trainer, shapes = make_trainer(s, compile=False), []

    class Recorder(TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            if func is torch.ops.aten.convolution.default and args[8] == 1 and min(args[1].shape[2:]) > 1:
                shapes.append((tuple(args[0].shape), tuple(args[1].shape), args[3][0], args[4][0], args[6]))
            return func(*args, **(kwargs or {}))

    with torch.no_grad(), Recorder():
        n = trainer.now.batch
        z = torch.randn(n, trainer.config.latent_size, device=s.device)
        trainer.discriminator.forward_native(trainer.generator(z))
    dtype = torch.bfloat16 if s.changes.get("precision") == "bf16" else torch.float32
    flops, spent = 0, {"contiguous": 0.0, "channels_last": 0.0, "better of both": 0.0}
    for shape in sorted(set(shapes)):
        x_shape, w_shape, stride, padding, transposed = shape
        conv = F.conv_transpose2d if transposed else F.conv2d
        times = []
        for layout in (torch.contiguous_format, torch.channels_last):
            x, w = (torch.randn(d, device=s.device, dtype=dtype).to(memory_format=layout) for d in (x_shape, w_shape))
            for tensor in (x, w):
                tensor.requires_grad_()
            out = conv(x, w, stride=stride, padding=padding)
            gradient, runs, started = torch.randn_like(out), [], time.perf_counter()
            while len(runs) < 4 or (not quick and time.perf_counter() - started < 0.3):
                synchronize(s.device)
                begin = time.perf_counter()
                torch.autograd.grad(conv(x, w, stride=stride, padding=padding), (x, w), gradient)
                synchronize(s.device)
                runs.append(time.perf_counter() - begin)
            times.append(statistics.median(runs[1:]))
        for name, seconds in zip(spent, (*times, min(times)), strict=True):
            spent[name] += seconds * shapes.count(shape)
        flops += 3 * shapes.count(shape) * conv_flops(x_shape, w_shape, 0, 0, 0, 0, transposed, out_shape=out.shape)
    return {name: flops / seconds / 1e9 for name, seconds in spent.items()}


def profile(s: Setting) -> list[dict]:
    """The ten operators with most time of their own in one block."""
    trainer = make_trainer(s)
    run_block(trainer, s)
    with record(activities=[ProfilerActivity.CPU] + [ProfilerActivity.CUDA] * (s.device == "cuda")) as recorded:
        run_block(trainer, s)
    own = "self_device_time_total" if s.device == "cuda" else "self_cpu_time_total"
    events = sorted(recorded.key_averages(), key=lambda e: -getattr(e, own))
    total, n = sum(getattr(e, own) for e in events), steps_of(s)
    return [
        {
            "operator": e.key,
            "ms per step": round(getattr(e, own) / 1000 / n, 2),
            "share": f"{getattr(e, own) / total:.1%}",
            "calls per step": round(e.count / n, 1),
        }
        for e in events[:10]
    ]


def make_store(folder: Path, resolution: int, count: int = 256):
    """A SliceStore of smooth images on disk, opened as training does."""
    hu = (SmoothImages(resolution, count).pixels[:, 0].numpy() * 175 + 75).astype(np.int16)
    np.save(folder / "hu.npy", hu)
    np.save(folder / "labels.npy", np.ones(hu.shape, np.uint8))
    rows = [("0", "0", "train", "CT", "", z, float(z), 1, 0, 1) for z in range(count)]
    pd.DataFrame(rows, columns=COLUMNS).to_csv(folder / "slices.csv", index=False)
    info = dict(format=FORMAT, version=VERSION, resolution=resolution, digest="benchmark", windows={"CT": [-100, 250]})
    (folder / "store.json").write_text(json.dumps(info))
    return SliceDataset(SliceStore.open(folder))


def data_share(s: Setting) -> list[dict]:
    """Share of a step that fetching real images takes: from memory, and from a store on disk."""
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        for name, dataset in (
            ("memory", SmoothImages(s.resolution)),
            ("store on disk", make_store(Path(folder), s.resolution)),
        ):
            fetch, spent = dataset.images, []

            def timed(positions, fetch=fetch, spent=spent):
                started = time.perf_counter()
                images = fetch(positions)
                spent.append(time.perf_counter() - started)
                return images

            dataset.images = timed
            trainer = make_trainer(s, dataset)
            run_block(trainer, s)
            spent.clear()
            step = trainer.now.batch / run_block(trainer, s)
            fetched = sum(spent) / steps_of(s)
            row = {"data": name, "fetch ms per step": round(1000 * fetched, 3), "step ms": round(1000 * step, 1)}
            rows.append({**row, "share": f"{fetched / step:.2%}"})
    return rows


def environment(device: str) -> dict:
    lines = Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else []
    cpu = next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), "unknown")
    if device == "cuda" and not torch.cuda.is_available():
        raise NotImplementedError("no CUDA device here")
    gpu = torch.cuda.get_device_name() if device == "cuda" else None
    return {"torch": torch.__version__, "cpu": cpu, "gpu": gpu, "threads": torch.get_num_threads()}


def work(job: dict) -> None:
    """Run one job of the parent; the answer is the last line of stdout."""
    torch.set_num_threads(job["threads"])
    s, task = Setting(**job["setting"]), job["task"]
    tasks = {
        "environment": lambda: environment(s.device),
        "throughput": lambda: throughput(s, job["seconds"]),
        "flops": lambda: {"phases": (phases := count_flops(s)), "gflop_per_image": per_image(phases, s)},
        "limit": lambda: conv_limit(s, job["quick"]),
        "profile": lambda: profile(s),
        "data": lambda: data_share(s),
    }
    try:
        answer = tasks[task]()
    except NotImplementedError as reason:
        answer = {"left_out": str(reason)}
    print(json.dumps(answer))


if __name__ == "__main__":
    work(json.loads(sys.argv[1]))
