"""The loop that drives any training: progress, log, snapshots, checkpoints, resume, time limit.

A trainer counts images (`nimg`), and every random number it draws is a function of (seed, nimg): a run that is killed and started
again repeats exactly what an unbroken one does, on the same processor and number of threads.
"""

import hashlib
import math
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Protocol

import torch
from tqdm import tqdm

from stylemed.errors import BadInput
from stylemed.training.distributed import Team
from stylemed.training.run import Run

MOST_SKIPPED = 50  # steps in a row with non-finite gradients before a run gives up


class Trainer(Protocol):
    nimg: int
    seconds_reading: float  # spent in the data set so far
    resolution: int  # side of the images it is at

    def step(self) -> dict[str, float]: ...  # one step; the numbers are averaged over a tick

    def state_dict(self) -> dict: ...

    def load_state_dict(self, state: dict) -> None: ...

    def row(self) -> dict: ...  # what a line of the log says besides averages

    def snapshot(self, run: Run) -> None: ...  # sample grid and exported weights


def random_stream(seed: int, nimg: int, name: str) -> torch.Generator:
    """A generator of random numbers that depends on (seed, nimg, name) only."""
    digest = hashlib.sha256(f"{seed} {nimg} {name}".encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:8], "little") >> 1)


def next_positions(nimg: int, count: int, size: int, seed: int) -> list[int]:
    """Positions of the next `count` images in a data set of `size`: every epoch is a permutation of its own."""
    positions = []
    while len(positions) < count:
        epoch, start = divmod(nimg + len(positions), size)
        order = torch.randperm(size, generator=random_stream(seed, epoch, "order"))
        positions += order[start : start + count - len(positions)].tolist()
    return positions


@torch.no_grad()
def move_average(averaged: torch.nn.Module, network: torch.nn.Module, beta: float) -> None:
    """averaged = beta * averaged + (1 - beta) * network, for every parameter (not for buffers)."""
    torch._foreach_lerp_(list(averaged.parameters()), list(network.parameters()), 1 - beta)


class GradientGuard:
    """Steps an optimizer unless a gradient is not finite; counts what it skipped and gives up after too many in a row."""

    def __init__(self):
        self.skipped = 0
        self.in_a_row = 0

    def step(self, optimizer: torch.optim.Optimizer) -> None:
        gradients = [p.grad for group in optimizer.param_groups for p in group["params"] if p.grad is not None]
        if all(math.isfinite(n) for n in torch.stack(torch._foreach_norm(gradients)).tolist()):
            optimizer.step()
            self.in_a_row = 0
            return
        self.skipped += 1
        self.in_a_row += 1
        if self.in_a_row >= MOST_SKIPPED:
            raise BadInput(
                f"Training has come apart: {MOST_SKIPPED} steps in a row had gradients that are not finite; "
                "lower the learning rate or raise r1_gamma, and begin a new run."
            )


def drive(
    trainer: Trainer,
    run: Run,
    config: dict,
    *,
    kimg: float,
    tick_kimg: float,
    snapshot_ticks: int,
    max_minutes: float | None = None,
    progress: bool = True,
    on_snapshot: Callable[[Run, Trainer], None] | None = None,
    team: Team | None = None,
) -> Run:
    """Train until `kimg` thousand images were shown (in all, resumed ones included) or `max_minutes` have passed.

    The same call resumes. Ends with a checkpoint and exported weights. Of a team, the first process reads and writes the folder,
    which nobody else can use until the call is over, whatever ends it.
    """
    team = team or Team()
    with _opened(run, config, team) as state:
        _go_on(trainer, run, state, kimg, tick_kimg, snapshot_ticks, max_minutes, progress, on_snapshot, team)
    return run


