"""Images per second and peak memory of whole training steps (D, G, averaging), beside what others reach.

    python benchmarks/train_throughput.py --repeats 3           # the table of settings, on an idle machine
    python benchmarks/train_throughput.py --large               # one step of the paper's network at 512²
    python benchmarks/train_throughput.py --cuda                # the paper's widths on a GPU, bf16 and compile on and off
    python benchmarks/train_throughput.py --flops | --profile | --data [--only NAME ...] [--cuda]

An image is counted once when D and G were both trained on a batch of it, as `nimg` does. Every measurement runs in a fresh process,
so that its peak memory is its own. A block of steps holds whole periods of lazy R1; the spread is over blocks.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
IDLE = 0.3  # load average above which something else is running
BLOCK_STEPS = 8  # at least; a whole number of R1 periods

# Measured on the same kind of machine, two cores, same architecture; source: project notes. (low, high) images/s.
PEERS = {
    "StyleGAN1 ports, 64², R1 each step": (8, 10),
    "StyleGAN2-ADA, 64², lazy R1 every 16": (14, 15),
    "StyleGAN1 ports, 128², R1 each step": (6, 7),
    "StyleGAN2-ADA, 128², lazy R1 every 16": (8, 8),
}


@dataclass(frozen=True)
class Setting:
    """A preset without growing and what is changed in it; `r1` is the interval of R1, 0 for none."""

    name: str
    resolution: int
    r1: int
    batch: int | None = None  # None: the preset's
    preset: str = "ct-64"  # latent 256, mapping 8, fmap_base 1024, fmap_max 64
    changes: dict = field(default_factory=lambda: {"augment": "none"})
    peer: str | None = None
    blocks: int = 8
    block_steps: int = BLOCK_STEPS
    warmup: int = 1  # blocks
    device: str = "cpu"


def cpu_settings() -> list[Setting]:
    """Two cores, minutes each."""
    sg1, sg2, sg1_128, sg2_128 = PEERS
    rows = []
    for batch in (8, 16):
        rows += [
            Setting(f"64-b{batch}-none", 64, 0, batch),
            Setting(f"64-b{batch}-lazy16", 64, 16, batch, peer=sg2),
            Setting(f"64-b{batch}-lazy8", 64, 8, batch),
            Setting(f"64-b{batch}-each", 64, 1, batch, peer=sg1),
            # p begins above 0, else nothing would be warped
            Setting(f"64-b{batch}-lazy8-ada", 64, 8, batch, changes={"augment": "ada", "augment_p": 0.5}),
        ]
    rows += [Setting("128-b8-each", 128, 1, 8, peer=sg1_128), Setting("128-b8-lazy16", 128, 16, 8, peer=sg2_128)]
    for precision in ("float32", "bf16"):
        wide = {"augment": "none", "fmap_base": 8192, "fmap_max": 256, "precision": precision}
        rows.append(Setting(f"64-b8-wide256-{precision}", 64, 8, 8, changes=wide, blocks=3))
    return rows


def large_settings() -> list[Setting]:
    """One cold step of the paper's network: seconds and memory."""
    return [Setting("512-paper-step", 512, 1, preset="paper", changes={}, blocks=1, block_steps=1, warmup=0)]


def cuda_settings() -> list[Setting]:
    """The paper's widths, batches and R1 at each step."""
    return [
        Setting(
            f"{side}-paper-{precision}{'-compiled' * compiled}",
            side,
            r1=1,
            preset="paper",
            changes={"precision": precision, "compile": compiled},
            warmup=2,
            device="cuda",
        )
        for side in (64, 128, 256, 512)
        for precision in ("float32", "bf16")
        for compiled in (False, True)
    ]


