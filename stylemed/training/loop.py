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
from stylemed.training.run import Checkpoint, Run
from stylemed.training.schedule import Intervals

MOST_SKIPPED = 50  # steps in a row with non-finite gradients before a run gives up


class Trainer(Protocol):
    config: Intervals
    nimg: int
    seconds_reading: float  # spent in the data set so far
    resolution: int  # side of the images it is at
    saved: tuple[str, ...]  # its attributes that a checkpoint holds

    def step(self) -> dict[str, float]: ...  # one step; the numbers are averaged over a tick

    def row(self) -> dict: ...  # what a line of the log says besides averages

    def grid(self, run: Run) -> None: ...  # write a sample grid

    def export(self, run: Run) -> None: ...  # write the weights


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


def precision_of(config, device: torch.device):
    """bfloat16 where a configuration asks for it: convolutions and dense layers; weights and what is summed up stay float32."""
    return torch.autocast(device.type, torch.bfloat16, enabled=config.precision == "bf16")


@torch.no_grad()
def move_average(averaged: torch.nn.Module, network: torch.nn.Module, beta: float) -> None:
    """averaged = beta * averaged + (1 - beta) * network, for every parameter (not for buffers)."""
    torch._foreach_lerp_(list(averaged.parameters()), list(network.parameters()), 1 - beta)


class GradientGuard:
    """Steps an optimizer unless a gradient is not finite; counts what it skipped and gives up after too many in a row."""

    def __init__(self):
        self.skipped = 0
        self.in_a_row = 0

    def state_dict(self) -> dict[str, int]:
        return {"skipped": self.skipped, "in_a_row": self.in_a_row}

    def load_state_dict(self, state: dict[str, int]) -> None:
        self.skipped, self.in_a_row = state["skipped"], state["in_a_row"]

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


class Log:
    """What happened so far: the rows of log.csv, the sums of the row that has begun, and what was done when."""

    saved = ("rows", "sums", "steps", "seconds", "threads", "done")

    def __init__(self):
        self.rows: list[dict] = []
        self.sums: dict[str, float] = {}
        self.steps = 0  # in these sums
        self.trained = 0.0  # seconds, in earlier calls
        self.threads = torch.get_num_threads()
        self.done: dict[str, int] = {}  # nimg at which a grid was drawn last, weights exported, …
        self.started = time.monotonic()

    @property
    def seconds(self) -> float:
        """Trained so far, in all calls."""
        return self.trained + time.monotonic() - self.started

    @seconds.setter
    def seconds(self, value: float) -> None:
        self.trained, self.started = value, time.monotonic()

    def add(self, numbers: dict[str, float]) -> None:
        """What one step tells."""
        for name, value in numbers.items():
            self.sums[name] = self.sums.get(name, 0.0) + value
        self.steps += 1

    def begin_tick(self, trainer: Trainer) -> None:
        self.since = time.monotonic(), trainer.nimg, trainer.seconds_reading

    def row(self, trainer: Trainer) -> dict:
        """What there is to tell since the tick began: means over its steps, and how fast they were."""
        began, nimg, reading = self.since
        took = max(time.monotonic() - began, 1e-9)
        return {
            "kimg": trainer.nimg / 1000,
            **trainer.row(),
            **{name: value / self.steps for name, value in self.sums.items()},
            "minutes": self.seconds / 60,
            "images_per_second": (trainer.nimg - nimg) / took,
            "reading_share": (trainer.seconds_reading - reading) / took,
        }

    def end_tick(self, trainer: Trainer) -> dict:
        """Close the row that has begun."""
        self.rows.append(self.row(trainer))
        self.sums, self.steps = {}, 0
        return self.rows[-1]


