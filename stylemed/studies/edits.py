"""Adding and removing a tumor by a walk: how often a judge agrees, what else changes, and how near it comes to the truth.

The labeller chooses where walks end, on `train`; the judge measures, on `test`. Only slices count that the reader in question reads
right on their unedited reconstruction; the others are counted apart. Truth are the twins of a phantom (`stylemed phantom --twins`).
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pandas as pd
import torch

from stylemed.data.store import LEAST_LIVER
from stylemed.data.truth import LEAST_ACROSS, truth
from stylemed.errors import BadInput
from stylemed.evaluation.edits import EFFECTS, TRUTH, corrected_change, edit_effects, inpaint, truth_errors
from stylemed.evaluation.judge import check_reader
from stylemed.evaluation.memorization import nearest
from stylemed.evaluation.reconstruction import by_patient
from stylemed.latent.codes import Codes, codes_of
from stylemed.latent.direction import Direction, mean_style, random_direction, steps_to, walk
from stylemed.latent.generation import random_styles
from stylemed.latent.guided import guided_edit
from stylemed.latent.inversion import check_networks, codes_by
from stylemed.latent.mixing import LEVELS, layers_of, synthesize
from stylemed.provenance import Provenance, belong_together, refuse_seen
from stylemed.statistics import evenly_spaced, mean_interval
from stylemed.studies import Result, begun, digests_of, kept_codes, kept_table
from stylemed.training.reader import Findings

WAYS = {"add": 1, "remove": 0}  # what the reader shall tell afterwards
TARGETS = (0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0, 8.0)  # scores of the latent classifier where a walk may end, in steps
AIM = 0.95  # share changed: the nearest target that reaches it is chosen
OWN_WAY = "each slice its own way"  # `guided_edit`, in the place of a direction
DRAWN = 4096  # random styles whose spread gives the random directions theirs


def run(
    store,
    generator,
    encoder,
    labeller,
    judge,
    directions: Mapping[str, Direction],
    *,
    second=None,
    levels=("all", *LEVELS),
    count: int = 500,
    few: int = 100,
    randoms: int = 99,
    modality: str = "CT",
    steps: int = 0,
    guided: int = 0,
    work: str | Path,
    seed: int = 0,
    progress: bool = True,
) -> Result:
    """The study on slices of one modality; what takes long is kept in the folder `work`, and the same call goes on from there.

    Args:
        second: a judge of another architecture, measured beside the first.
        levels: whose styles are moved; a direction that was found on some layers moves these alone.
        count: slices with and without tumor, of `test`, at most. few: of them for the curves and for each random direction, and of
            `train` for the choice of a target. Tumors under 3 pixels across and livers under 1 % of the image are not asked for.
        randoms: directions of the same length for each slice, with the spread of w.
        steps: of descent from the encoder's answers, before anything is walked; what the encoder loses nobody can edit.
        guided: steps of `guided_edit` by the labeller, on the slices that count, told as direction OWN_WAY; 0 leaves it out. It was
            given its place and weights on `train`, and takes no part in choice, curve, random and delta.

    Tables: counted (slices by judge and way, those read right on their reconstruction, errors of the judge on the slices), choice
    (by the labeller, on `train`), effects (EFFECTS of each judge, with 95 % intervals over patients), curve, random, truth and
    delta (of slices with twins). Way "add" is asked of tumor-free slices, "remove" of those with tumor.

    BadInput where these do not belong together, and where judge, labeller or a direction has learned from `test` patients.
    """
    began = time.monotonic()
    judges = {"judge": judge} | ({} if second is None else {"second judge": second})
    _check(store, generator, encoder, labeller, judges, directions, guided)
    made_from = digests_of({"generator": generator, "encoder": encoder, "labeller": labeller, **judges})
    made_from |= digests_of({f"direction, {name}": direction for name, direction in directions.items()})
    settings = {"count": count, "few": few, "random": randoms, "modality": modality, "resolution": generator.resolution}
    settings |= {"targets": list(TARGETS), "aim": AIM, "levels": list(levels), "steps": steps}
    settings |= {"guided": guided} if guided else {}
    key = {"store": store.digest, "made_from": made_from, "settings": settings, "seed": seed}
    kept = _Kept(Path(work), json.loads(json.dumps(key)))
    bench = _Bench(store, generator, encoder, modality, steps, kept, seed, progress)

    walks = [_Walk(name, d, level) for name, d in directions.items() for level in _levels(d, levels, generator)]
    train = {way: bench.side("train", way, few) for way in WAYS} if walks else {}
    choice = [kept.table(f"choice {w}", lambda w=w: _choose(bench, labeller, train, w)) for w in walks]
    test = {way: bench.side("test", way, count) for way in WAYS}
    seen = {name: {way: bench.read(reader, test[way]) for way in WAYS} for name, reader in judges.items()}
    targets = {}
    for w, table in zip(walks, choice, strict=True):
        targets[w] = table[table["chosen"]].set_index("way")["target"].to_dict()
    counted = _counted(test, seen)
    tables = {"counted": counted, "choice": _joined(choice)}

    def effects(w: _Walk) -> pd.DataFrame:
        moved = {way: w.codes(side.w_plus, targets[w][way]) for way, side in test.items()}
        table = _effects(bench, judges, seen, test, counted, moved)
        return (
            table.assign(direction=w.name, level=w.level, target=table["way"].map(targets[w])) if len(table) else table
        )

    found = [kept.table(f"effects {w}", lambda w=w: effects(w)) for w in walks]
    own = {}
    if guided:
        own = {
            way: bench.guided(labeller, way, side, [read[way].right for read in seen.values()], guided)
            for way, side in test.items()
        }
        found.append(
            _effects(bench, judges, seen, test, counted, own).assign(direction=OWN_WAY, level="all", target=np.nan)
        )
    tables["effects"] = _joined(found)
    whole = {w.name: w for w in walks if w.level in ("all", str(w.direction.layers))}
    first = ("judge", judge, seen["judge"])
    tables["curve"] = _joined(
        kept.table(f"curve {w}", lambda w=w: _curve(bench, first, test, w, few)) for w in whole.values()
    )
    spread = _spread(generator, seed) if walks else None
    tables["random"] = _joined(
        kept.table(f"random {w}", lambda w=w: _random(bench, first, test, w, targets[w], few, randoms, spread))
        for w in whole.values()
    )
    compared = {f"walk, {name}": w.codes(test["remove"].w_plus, targets[w]["remove"]) for name, w in whole.items()}
    compared |= {OWN_WAY: own["remove"]} if guided else {}
    removed = seen["judge"]["remove"], test["remove"]
    tables |= _against_truth(bench, *removed, compared, whole, spread, randoms, count)
    minutes = (time.monotonic() - began) / 60
    return Result("edits", tables, str(store.digest), made_from, seed, settings, minutes)


# -- who takes part


@dataclass(frozen=True, eq=False)
class _Walk:
    """A direction and the level it moves."""

    name: str
    direction: Direction
    level: str

    def __str__(self) -> str:
        return f"{self.name}, {self.level}"

    def codes(self, w_plus, target: float, along: Direction | None = None) -> torch.Tensor:
        """Codes [B, L, latent] moved to a score; along: another direction, by the same length."""
        steps = steps_to(w_plus, self.direction, target)
        layers = None if self.level == str(self.direction.layers) else self.level
        return walk(w_plus, along or self.direction, steps[:, None], layers)[:, 0]


@dataclass(frozen=True)
class _Side:
    """Slices of one way: rows of the store, their patients, codes, and unedited reconstructions [N, 1, R, R]."""

    rows: np.ndarray
    patients: np.ndarray
    w_plus: np.ndarray
    before: torch.Tensor

    def part(self, where) -> _Side:
        return _Side(self.rows[where], self.patients[where], self.w_plus[where], self.before[where])


@dataclass(frozen=True)
class _Reading:
    """What a reader tells of the unedited reconstructions of a side, which it reads right, and its share right on slices."""

    found: Findings
    right: np.ndarray
    on_slices: float


@dataclass(frozen=True)
class _Kept:
    """Tables and codes in a folder, each with the key of the study that made it."""

    folder: Path
    key: dict

    def table(self, name: str, make: Callable[[], pd.DataFrame]) -> pd.DataFrame:
        return kept_table(self.folder / f"{name.replace('/', '-')}.json", self.key, make)

    def codes(self, name: str, rows, make: Callable[[], Codes]) -> np.ndarray:
        key = self.key | {"rows": [int(row) for row in rows]}
        return kept_codes(self.file(name), key, make).w_plus

    def file(self, name: str) -> Path:
        """Of codes."""
        return self.folder / f"{name}.safetensors"


@dataclass(frozen=True)
class _Bench:
    """What every part of the study takes: slices of one modality, and the way into latent space and back."""

    store: object
    generator: object
    encoder: object
    modality: str
    steps: int
    kept: _Kept
    seed: int
    progress: bool

    @property
    def per_unit(self) -> float:
        return self.store.windows[self.modality].per_unit

    def encoded(self, name: str, rows) -> np.ndarray:
        """Codes w+ of slices: the encoder's answers, and some steps of descent from there."""
        options = dict(steps=self.steps, partial=begun(self.kept.file(name)), progress=self.progress)
        return self.kept.codes(name, rows, lambda: codes_by(self.store, self.generator, self.encoder, rows, **options))

    def side(self, split: str, way: str, count: int) -> _Side:
        rows = _spaced(asked(self.store, split, way, self.modality), count)
        w_plus = self.encoded(f"{split} {way}", rows)
        patients = self.store.slices["patient"].to_numpy()[rows]
        return _Side(rows, patients, w_plus, synthesize(self.generator, w_plus))

    def read(self, reader, side: _Side) -> _Reading:
        true = (self.store.slices["tumor_px"].to_numpy()[side.rows] > 0).astype(int)
        found = reader.findings(side.before)
        told = reader.findings(self.store.images(side.rows)).table["tumor"].to_numpy()
        return _Reading(found, found.table["tumor"].to_numpy() == true, float((told == true).mean()))

    def guided(self, labeller, way: str, side: _Side, by_judge: list[np.ndarray], steps: int) -> np.ndarray:
        """Codes w+ of a side, edited by the labeller where any judge reads the slice right; the others as they are."""
        options = dict(per_unit=self.per_unit, steps=steps, seed=self.seed, progress=self.progress)
        moved, done = side.w_plus.copy(), np.zeros(len(side.rows), bool)
        for number, right in enumerate(by_judge):
            todo = np.flatnonzero(right & ~done)  # a further judge changes nothing of what the first one measures
            name = f"guided {way}" + (f", {number + 1}" if number else "")

            def make(todo=todo) -> Codes:
                w_plus = guided_edit(self.generator, labeller, side.w_plus[todo], WAYS[way], **options).w_plus
                return codes_of(self.store, side.rows[todo], w_plus, {}, "test")

            if len(todo):
                moved[todo] = self.kept.codes(name, side.rows[todo], make)
            done |= right
        return moved

    def effects(self, reader, side: _Side, found, w_plus, way: str) -> pd.DataFrame:
        """EFFECTS of moved codes on the slices of a side, and their patients; a row each."""
        after = synthesize(self.generator, w_plus)
        table = edit_effects(side.before, after, found, reader.findings(after), WAYS[way], self.per_unit)
        return table.assign(patient=side.patients)