def ask(task: str, s: Setting, options) -> dict | list:
    """The answer of a fresh process, or {"left_out": why}."""
    job = {"task": task, "setting": asdict(s), "threads": options.threads, "seconds": options.seconds}
    job["quick"] = options.quick
    print(f"{task} {s.name} …", file=sys.stderr, flush=True)
    environ = os.environ | {"OMP_NUM_THREADS": str(options.threads)}
    environ["PYTHONPATH"] = os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
    command = [sys.executable, str(Path(__file__).with_name("train_measures.py")), json.dumps(job)]
    done = subprocess.run(command, capture_output=True, text=True, env=environ)
    if done.returncode:
        why = (done.stderr.strip().splitlines() or [""])[-1]
        return {"left_out": f"failed ({done.returncode}): {why[:300]}"}
    return json.loads(done.stdout.splitlines()[-1])


def markdown(rows: list[dict]) -> str:
    lines = [list(rows[0]), ["---"] * len(rows[0])] + [[str(v) for v in row.values()] for row in rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def summary(s: Setting, answers: list[dict]) -> dict:
    """A row of the table from the answers of all repeats."""
    good = [a for a in answers if "left_out" not in a]
    keys = ("batch", "img/s", "min–max", "middle half", "by repeat", "s/step", "peak MiB", "of it imports")
    if not good:
        return {"setting": s.name, **dict.fromkeys(keys, ""), "remark": answers[0]["left_out"]}
    rates = [rate for a in good for rate in a["rates"]]
    middle = statistics.median(rates)
    quarters = statistics.quantiles(rates, n=4, method="inclusive") if len(rates) > 1 else rates * 3
    by_repeat = ", ".join(f"{statistics.median(a['rates']):.2f}" for a in good)
    spread = (f"{min(rates):.2f}–{max(rates):.2f}", f"{quarters[0]:.2f}–{quarters[2]:.2f}", by_repeat)
    memory = (f"{max(a[k] for a in good):.0f}" for k in ("peak_mib", "imports_mib"))
    values = (good[0]["batch"], f"{middle:.2f}", *spread, f"{good[0]['batch'] / middle:.3g}", *memory)
    row = {"setting": s.name, **dict(zip(keys, values, strict=True)), "remark": ""}
    if s.peer:
        low, high = PEERS[s.peer]
        row["remark"] = f"{middle / high:.2f}–{middle / low:.2f} × {s.peer}"
    if "gflop_per_image" in good[0]:
        row["remark"] = f"{good[0]['gflop_per_image'] * middle / 1000:.1f} TFLOP/s"
    if any(a["skipped"] for a in good):
        row["remark"] += f"; {max(a['skipped'] for a in good)} steps skipped (gradients not finite)"
    return row


def flops_rows(s: Setting, options) -> tuple[dict, list[dict], dict]:
    """Everything of --flops for one setting: raw answers, the phases, and the share of the limit."""
    raw = {task: ask(task, s, options) for task in ("flops", "limit", "throughput")}
    if reason := next((a["left_out"] for a in raw.values() if "left_out" in a), None):
        return raw, [{"phase": reason}], {"setting": s.name, "remark": reason}
    gflop, rate = raw["flops"]["gflop_per_image"], statistics.median(raw["throughput"]["rates"])
    speed = raw["limit"]["better of both"]
    row = {"setting": s.name, "GFLOP per image": f"{gflop:.2f}", "achieved img/s": f"{rate:.2f}"}
    row |= {"achieved GFLOP/s": f"{rate * gflop:.0f}"}
    row |= {f"convolutions, {name}, GFLOP/s": f"{value:.0f}" for name, value in raw["limit"].items()}
    row |= {"limit img/s": f"{speed / gflop:.2f}", "share of the limit": f"{rate * gflop / speed:.0%}"}
    return raw, [{"phase": k, "GFLOP per image": f"{v:.3f}"} for k, v in raw["flops"]["phases"].items()], row


def start_record(options, device: str) -> dict:
    """Date, commit, machine and load, before anything runs."""
    load = os.getloadavg()[0]

    def git(*words):
        return subprocess.run(["git", *words], cwd=ROOT, capture_output=True, text=True).stdout.strip()

    dirty = " with changes" if git("status", "--porcelain", "--untracked-files=no") else ""
    record = {"date": datetime.now(UTC).isoformat(timespec="seconds"), "commit": git("rev-parse", "HEAD")[:12] + dirty}
    record |= {"load": round(load, 2), "quick": options.quick}
    if load > IDLE:
        print(f"warning: load average {load:.2f}: something else is running, the numbers mean little", file=sys.stderr)
    return record | ask("environment", Setting("machine", 64, 0, device=device), options)


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, words in {
        "large": "only one step of the paper's network at 512²",
        "cuda": "on a GPU",
        "flops": "floating-point operations and share of the limit",
        "profile": "ten most expensive operators",
        "data": "share of fetching real images",
        "quick": "few short blocks: to see that it runs",
    }.items():
        parser.add_argument(f"--{name}", action="store_true", help=words)
    parser.add_argument("--only", nargs="+", metavar="NAME", help="settings by name")
    parser.add_argument("--repeats", type=int, default=1, help="of the whole table")
    parser.add_argument("--seconds", type=float, default=90.0, help="per setting, after three blocks")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--out", type=Path, default=ROOT / "_build" / "benchmarks" / "train_throughput.json")
    return parser.parse_args()


def main() -> None:
    options = parse()
    if options.cuda:
        settings, usual = cuda_settings(), ["64-paper-float32", "512-paper-bf16"]
    else:
        settings, usual = cpu_settings() + large_settings(), ["64-b8-lazy16", "128-b8-lazy16"]
    details = options.flops or options.profile or options.data
    names = options.only or (usual if details else [s.name for s in settings])
    if unknown := set(names) - {s.name for s in settings}:
        sys.exit(f"no setting {', '.join(sorted(unknown))}; there are {', '.join(s.name for s in settings)}")
    if not options.only and not options.cuda and not details:
        large = [s.name for s in large_settings()]
        names = [name for name in names if (name in large) == options.large]
    settings = [s for s in settings if s.name in names]
    if options.quick:
        few = {"blocks": 2, "block_steps": 1, "warmup": 0}
        settings = [Setting(**{**asdict(s), **few, "r1": min(s.r1, 2)}) for s in settings]

    result = {"environment": start_record(options, "cuda" if options.cuda else "cpu")}
    print("\n".join(f"- {k}: {v}" for k, v in result["environment"].items()) + "\n")
    if "left_out" in result["environment"]:
        sys.exit(1)
    if not details:
        answers = {s.name: [] for s in settings}
        for _ in range(options.repeats):
            for s in settings:
                answers[s.name].append(ask("throughput", s, options))
        rows = [summary(s, answers[s.name]) for s in settings]
        result |= {"settings": [asdict(s) for s in settings], "answers": answers, "table": rows, "peers": PEERS}
        print(markdown(rows) + "\n")
        if any(s.peer for s in settings):
            print("Peers: measured on the same kind of machine, two cores, same architecture; source: project notes.\n")
            print(markdown([{"peer": k, "img/s": f"{a}–{b}" if a != b else a} for k, (a, b) in PEERS.items()]) + "\n")
    if options.flops:
        shares = []
        for s in settings:
            raw, phases, row = flops_rows(s, options)
            result.setdefault("flops", {})[s.name] = raw
            print(f"### {s.name}\n\n{markdown(phases)}\n")
            shares.append(row)
        for row in shares:
            print(markdown([row]) + "\n")
    for task in [name for name in ("profile", "data") if getattr(options, name)]:
        for s in settings:
            rows = result.setdefault(task, {})[s.name] = ask(task, s, options)
            print(f"### {task}: {s.name}\n\n{markdown(rows if isinstance(rows, list) else [rows])}\n")
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.write_text(json.dumps(result, indent=1, ensure_ascii=False) + "\n")
    print(f"wrote {options.out}", file=sys.stderr)


if __name__ == "__main__":
    main()
