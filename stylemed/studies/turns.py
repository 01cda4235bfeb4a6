"""Does it help, on real patients: so few are labelled that each is measured by classifiers of the others.

The patients take turns (nested, patient-wise cross-validation): classifiers, their choices and the direction know the other
patients only, and nothing of the generator or the encoder comes from any of them. No labeller is asked, since none can be trained
on so few: where images are walked, the direction alone says how far, and images by coarse styles are taken where its latent
classifier sees the class, as in the paper.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from sklearn.model_selection import StratifiedGroupKFold
from tqdm.auto import tqdm

from stylemed.data.truth import present, truth
from stylemed.errors import BadInput
from stylemed.evaluation.classification import differences, drawn_numbers, in_words
from stylemed.latent.codes import Codes
from stylemed.latent.direction import Direction, find_direction, steps_to, walk
from stylemed.latent.generation import random_styles
from stylemed.latent.inversion import check_networks, codes_by
from stylemed.latent.mixing import mix, synthesize
from stylemed.provenance import refuse_seen
from stylemed.studies import Result, digests_of, kept_codes
from stylemed.studies.augmentation import GRIDS, REAL, Arm
from stylemed.studies.few_patients import Few, Pool, TestSlices

MADE = {
    "coarse": "and generated images with the coarse styles of slices with a tumor, until balanced",
    "direction": "and generated images walked to a tumor, until balanced",
    "walked": "and tumor-free slices, encoded and walked to a tumor, until balanced",
}
ARMS = {name: REAL[name] for name in ("real", "oversampled", "painted")} | MADE
DRAWN, TRIES = 32, 50  # styles drawn at once; candidates for each image, before coarse styles are given up


def run(
    store,
    generator,
    encoder,
    *,
    turns: int = 5,
    arms=tuple(ARMS),
    seeds: int = 3,
    steps: int = 150,
    margin: float = 1.0,
    descent: int = 50,
    grids: Mapping = GRIDS,
    modality: str = "CT",
    work: str | Path,
    seed: int = 0,
    progress: bool = True,
) -> Result:
    """The study on all slices of a store whose tumors are known, of any split; what is done is kept in `work`.

    Args: as of `augmentation.run`; turns: parts that the patients are dealt into; each is held out once.

    Tables: slices (by class), training (for each arm and turn), arms (AUC over pairs of slices of one turn, mean of the seeds with
    their spread), differences (from "real"; p by bootstrap, Holm's correction), direction (AUC of the latent classifier itself, on
    the same held-out slices). Intervals (95 %) are of a bootstrap of patients and seeds.
    BadInput where encoder or generator has learned from these patients, and for too few of them.
    """
    began = time.monotonic()
    for arm in set(arms) - set(ARMS):
        raise BadInput(f"There is no arm {arm}; there are: {', '.join(ARMS)}.")
    check_networks(store, generator, encoder)
    rows = store.select(modality=modality)
    known = rows[truth(store, rows)["tumor"].notna()]
    refuse_seen({"encoder": encoder, "generator": generator}, store, known)
    slices = TestSlices.at(store, known)
    patients, y = slices.patients, slices.y
    if min(len(set(patients[y == state])) for state in (0, 1)) < max(turns, 2):
        raise BadInput(f"{store.path} has too few patients with and without tumors for {turns} turns; ask for fewer.")
    work, behind = Path(work), digests_of({"generator": generator, "encoder": encoder})
    key = {"store": store.digest, "rows": known.tolist(), "descent": descent, "made from": behind}
    encode = partial(codes_by, store, generator, encoder, known, steps=descent, progress=progress)
    splitter = StratifiedGroupKFold(turns, shuffle=True, random_state=seed)
    dealt = list(splitter.split(y, y, patients))
    if any(slices.large[train].sum() >= (y[train] == 0).sum() for train, _ in dealt):
        raise BadInput(
            f"{store.path} has no more slices without a tumor than with one, so there is nothing to balance; add tumor-free ones."
        )
    codes = kept_codes(work / "codes.safetensors", key, encode)

    how, wanted = dict(steps=steps, blocks=1), [arm for arm in ARMS if arm in {"real", *arms}]
    scores, turn, told = {arm: np.zeros((seeds, len(known))) for arm in wanted}, np.zeros(len(known)), []
    latent = np.zeros((1, len(known)))
    for number, (train, held) in enumerate(tqdm(dealt, desc="turns", disable=not progress)):
        others = sorted(set(patients[train]))
        few = Known(store, others, round((y[train] == 0).sum() / y[train].sum(), 1), modality, seed)
        direction = find_direction(codes.select(train), "tumor", split=None, folds=3, seed=seed)
        turn[held], latent[0, held] = number, direction.score(codes.w_plus[held])
        test, parts = TestSlices.at(store, known[held]), Parts(generator, direction, codes.select(train))
        for arm in wanted:
            job = Turn(arm, arm, few, work=work, margin=margin, descent=descent, parts=parts)
            job.train(test, work / f"turn {number}", grids, seeds, how, seed)
            scores[arm][:, held] = job.scores
            told.append({"arm": arm, "turn": number, **job.told()})

    true = (y, slices.large, patients, seed)
    found = {arm: drawn_numbers(each, *true, folds=turn) for arm, each in scores.items()}
    tables = {
        "slices": slices.counted(),
        "training": pd.DataFrame(told),
        "arms": pd.concat([in_words(each).assign(arm=arm) for arm, each in found.items()], ignore_index=True),
        "differences": differences(found),
        "direction": in_words(drawn_numbers(latent, *true, folds=turn)),
    }
    settings = dict(turns=turns, arms=wanted, seeds=seeds, **how, margin=margin, descent=descent, modality=modality)
    settings["grids"] = {name: [list(point) for point in grid] for name, grid in grids.items()}
    minutes = (time.monotonic() - began) / 60
    return Result("turns", tables, str(store.digest), behind, seed, settings, minutes)


@dataclass(frozen=True)
class Known(Few):
    """All slices of these patients with a tumor that is asked for or none, whatever their split; ratio: what there is."""

    @cached_property
    def rows(self) -> np.ndarray:
        rows = self.store.select(modality=self.modality)
        rows = rows[self.store.slices["patient"].iloc[rows].isin(self.names).to_numpy()]
        return rows[present(truth(self.store, rows)).notna().to_numpy()]


@dataclass(frozen=True)
class Parts:
    """What makes images in one turn: the direction, and the codes, are of the patients who are not held out."""

    generator: object
    direction: Direction
    codes: Codes

    def of_class(self, few: Few) -> tuple[torch.Tensor, np.ndarray]:
        """Codes of the slices with a tumor, and their patients."""
        where = np.flatnonzero(np.isin(self.codes.table["row"], few.rows[few.y == 1]))
        return torch.as_tensor(self.codes.w_plus[where]), self.codes.table["patient"].to_numpy()[where]


@dataclass
class Turn(Arm):
    """An arm of one turn; its images of MADE come from `parts`, without a labeller."""

    parts: Parts | None = None

    @cached_property
    def added(self) -> Pool | None:
        if self.arm not in MADE:
            return super().added
        few = self.few
        made, patients = getattr(self, f"_by_{self.arm}")(few.missing)
        return Pool(synthesize(self.parts.generator, made).clamp(-1, 1), np.ones(len(made), int), patients)

    def _by_coarse(self, count: int) -> tuple[torch.Tensor, np.ndarray]:
        sources, patients = self.parts.of_class(self.few)
        rng, made, whose = np.random.default_rng(self.few.seed), [], []
        rounds = TRIES * (1 + count // DRAWN)
        for _ in range(rounds):
            where = rng.integers(len(sources), size=DRAWN)
            styles = random_styles(self.parts.generator, DRAWN, seed=int(rng.integers(2**31)))
            mixed = mix(styles, sources[where], "coarse")
            sure = np.flatnonzero(self.parts.direction.score(mixed) > 0)
            made, whose = [*made, *mixed[sure]], [*whose, *patients[where[sure]]]
            if len(made) >= count:
                return torch.stack(made[:count]), np.array(whose[:count], dtype=object)
        raise BadInput(
            f"Of {rounds * DRAWN} images with coarse styles of the class the latent classifier accepts {len(made)}, not "
            f"{count}; leave out the arm coarse."
        )

    def _by_direction(self, count: int) -> tuple[torch.Tensor, np.ndarray]:
        styles = random_styles(self.parts.generator, count, seed=self.few.seed)
        return self._walked_far(styles), np.full(count, "", dtype=object)

    def _by_walked(self, count: int) -> tuple[torch.Tensor, np.ndarray]:
        rows = self.few.rows[self.few.livers()]
        order = pd.Index(self.parts.codes.table["row"]).get_indexer(rows)
        patients = self.parts.codes.table["patient"].to_numpy()[order]
        return self._walked_far(torch.as_tensor(self.parts.codes.w_plus[order])), patients

    def _walked_far(self, styles: torch.Tensor) -> torch.Tensor:
        far = steps_to(styles, self.parts.direction, self.margin)
        return walk(styles, self.parts.direction, far[:, None])[:, 0]

    def made_from(self) -> dict:
        if self.arm not in MADE:
            return {}
        its = digests_of({"generator": self.parts.generator, "direction": self.parts.direction})
        return {"made from": its, "margin": self.margin}