def asked(store, split: str, way: str, modality: str) -> np.ndarray:
    """Rows of a split that a way is asked of; BadInput where there are none."""
    rows = store.select(split, tumor=way == "remove", modality=modality)
    true = truth(store, rows)
    keep = true["liver_px"] >= LEAST_LIVER * store.resolution**2
    keep &= (true["tumor_across"] >= LEAST_ACROSS) | (way == "add")
    if not keep.any():
        raise BadInput(
            f"{store.path} has no {modality} slice of {split} to {way} a tumor; give it more patients, "
            "or choose another modality."
        )
    return rows[keep.to_numpy()]


def _check(store, generator, encoder, labeller, judges, directions, guided: int) -> None:
    check_networks(store, generator, encoder)
    if getattr(labeller, "kind", None) == "judge":
        raise BadInput("A judge may not choose where walks end; give a labeller, which has learned from train.")
    if not directions and not guided:
        raise BadInput(
            "No direction was given to walk along; find one with stylemed direction, or give --guided STEPS."
        )
    for reader in (labeller, *judges.values()):
        check_reader(reader, store)
    parts = {"generator": generator, "encoder": encoder, "labeller": labeller, **judges}
    refuse_seen(parts | {f"direction {name}": one for name, one in directions.items()}, store)
    for name, direction in directions.items():
        mine, its = getattr(generator, "provenance", Provenance()), direction.provenance
        cure = "find it on codes or samples of this generator"
        belong_together(mine, its, names=("the generator", f"the direction {name}"), same_store=False, cure=cure)
        if len(direction.vector) != generator.latent_size:
            raise BadInput(
                f"The direction {name} was found in another latent space than that of the generator; {cure}."
            )