def passed(before: int, now: int, kimg: float) -> bool:
    """Whether a multiple of `kimg` thousand images lies in (before, now]."""
    return int(now // (1000 * kimg)) > int(before // (1000 * kimg))


def drive(
    trainer: Trainer,
    run: Run,
    asked: dict,
    *,
    kimg: float,
    max_minutes: float | None = None,
    progress: bool = True,
    on_snapshot: Callable[[Run, Trainer], None] | None = None,
    team: Team | None = None,
) -> Run:
    """Train until `kimg` thousand images were shown (in all, resumed ones included) or `max_minutes` have passed.

    asked: what the run folder keeps as its configuration. The same call resumes. What is due comes in the order of
    `trainer.config`'s `Intervals`, the checkpoint last: a kill in between repeats the others. Of a team, the first process reads
    and writes the folder, which nobody else can use until the call is over, whatever ends it.
    """
    team = team or Team()
    with _opened(run, asked, team) as state:
        _go_on(trainer, run, state, kimg, max_minutes, progress, on_snapshot, team)
    return run


def _go_on(trainer, run, state: dict | None, kimg, max_minutes, progress, on_snapshot, team) -> None:
    """The training itself, from `state` (of a checkpoint) on; the rest as `drive` takes it."""
    first, log, started = team.rank == 0, Log(), time.monotonic()
    checkpoint = Checkpoint(trainer=trainer, log=log)
    threads = log.threads
    if state is not None:
        checkpoint.load(state)
        if log.threads != threads:
            warnings.warn(
                f"{run.path} was trained with {log.threads} threads and goes on with {threads}: "
                "results will differ in the last digits.",
                stacklevel=2,
            )
        log.threads = threads
    if first:
        run.write_log(log.rows)
    log.begin_tick(trainer)
    others = {
        "grid": lambda: trainer.grid(run),
        "export": lambda: trainer.export(run),
        "measure": lambda: on_snapshot and on_snapshot(run, trainer),
    }

    def save(before: int | None = None) -> None:
        """What is due since nimg was `before` (None: all) and was not done at this very nimg; whatever a callback does, the
        checkpoint comes."""

        def due(name: str) -> bool:
            interval = getattr(trainer.config, f"{name}_kimg")
            return log.done.get(name) != trainer.nimg and (before is None or passed(before, trainer.nimg, interval))

        if not first:
            return
        try:
            for name, act in others.items():
                if due(name):
                    act()
                    log.done[name] = trainer.nimg
        finally:
            if due("checkpoint"):
                log.done["checkpoint"] = trainer.nimg
                run.save_checkpoint(checkpoint, trainer.nimg, trainer.resolution)

    bar = tqdm(
        total=round(kimg, 3),
        initial=round(min(trainer.nimg / 1000, kimg), 3),
        unit="kimg",
        disable=not (progress and first),
        desc=run.path.name,
        bar_format="{desc}: {percentage:3.0f}%|{bar}| {n:.2f}/{total:.2f} kimg [{elapsed}<{remaining}{postfix}]",
        mininterval=1.0,
    )
    with bar:
        while trainer.nimg < 1000 * kimg:
            if max_minutes is not None and team.agree(time.monotonic() - started > 60 * max_minutes):
                break
            before = trainer.nimg
            log.add(trainer.step())
            bar.update(min(trainer.nimg / 1000, kimg) - min(before / 1000, kimg))
            ticked = passed(before, trainer.nimg, trainer.config.tick_kimg)
            if ticked:
                row = log.end_tick(trainer)
                told = f"{row['images_per_second']:.1f} img/s, {row['resolution']}²"
                bar.set_postfix_str(told + (f", p {row['p']:.2f}" if "p" in row else ""))
                if first:
                    run.write_log(log.rows)
            if trainer.nimg < 1000 * kimg:  # at the end everything is due
                save(before)
            if ticked:
                log.begin_tick(trainer)
    save()
    # What came after the last tick is told too, but not kept: a resumed run begins its tick where it was.
    if first and log.steps:
        run.write_log([*log.rows, log.row(trainer)])


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