def _go_on(
    trainer, run, state: dict | None, kimg, tick_kimg, snapshot_ticks, max_minutes, progress, on_snapshot, team
) -> None:
    """The training itself, from `state` (of a checkpoint) on; the rest as `drive` takes it."""
    first = team.rank == 0
    rows: list[dict] = []
    sums: dict[str, float] = {}
    steps = 0
    trained_seconds = 0.0
    if state is not None:
        trainer.load_state_dict(state["trainer"])
        rows, sums, steps, trained_seconds = state["rows"], state["sums"], state["steps"], state["seconds"]
        if state["threads"] != torch.get_num_threads():
            warnings.warn(
                f"{run.path} was trained with {state['threads']} threads and goes on with {torch.get_num_threads()}: "
                "results will differ in the last digits.",
                stacklevel=2,
            )
    if first:
        run.write_log(rows)
    saved = trainer.nimg if state is not None else -1
    started, tick_started, tick_nimg = time.monotonic(), time.monotonic(), trainer.nimg
    tick_reading = trainer.seconds_reading
    bar = tqdm(
        total=round(kimg, 3),
        initial=round(min(trainer.nimg / 1000, kimg), 3),
        unit="kimg",
        disable=not (progress and first),
        desc=run.path.name,
        bar_format="{desc}: {percentage:3.0f}%|{bar}| {n:.2f}/{total:.2f} kimg [{elapsed}<{remaining}{postfix}]",
        mininterval=1.0,
    )

    def save() -> None:
        nonlocal saved
        if saved == trainer.nimg:
            return
        saved = trainer.nimg
        if not first:
            return
        trainer.snapshot(run)  # before the checkpoint: a kill in between repeats it
        try:
            if on_snapshot is not None:
                on_snapshot(run, trainer)
        finally:  # whatever a callback does, the training is kept
            run.save_checkpoint(
                {
                    "trainer": trainer.state_dict(),
                    "rows": rows,
                    "sums": sums,
                    "steps": steps,
                    "seconds": trained_seconds + time.monotonic() - started,
                    "threads": torch.get_num_threads(),
                },
                trainer.nimg,
                trainer.resolution,
            )

    def row(now: float) -> dict:
        took = max(now - tick_started, 1e-9)
        return {
            "kimg": trainer.nimg / 1000,
            **trainer.row(),
            **{name: value / steps for name, value in sums.items()},
            "minutes": (trained_seconds + now - started) / 60,
            "images_per_second": (trainer.nimg - tick_nimg) / took,
            "reading_share": (trainer.seconds_reading - tick_reading) / took,
        }

    tick = 1000 * tick_kimg
    with bar:
        while trainer.nimg < 1000 * kimg:
            if max_minutes is not None and team.agree(time.monotonic() - started > 60 * max_minutes):
                break
            before = trainer.nimg
            for name, value in trainer.step().items():
                sums[name] = sums.get(name, 0.0) + value
            steps += 1
            bar.update(min(trainer.nimg / 1000, kimg) - min(before / 1000, kimg))
            if int(trainer.nimg // tick) > int(before // tick):
                now = time.monotonic()
                rows.append(row(now))
                rate = rows[-1]["images_per_second"]
                told = f"{rate:.1f} img/s, {rows[-1]['resolution']}²"
                bar.set_postfix_str(told + (f", p {rows[-1]['p']:.2f}" if "p" in rows[-1] else ""))
                if first:
                    run.write_log(rows)
                sums, steps = {}, 0
                if len(rows) % snapshot_ticks == 0:
                    save()
                tick_started, tick_nimg = time.monotonic(), trainer.nimg
                tick_reading = trainer.seconds_reading
    save()
    # What came after the last tick is told too, but not kept: a resumed run begins its tick where it was.
    if first and steps:
        run.write_log([*rows, row(time.monotonic())])


@contextmanager
def _opened(run: Run, config: dict, team: Team) -> Iterator[dict | None]:
    """The state to go on from, the same for all processes; the first one holds the lock on the folder meanwhile.

    A notebook keeps the frames of what was interrupted, so the lock is given back here and not when nobody refers to it.
    """
    lock = state = refusal = None
    try:
        if team.rank == 0:
            try:
                lock = run.begin(config)
                state = run.load_checkpoint()
            except BadInput as error:
                refusal = str(error)
        refusal, state = team.agree((refusal, state))
        if refusal:
            raise BadInput(refusal)
        yield state
    finally:
        if lock is not None:
            lock.release()