def _levels(direction: Direction, levels, generator) -> list[str]:
    if direction.layers != "all":
        return [str(direction.layers)]
    return [level for level in levels if layers_of(level, generator.num_layers)]


def _spaced(rows, count: int) -> np.ndarray:
    return rows[evenly_spaced(len(rows), count)]


def _joined(tables) -> pd.DataFrame:
    """Tables under each other; those without rows (no slice was read right) say nothing."""
    tables = [table for table in tables if len(table)]
    return pd.concat(tables, ignore_index=True) if tables else pd.DataFrame()


def _spread(generator, seed: int) -> Codes:
    """Codes of random styles, for the spread of w."""
    w_plus = random_styles(generator, DRAWN, 1.0, seed)
    return Codes(pd.DataFrame({"patient": np.arange(DRAWN).astype(str)}), w_plus.cpu().numpy())


# -- what is measured


def _choose(bench: _Bench, labeller, train: Mapping[str, _Side], w: _Walk) -> pd.DataFrame:
    """By way and target what the labeller sees on `train`; chosen is the nearest target with AIM changed, else that with most."""
    rows = []
    for way, side in train.items():
        read = bench.read(labeller, side)
        mine = side.part(read.right)
        found = some_findings(read.found, read.right)
        shares = []
        for target in TARGETS if read.right.any() else ():
            goal = target if WAYS[way] else -target
            mean = bench.effects(labeller, mine, found, w.codes(mine.w_plus, goal), way)[list(EFFECTS)].mean()
            shares.append(mean["changed"])
            rows.append(
                {"direction": w.name, "level": w.level, "way": way, "target": goal, **mean, "slices": len(mine.rows)}
            )
        if shares:
            enough = np.flatnonzero(np.array(shares) >= AIM)
            best = enough[0] if len(enough) else int(np.argmax(shares))
            for k, row in enumerate(rows[-len(shares) :]):
                row["chosen"] = k == best
    if {row["way"] for row in rows} != set(WAYS):
        raise BadInput(
            "The labeller reads no train slice of some class right on its reconstruction; train it for longer."
        )
    return pd.DataFrame(rows)


