"""Does it help? A classifier of few patients, with class-specific images in its training and with what costs less.

Every arm trains the same network for as many steps, chooses its learning rate and its share of added images from a grid of the same
size by cross-validation within the training patients, and is measured on the same `test` patients.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from functools import cached_property
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from sklearn.model_selection import StratifiedGroupKFold
from tqdm.auto import tqdm

from stylemed.errors import BadInput
from stylemed.evaluation.classification import agreement, corrected, differences, drawn_numbers, in_words, worth
from stylemed.evaluation.judge import check_reader
from stylemed.latent.codes import Codes, codes_of, encode_store
from stylemed.latent.direction import steps_to, walk
from stylemed.latent.generation import class_images
from stylemed.latent.guided import Guided, guided_edit, local_edit
from stylemed.latent.inversion import check_networks, codes_by
from stylemed.latent.mixing import synthesize
from stylemed.provenance import Provenance, belong_together, refuse_seen
from stylemed.statistics import auc_draws
from stylemed.studies import Result, digests_of, kept_codes, kept_table
from stylemed.studies.few_patients import Few, Pool, TestSlices, labelled_patients, paint_discs
from stylemed.training.classifier import train_classifier, tumor_scores

# Name of an arm -> what the classifier learns from.
REAL = {
    "real": "labelled slices alone",
    "oversampled": "and those with a tumor again, until balanced",
    "duplicated": "and both classes again, as often as `generated` adds them",
    "painted": "and tumor-free ones with a painted disc, until balanced",
    "more patients": "labelled slices of twice as many patients",
}
MADE = {
    "generated": "and generated images, half of them with a tumor",
    "coarse": "and generated ones with a tumor by coarse styles, until balanced",
    "direction": "and generated ones with a tumor by the walk, until balanced",
    "walked": "and tumor-free slices, encoded and walked to a tumor, until balanced",
    "guided": "and such slices, each edited its own way to a tumor by the labeller, until balanced",
    "spot": "and such slices, with the change of that edit put into the slice itself, until balanced",
    "generated only": "generated images of both classes alone",
}
ARMS = REAL | MADE
# Nothing to add where classes are balanced.
FOR_BALANCE = ("oversampled", "painted", "coarse", "direction", "walked", "guided", "spot")
RIVALS = ("guided", "painted")  # of spot: the same edit drawn whole, and the same places without any network
# Learning rates and shares of the added images that take part: points of equal number for arms without and with added images.
GRIDS = {
    "alone": ((1e-3, 1.0), (3e-3, 1.0)),
    "beside": ((3e-3, 0.5), (3e-3, 1.0)),
}


@dataclass(frozen=True)
class Pipeline:
    """What makes class-specific images. encoder, labeller and direction belong to the generator."""

    generator: object
    encoder: object
    labeller: object
    direction: object

    @classmethod
    def of(cls, bundle) -> Pipeline:
        """That of a released model; BadInput where it has no direction of tumors."""
        towards = [direction for direction in bundle.directions.values() if direction.label == "tumor"]
        if not towards:
            raise BadInput(f"{bundle.name} has no direction of tumors to walk along; release it with one.")
        return cls(bundle.generator, bundle.encoder, bundle.labeller, towards[0])

    @property
    def parts(self) -> dict[str, object]:
        return {one.name: getattr(self, one.name) for one in fields(self)}

    @cached_property
    def digests(self) -> dict[str, str]:
        return digests_of(self.parts)

    def learned_from(self, few: Provenance) -> str:
        """own: only from the few patients. Else whether labels of others were used, or only their images. Or not known.

        A direction found on labelled samples names all patients behind its generator; their labels are those of its labeller.
        """
        its = {name: getattr(part, "provenance", Provenance()) for name, part in self.parts.items()}
        if not all(one.patients for one in its.values()):
            return "not known"
        others = {name: set(one.patients) - set(few.shared_patients(one)) for name, one in its.items()}
        if its["direction"].made_from.get("labeller") == self.digests["labeller"]:
            others["direction"] = set()
        if others["labeller"] or others["direction"]:
            return "labels of more patients"
        return "larger unlabelled set" if others["generator"] or others["encoder"] else "own"


def run(
    store,
    pipelines: Mapping[str, Pipeline],
    judge=None,
    *,
    patients: int = 11,
    ratio: float = 5.0,
    curve=(4, 11, 30, 60),
    arms=tuple(ARMS),
    seeds: int = 5,
    steps: int = 300,
    times: float = 2.0,
    blocks: int = 1,
    margin: float = 1.0,
    descent: int = 50,
    edit_steps: int = 100,
    grids: Mapping = GRIDS,
    modality: str = "CT",
    work: str | Path,
    seed: int = 0,
    progress: bool = True,
) -> Result:
    """The study for so many training patients; each classifier is kept in the folder `work`, and the same call goes on from there.

    Args:
        pipelines: by name; the arms of MADE are trained for each. judge: whose errors are compared with the classifier's.
        patients: of `train` and with labels, the first so many by name, which have to be in no order that matters.
        ratio: tumor-free slices for each with a tumor, reached by leaving slices out: `few_rows`.
        curve: numbers of patients that real slices alone are measured with, as far as there are so many; `patients` is added.
        seeds: classifiers of each arm. steps: of each. blocks: of each stage of its ResNet.
        times: generated images of both classes for each real slice, at most; the grid decides on the share.
        margin: score of the latent classifier where walks end, in steps.
        descent: steps from the encoder's answers, before slices are walked or edited. edit_steps: of `guided_edit`.
        grids: for arms "alone" and "beside" added images, points (learning rate, share) of equal number.

    Tables: test (slices by class), training (what each arm learned from, and what was chosen), tuning (the whole grid), arms (AUC
    and sensitivity, mean of the seeds with their spread), differences (from "real"; p by bootstrap, Holm's correction over the
    arms), contrasts (of spot from RIVALS, column `rival`; Holm's correction over all of them), curve, worth (the number of real
    patients that reaches an arm's AUC), agreement (of the classifier's errors with the judge's). Intervals (95 %) and p are of a
    bootstrap of patients and seeds, paired between arms. Only tumors of at least 3 pixels across are learned from; `tumors` says
    whether smaller ones are asked for.

    What the choice by cross-validation cannot know: generator, labeller and direction have seen the patients that are held out.
    BadInput where parts do not belong together or have learned from `test` patients, and for too few patients or slices.
    """
    began = time.monotonic()
    _check(store, pipelines, judge, arms, grids)
    names = labelled_patients(store, modality)
    if len(names) < patients:
        raise BadInput(
            f"{store.path} has {len(names)} labelled patients of train with {modality}, not {patients}; ask for fewer."
        )
    how = dict(steps=steps, blocks=blocks)
    make = dict(times=times, margin=margin, descent=descent, edit_steps=edit_steps)
    settings = dict(patients=patients, ratio=ratio, seeds=seeds, **how, **make, modality=modality)
    settings |= {"grids": {name: [list(point) for point in grid] for name, grid in grids.items()}}
    few = Few(store, names[:patients], ratio, modality, seed)
    test = TestSlices.of(store, modality)
    wanted = [arm for arm in ARMS if arm in {"real", *arms} and (few.missing or arm not in FOR_BALANCE)]
    wanted = [arm for arm in wanted if arm in REAL or pipelines]
    counts = sorted({patients, *(n for n in curve if n <= len(names))})
    if len(names) < 2 * patients:
        wanted = [arm for arm in wanted if arm != "more patients"]
    settings |= {"curve": counts, "left out": [arm for arm in arms if arm not in wanted], "seed of draws": seed}

    on_curve = [Arm(f"{n} patients", "real", Few(store, names[:n], ratio, modality, seed)) for n in counts]
    jobs = {"real": on_curve[counts.index(patients)]}
    for arm in wanted[1:]:
        if arm == "more patients":
            jobs[arm] = Arm(arm, "real", Few(store, names[: 2 * patients], ratio, modality, seed))
        elif arm in REAL:
            jobs[arm] = Arm(arm, arm, few, times=times)
        else:
            made = {f"{arm}, {name}": (name, pipeline) for name, pipeline in pipelines.items()}
            jobs |= {name: Arm(name, arm, few, *whose, Path(work), **make) for name, whose in made.items()}
    for job in tqdm([*on_curve, *jobs.values()], desc="arms", disable=not progress):
        job.train(test, Path(work), grids, seeds, how, seed)

    true = (test.y, test.large, test.patients, seed)
    found = {name: drawn_numbers(job.scores, *true) for name, job in jobs.items()}
    curve_found = [drawn_numbers(job.scores, *true) for job in on_curve]
    tables = {
        "test": test.counted(),
        "training": pd.DataFrame([{"arm": name, **job.told()} for name, job in jobs.items()]),
    }
    tables["tuning"] = pd.concat([job.tuning.assign(arm=name) for name, job in jobs.items()], ignore_index=True)
    tables["arms"] = pd.concat([in_words(each).assign(arm=name) for name, each in found.items()], ignore_index=True)
    tables["differences"], tables["contrasts"] = differences(found), _contrasts(found, pipelines)
    rows = [in_words(each).assign(patients=n) for n, each in zip(counts, curve_found, strict=True)]
    tables["curve"], tables["worth"] = pd.concat(rows, ignore_index=True), worth(found, counts, curve_found)
    made_from = {f"{kind}, {name}": value for name, p in pipelines.items() for kind, value in p.digests.items()}
    if judge is not None:
        made_from |= digests_of({"judge": judge})
        read = judge.findings(test.images).table["tumor_score"].to_numpy()
        tables["agreement"] = agreement(read, {name: job.scores for name, job in jobs.items()}, *true)
    minutes = (time.monotonic() - began) / 60
    return Result("augmentation", tables, str(store.digest), made_from, seed, settings, minutes)


# -- who takes part


def _check(store, pipelines, judge, arms, grids) -> None:
    for arm in set(arms) - set(ARMS):
        raise BadInput(f"There is no arm {arm}; there are: {', '.join(ARMS)}.")
    if set(arms) & set(MADE) and set(arms) != set(ARMS) and not pipelines:
        made = ", ".join(arm for arm in arms if arm in MADE)
        raise BadInput(f"Images for {made} come from a pipeline; give one with --pipeline NAME=MODEL.")
    if len({len(grid) for grid in grids.values()}) > 1 or set(grids) != set(GRIDS):
        raise BadInput("The grids for arms alone and beside added images differ in size; give both as many points.")
    if not len(store.select("test")):
        raise BadInput(f"{store.path} has no slice of test to measure on; prepare it with test patients.")
    for name, pipeline in pipelines.items():
        check_networks(store, pipeline.generator, pipeline.encoder)
        check_reader(pipeline.labeller, store)
        if getattr(pipeline.labeller, "kind", None) == "judge":
            raise BadInput(f"The pipeline {name} has a judge in the place of the labeller; a judge only measures.")
        its, towards = (getattr(part, "provenance", Provenance()) for part in (pipeline.generator, pipeline.direction))
        cure = "find it on codes or samples of this generator"
        who = (f"the generator of {name}", f"the direction of {name}")
        belong_together(its, towards, names=who, same_store=False, cure=cure)
        refuse_seen({f"{kind} of {name}": part for kind, part in pipeline.parts.items()}, store)
    if judge is not None:
        check_reader(judge, store)
        refuse_seen({"judge": judge}, store)


# -- what is added


def _painted(few: Few) -> Pool:
    rng, known = np.random.default_rng(few.seed), few.tumors()
    where = few.livers()
    source, like = few.some(where), known.iloc[rng.integers(len(known), size=len(where))]
    livers = np.asarray(few.store.labels[few.rows[where]]) > 0
    images = paint_discs(source.images.numpy(), livers, like["across"], like["contrast"], rng)
    return Pool(torch.from_numpy(images), np.ones(len(where), int), source.patients)


def _generated(few: Few, pipeline: Pipeline, by: str, count: int, share: float, margin: float) -> Pool:
    """`class_images`; their coarse styles are those of the training slices, and so they are taken for images of these patients."""
    how = dict(by=by, ratio=share, direction=pipeline.direction, margin=margin, modality=few.modality, seed=few.seed)
    if by == "coarse":
        how["codes"] = encode_store(few.store, pipeline.encoder, rows=few.rows, progress=False)
    made = class_images(pipeline.generator, pipeline.labeller, count, **how)
    patients = np.full(count, "", dtype=object)
    if by == "coarse":
        table = how["codes"].table
        of = {f"{case} z {z}": who for case, z, who in zip(table["case"], table["z"], table["patient"], strict=True)}
        patients = made.table["class_source"].map(of).to_numpy()
    return Pool(made.images.clamp(-1, 1), made.table["class"].to_numpy().astype(int), patients)


# -- the classifiers of an arm


@dataclass
class Arm:
    """What it learns from (`added`, `pool`); once trained, what was chosen and its scores of test slices [seeds, N].

    arm: one of ARMS; name: it may be there with several pipelines. work: folder that keeps codes of slices.
    """

    name: str
    arm: str
    few: Few
    pipeline_name: str = ""
    pipeline: Pipeline | None = None
    work: Path | None = None
    times: float = 1.0
    margin: float = 1.0
    descent: int = 0
    edit_steps: int = 0
    tuning: pd.DataFrame = field(default_factory=pd.DataFrame)
    scores: np.ndarray = field(default_factory=lambda: np.zeros((0, 0)))

    @cached_property
    def real(self) -> Pool:
        return self.few.pool()

    @cached_property
    def added(self) -> Pool | None:
        few, both = self.few, round(self.times * len(self.few.rows) / 2) * 2
        if self.arm == "oversampled":
            return few.some(few.turns(np.flatnonzero(few.y == 1), few.missing))
        if self.arm == "duplicated":
            return few.some(np.concatenate([few.turns(np.flatnonzero(few.y == state), both // 2) for state in (0, 1)]))
        if self.arm == "painted":
            return _painted(few)
        if self.arm == "walked":
            return self._walked()
        if self.arm in ("guided", "spot"):
            return self._edited()
        if self.arm in ("generated", "generated only"):
            return _generated(few, self.pipeline, "coarse", both, 0.5, self.margin)
        if self.arm in ("coarse", "direction"):
            return _generated(few, self.pipeline, self.arm, few.missing, 1.0, self.margin)
        return None

    def _walked(self) -> Pool:
        few, parts = self.few, self.pipeline
        where = few.livers()
        w_plus = self._encoded(few.rows[where])
        steps = steps_to(w_plus, parts.direction, self.margin)
        images = synthesize(parts.generator, walk(w_plus, parts.direction, steps[:, None])[:, 0]).clamp(-1, 1)
        return Pool(images, np.ones(len(where), int), few.some(where).patients)

    def _edited(self) -> Pool:
        """As wide as the training tumors are, at places drawn by chance; spot: the change alone, in the slices themselves."""
        few, parts = self.few, self.pipeline
        where, across = few.livers(), few.tumors()["across"].to_numpy()
        rows, slices = few.rows[where], few.some(where)
        radius = np.random.default_rng(few.seed).choice(across, len(where)) / 2
        w_plus = self._encoded(rows)
        how = dict(per_unit=few.store.windows[few.modality].per_unit, radius=radius, seed=few.seed, progress=False)

        def edit(steps: int) -> Guided:
            return guided_edit(parts.generator, parts.labeller, w_plus, 1, steps=steps, **how)

        def make() -> Codes:
            return codes_of(few.store, rows, edit(self.edit_steps).w_plus, {}, "train")

        moved = self._kept("edits", {"rows": rows.tolist(), "edit steps": self.edit_steps}, make)
        images = synthesize(parts.generator, moved).clamp(-1, 1)
        if self.arm == "spot":
            before = synthesize(parts.generator, w_plus).clamp(-1, 1)
            images = local_edit(slices.images, before, images, edit(0).asked)
        return Pool(images, np.ones(len(where), int), slices.patients)

    def _encoded(self, rows) -> np.ndarray:
        """Codes w+ of rows, some of them several times."""
        store, parts = self.few.store, self.pipeline
        unique, of = np.unique(rows, return_inverse=True)

        def make() -> Codes:
            return codes_by(store, parts.generator, parts.encoder, unique, steps=self.descent, progress=False)

        return self._kept("codes", {"rows": unique.tolist()}, make)[of]

    def _kept(self, what: str, key: dict, make) -> np.ndarray:
        """Codes from `work`, where two arms take the same and a killed study goes on."""
        if self.work is None:
            return make().w_plus
        key |= {"store": self.few.store.digest, "descent": self.descent, "made from": self.pipeline.digests}
        return kept_codes(_folder(self.work, self.few) / f"{what}, {self.pipeline_name}.safetensors", key, make).w_plus

    def pool(self, share: float, held=()) -> Pool:
        """What a classifier learns from, without anything that was made from slices of patients who are held out."""
        parts = [] if self.arm == "generated only" else [self.real]
        parts += [] if self.added is None else [self.added]
        parts = [part.part(np.flatnonzero(~np.isin(part.patients.astype(str), list(held)))) for part in parts]
        if len(parts) == 1:
            return parts[0]
        return parts[0] + parts[1].share(share)

    @property
    def grid_name(self) -> str:
        return "alone" if self.arm in ("real", "generated only") else "beside"

    def train(self, test: TestSlices, work: Path, grids, seeds: int, how: Mapping, seed: int) -> None:
        """Choose in the grid, train the classifiers; what is kept in `work` is not made again."""
        few, grid = self.few, grids[self.grid_name]
        key = {
            "store": few.store.digest,
            "patients": few.names,
            "ratio": few.ratio,
            "modality": few.modality,
            "seed": seed,
        }
        key |= {"arm": self.arm, "grid": grid, **how}
        if self.arm not in ("real", "oversampled", "painted"):
            key |= {"times": self.times}
        key |= self.made_from()
        if self.arm in ("walked", "guided", "spot"):
            key |= {"descent": self.descent}
        if self.arm in ("guided", "spot"):
            key |= {"edit steps": self.edit_steps}
        # Real slices alone are the same arm for whoever asks for so many patients.
        name = "real" if self.arm == "real" else self.name
        folder = _folder(work, few)
        self.tuning = kept_table(folder / f"{name}, tuning.json", key, lambda: self._tuned(grid, how, seed))
        best = self.tuning[self.tuning["chosen"]].iloc[0]

        def classified(number: int) -> pd.DataFrame:
            pool = self.pool(best["share"])
            network = train_classifier(pool.images, pool.y, rate=best["rate"], seed=seed + number, **how)
            return pd.DataFrame({"score": tumor_scores(network, test.images)})

        tables = [
            kept_table(folder / f"{name}, seed {seed + n}.json", key | {"number": n}, lambda n=n: classified(n))
            for n in range(seeds)
        ]
        self.scores = np.stack([table["score"].to_numpy() for table in tables])

    def _tuned(self, grid, how: Mapping, seed: int) -> pd.DataFrame:
        """The grid with its AUC on patients held out by turns, and what a point learns from; the first of equal ones is chosen."""
        real, rows = self.real, []
        folds = min(3, *(len(set(real.patients[real.y == state])) for state in (0, 1)))
        if len(grid) > 1 and folds < 2:
            raise BadInput(
                f"Of {len(self.few.names)} training patients only one keeps slices of some class at 1 to {self.few.ratio:g}, so "
                "nothing can be chosen by cross-validation; take more patients, or a smaller ratio."
            )
        for rate, share in grid:
            whole = self.pool(share)
            row = {"rate": rate, "share": share, "with tumor": int(whole.y.sum()), "without": int((whole.y == 0).sum())}
            rows.append(row | {"auc": self._held_out_auc(rate, share, folds, how, seed) if len(grid) > 1 else np.nan})
        table = pd.DataFrame(rows)
        if self.pipeline is not None:
            told = self.pipeline.labeller.findings(self.added.images).table["tumor"].to_numpy()
            table["labelled alike"] = float((told == self.added.y).mean())
        table["chosen"] = np.arange(len(table)) == table["auc"].fillna(-1).argmax()
        return table

    def _held_out_auc(self, rate: float, share: float, folds: int, how: Mapping, seed: int) -> float:
        real = self.real
        scores, fold = np.zeros((2, len(real.y)))
        splitter = StratifiedGroupKFold(folds, shuffle=True, random_state=seed)
        for number, (_, held) in enumerate(splitter.split(real.y, real.y, real.patients)):
            pool = self.pool(share, set(real.patients[held]))
            if len(set(pool.y)) == 2:
                network = train_classifier(pool.images, pool.y, rate=rate, seed=seed, **how)
                scores[held] = tumor_scores(network, real.images[held])
            fold[held] = number
        return float(auc_draws(scores, real.y, real.patients, fold, draws=0)[0])

    def made_from(self) -> dict:
        """What the added images hang on, besides the training slices; part of the key of what is kept."""
        return {} if self.pipeline is None else {"made from": self.pipeline.digests, "margin": self.margin}

    def told(self) -> dict:
        """A row of the table training."""
        whose = "" if self.pipeline is None else self.pipeline.learned_from(self.few.store.learned_from(self.few.rows))
        row = self.tuning[self.tuning["chosen"]].iloc[0].drop("chosen").to_dict()
        real = {"patients": len(self.few.names), "real with tumor": int(self.few.y.sum()), "real": len(self.few.y)}
        return {"pipeline": self.pipeline_name, "learned from": whose, **real, **row}


def _folder(work: Path, few: Few) -> Path:
    return work / f"{len(few.names)} patients, 1 to {few.ratio:g}"


# -- arms against each other


def _contrasts(found, pipelines) -> pd.DataFrame:
    """Differences of the arm spot from each of RIVALS, for each pipeline."""
    parts = []
    for name in pipelines:
        for rival in RIVALS:
            both = f"spot, {name}", rival if rival in REAL else f"{rival}, {name}"
            if set(both) <= found.keys():
                some = {arm: found[arm] for arm in both}
                parts.append(differences(some, first=both[1]).assign(rival=both[1]))
    return corrected(pd.concat(parts, ignore_index=True)) if parts else pd.DataFrame()