def some_findings(found: Findings, where) -> Findings:
    """The findings of some of the images, by a mask or by positions."""
    return Findings(found.masks[where], found.table.iloc[where].reset_index(drop=True))


def _counted(test: Mapping[str, _Side], seen) -> pd.DataFrame:
    rows = []
    for name, readings in seen.items():
        for way, read in readings.items():
            rows.append(
                {
                    "judge": name,
                    "way": way,
                    "slices": len(read.right),
                    "patients": len(set(test[way].patients)),
                    "right": int(read.right.sum()),
                    "right on slices": read.on_slices,
                }
            )
    return pd.DataFrame(rows)


def _effects(bench, judges, seen, test, counted, moved: Mapping[str, np.ndarray]) -> pd.DataFrame:
    """EFFECTS of moved codes [N, L, latent] by judge and way, and the share changed without the judge's errors."""
    parts = []
    for way, side in test.items():
        for name, reader in judges.items():
            read = seen[name][way]
            if not read.right.any():
                continue
            some = some_findings(read.found, read.right)
            table = bench.effects(reader, side.part(read.right), some, moved[way][read.right], way)
            found = by_patient(table, bench.seed, EFFECTS)
            shares = counted[counted["judge"] == name].set_index("way")["right on slices"]
            again = found[found["what"] == "changed"].assign(what="changed, corrected")
            for column in ("value", "low", "high"):
                again[column] = corrected_change(again[column], WAYS[way], shares["remove"], shares["add"])
            found = pd.concat([found, again], ignore_index=True)
            parts.append(found.assign(judge=name, way=way))
    return _joined(parts)


def _curve(bench, first, test, w: _Walk, few: int) -> pd.DataFrame:
    """EFFECTS over the targets on some test slices, by the first judge; it has no part in the choice."""
    _, reader, readings = first
    rows = []
    for way, side in test.items():
        where = _spaced(np.flatnonzero(readings[way].right), few) if readings[way].right.any() else []
        for target in TARGETS if len(where) else ():
            goal, some = (target if WAYS[way] else -target), side.part(where)
            table = bench.effects(
                reader, some, some_findings(readings[way].found, where), w.codes(some.w_plus, goal), way
            )
            low, high, _ = mean_interval(table["changed"].to_numpy(), some.patients, bench.seed)
            row = {
                "direction": w.name,
                "way": way,
                "target": goal,
                **table[list(EFFECTS)].mean(),
                "low": low,
                "high": high,
            }
            rows.append(row | {"slices": len(where)})
    return pd.DataFrame(rows)


def _random(bench, first, test, w: _Walk, targets, few: int, randoms: int, spread: Codes) -> pd.DataFrame:
    """EFFECTS of random directions, each slice moved as far as along the direction; `own` is the direction on the same slices.

    p: share of all directions, itself among them, that change at least as many slices.
    """
    _, reader, readings = first
    rows = []
    for way, side in test.items():
        where = _spaced(np.flatnonzero(readings[way].right), few) if readings[way].right.any() else []
        if not len(where) or not randoms:
            continue
        some, found = side.part(where), some_findings(readings[way].found, where)

        def mean(along=None, some=some, found=found, way=way) -> pd.Series:
            moved = w.codes(some.w_plus, targets[way], along)
            return bench.effects(reader, some, found, moved, way)[list(EFFECTS)].mean()

        own = mean()
        others = pd.DataFrame([mean(_random_like(w, spread, bench.seed + i)) for i in range(randoms)])
        row = {"direction": w.name, "way": way, "target": targets[way], "directions": randoms, "slices": len(where)}
        row |= {f"own {name}": own[name] for name in EFFECTS} | others.mean().to_dict()
        p = (1 + (others["changed"] >= own["changed"]).sum()) / (1 + randoms)
        rows.append(row | {"most changed": others["changed"].max(), "p": p})
    return pd.DataFrame(rows)


def _random_like(w: _Walk, spread: Codes, seed: int) -> Direction:
    """A random direction whose step is as long as that of the walk."""
    return replace(random_direction(spread, replace(w.direction, split=None), seed), step=w.direction.step)


# -- against the truth


def _against_truth(
    bench, read, side: _Side, edited, whole, spread, randoms: int, count: int
) -> dict[str, pd.DataFrame]:
    """Tables truth and delta of the tumor slices that have a twin; both empty where none has.

    truth: TRUTH against the twin, by what is compared with it (edited: codes by name), among all and among those whose tumor the
    judge sees in the reconstruction. delta: what the encoder tells of the twins, where a slice minus its twin is the true change w.
    """
    store = bench.store
    twins = store.twin_rows(side.rows)
    has, right = twins >= 0, read.right[twins >= 0]
    some, twins = side.part(has), twins[has]
    if not len(twins):
        return {"truth": pd.DataFrame(), "delta": pd.DataFrame()}
    true_w = bench.encoded("test twins", twins)
    slices, true, labels = store.images(some.rows), store.images(twins), np.asarray(store.labels[some.rows])
    pool = store.images(store.select("train", tumor=False, modality=bench.modality))
    compared = {"slice as it is": slices, "unedited reconstruction": some.before}
    compared |= {name: synthesize(bench.generator, codes[has]) for name, codes in edited.items()}
    if len(pool):
        compared["nearest tumor-free training slice"] = pool[nearest(slices, pool)[1]]
    compared["inpainting of the true outline"] = inpaint(slices, labels == 2)
    compared["reconstruction of the twin"] = synthesize(bench.generator, true_w)
    parts = []
    for name, images in compared.items():
        table = truth_errors(images, true, labels, bench.per_unit).assign(patient=some.patients)
        for among, where in (("all", np.full(len(table), True)), ("seen in the reconstruction", right)):
            if where.any() and not (name == OWN_WAY and among == "all"):  # the others were not edited
                parts.append(by_patient(table[where], bench.seed, TRUTH).assign(way=name, among=among))
    delta = _delta(bench, some, true_w, whole, spread, randoms, count) if whole else pd.DataFrame()
    return {"truth": pd.concat(parts, ignore_index=True), "delta": delta}


def _delta(bench, side: _Side, true_w, whole, spread: Codes, randoms: int, count: int) -> pd.DataFrame:
    """Cosine of the true change in W with each direction, with random ones (mean size), and with the mean true change of `train`.

    The last is what one direction for all can reach. Steps: how far the true change goes along the direction.
    """
    rows = asked(bench.store, "train", "remove", bench.modality)
    twins = bench.store.twin_rows(rows)
    rows = _spaced(rows[twins >= 0], count) if (twins >= 0).any() else rows[:0]
    if len(rows):
        pairs = bench.encoded("train tumors", rows), bench.encoded("train twins", bench.store.twin_rows(rows))
    out = {}
    for name, w in whole.items():
        layers, vector = w.direction.layers, w.direction.vector.astype(float)
        change = mean_style(side.w_plus, layers).astype(float) - mean_style(true_w, layers)
        length = np.linalg.norm(change, axis=1).clip(1e-12)
        out[f"cosine, {name}"] = change @ vector / length
        out[f"steps, {name}"] = change @ vector / w.direction.step
        others = [_random_like(w, spread, bench.seed + i).vector for i in range(randoms)]
        if others:
            out[f"cosine, random as {name} (size)"] = np.abs(change @ np.array(others, float).T).mean(axis=1) / length
        if len(rows):
            learned = (mean_style(pairs[0], layers).astype(float) - mean_style(pairs[1], layers)).mean(axis=0)
            learned /= np.linalg.norm(learned).clip(1e-12)
            out[f"cosine, mean true change of train ({name})"] = change @ learned / length
            out[f"cosine of mean true change of train and {name}"] = np.full(len(change), learned @ vector)
    table = pd.DataFrame(out).assign(patient=side.patients)
    return by_patient(table, bench.seed, list(out))
