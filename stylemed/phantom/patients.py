"""Synthetic patients in the LiTS layout, whose truth is on record.

No patient is copied from anyone: body, organs and tumors are drawn from a seed (see `anatomy` and `organs`), then
looked at the way a scanner looks (see `scanner`). What the scanner decides is drawn on its own: phase, kernel, dose, slice
thickness and field of view say nothing of the anatomy, and the anatomy nothing of them.
Patient i of a seed is the same at every image size and however many patients are made, with or without twins.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np

from stylemed.data.volumes import write_pair
from stylemed.errors import BadInput
from stylemed.files import atomic
from stylemed.phantom import anatomy as an
from stylemed.phantom.scanner import MR_MAX, Look, scan, scan_mr

MIXED = "mixed"
PHASES = {"portal": 0.55, "arterial": 0.25, "none": 0.2}  # how often each comes in a mixed phantom
KINDS = ("hypodense",) * 11 + ("necrotic",) * 4 + ("rim",) * 3 + ("hyperdense", "calcified")  # as often as listed


def _rng(seed, patient, purpose):
    return np.random.default_rng([seed, patient, purpose])


def draw_phase(seed: int, patient: int, phase: str) -> str:
    """The contrast phase of one patient: the one asked for, or, for "mixed", any of the three."""
    return phase if phase != MIXED else str(_rng(seed, patient, 5).choice(list(PHASES), p=list(PHASES.values())))


def draw_look(seed: int, patient: int, one: an.Anatomy) -> Look:
    """The look of one patient at random, but for the phase."""
    rng = _rng(seed, patient, 1)
    slices = int(rng.integers(42, 59))
    margin = float(rng.uniform(8, 60) if rng.uniform() < 0.75 else rng.uniform(60, 150))
    aside = min(0.35 * margin, 15.0)  # so far may the body lie aside
    return Look(
        kernel="soft" if rng.uniform() < 0.7 else "sharp",
        noise_hu=float(np.clip(rng.lognormal(np.log(18), 0.25), 10, 32)),
        margin_mm=margin,
        shift_mm=(float(rng.uniform(-aside, aside)), float(rng.uniform(-25, 12))),
        couch_mm=(float(rng.uniform(2, 14)), float(rng.uniform(0, 60))),
        slices=slices,
        slice_mm=round(208 * one.scale[2] / slices, 3),  # from below the liver to above its dome
        streak_hu=float(rng.uniform(1, 6)),
        mr_bias=float(rng.uniform(0.1, 0.3)),
        mr_noise=float(rng.uniform(10, 30)),
    )


def draw_anatomy(seed: int, patient: int, phase: str = "portal", tumor_free: float = 0.1) -> an.Anatomy:
    """Every factor of one patient's body; a share `tumor_free` of all patients has no tumors."""
    rng = _rng(seed, patient, 2)
    n = rng.standard_normal
    build = 1 + 0.07 * np.clip(n(), -2, 2)
    scale = (build * (1 + 0.03 * n()), build * (1 + 0.04 * n()), 1 + 0.06 * np.clip(n(), -2, 2))
    body = dict(
        scale=tuple(float(s) for s in scale),
        corner=float(rng.uniform(2.15, 2.6)),
        harmonics=n((4, 2)) * np.array([[0.012, 0.006], [0.010, 0.006], [0.007, 0.004], [0.004, 0.003]]),
        fat_mm=float(np.clip(rng.gamma(2.2, 5.5), 3, 38)),
        fat_sides=float(rng.uniform(0.1, 0.6)),
        wall_mm=float(rng.uniform(8.5, 13)),
        liver=np.clip(n(8), -2, 2),
        organs=np.clip(n(16), -2, 2),
        ribs=(float(rng.uniform(0, 27)), float(rng.uniform(25, 29)), float(rng.uniform(58, 76))),
        vertebra_phase=float(rng.uniform(0, 31)),
        stomach_gas=float(rng.uniform(0.1, 0.6)),
        stomach_hu=float(rng.choice([10.0, 30.0, 60.0])),
        texture_hu=float(np.clip(rng.lognormal(np.log(6), 0.3), 2.5, 11)),
        oral=bool(rng.uniform() < 0.3),
        seed=int(rng.integers(2**31)),
    )
    # One draw for the injection (all vessels together), one for each tissue.
    strength = 1 + 0.06 * np.clip(n(), -2, 2)
    hu = {k: float(v * strength + 4 * n()) for k, v in an.ENHANCEMENT[phase].items()}
    steatosis = 35 * rng.beta(1, 5)
    hu["liver"] -= float(steatosis)
    hu.update(muscle=float(57 + 4 * n()), bone=float(170 + 35 * n()), pancreas=float(0.85 * hu["spleen"] + 4 * n()))
    one = an.Anatomy(hu=hu, contrast_left=an.LESION_CONTRAST[phase], **body)
    one.lesions = draw_lesions(one, _rng(seed, patient, 3), has_tumors(seed, patient, tumor_free))
    return one


def has_tumors(seed: int, patient: int, tumor_free: float) -> bool:
    """Whether a patient has tumors, by chance of 1 - tumor_free; of the patient alone, whoever else is made."""
    return bool(_rng(seed, patient, 7).uniform() >= tumor_free)


def draw_diameters(rng) -> np.ndarray:
    """Diameters in mm of a patient's tumors, largest first: 1 to 12 of 5 to 90 mm, the median of all near 25 mm.

    Tumors of one patient are more alike in size than those of two.
    """
    count = min(int(rng.geometric(0.3)), 12)
    typical = rng.normal(np.log(25), 0.35)
    sizes = np.clip(np.exp(rng.normal(typical, 0.5, count)), 5, 90)
    sizes[0] = max(sizes[0], 20)  # one of them is seen at 64 pixels too
    return np.sort(sizes)[::-1]


def draw_lesions(one: an.Anatomy, rng, tumors: bool) -> list[an.Lesion]:
    """Tumors (see `draw_diameters`) and cysts (0 to 2, 6 to 24 mm) at free places inside the liver.

    A lesion for which this liver has no place becomes smaller until it has one.
    """
    cysts = int(rng.choice([0, 1, 2], p=[0.65, 0.25, 0.1]))
    places = rng.uniform((-150, -95, -90), (70, 85, 80), (4000, 3)).astype(np.float32)
    depth = -an.liver_shape(one, tuple(places.T))
    main = rng.choice(KINDS)  # the tumors of a patient are mostly of one kind
    sizes = draw_diameters(rng) if tumors else ()
    jobs = [(main if rng.uniform() < 0.75 else rng.choice(KINDS), d) for d in sizes]
    jobs += [("cyst", d) for d in rng.uniform(6, 24, cysts)]
    lesions: list[an.Lesion] = []
    for kind, diameter in jobs:
        gap = np.full(len(places), np.inf)  # mm to the nearest other lesion
        for other in lesions:
            gap = np.minimum(gap, np.linalg.norm(places - other.centre, axis=1) - max(other.radii))
        # Clear of the others, and so deep that the liver's surface cuts off little.
        while not len(free := np.flatnonzero((depth > 0.3 * diameter + 2) & (gap > 0.5 * diameter + 3))):
            diameter *= 0.9
        radius = diameter / 2
        place = places[rng.choice(free)]
        contrast = {
            "hypodense": -rng.uniform(36, 66),
            "necrotic": -rng.uniform(32, 46),
            "rim": -rng.uniform(42, 66),
            "hyperdense": rng.uniform(40, 64),
            "calcified": -rng.uniform(32, 50),
            "cyst": rng.uniform(2, 14),
        }[kind]
        stretch = rng.uniform(0.85, 1.18, 3) if kind == "cyst" else rng.uniform(0.75, 1.3, 3)
        lesions.append(
            an.Lesion(
                kind=str(kind),
                centre=tuple(float(c) for c in place),
                radii=tuple(float(radius * s) for s in stretch / stretch.prod() ** (1 / 3)),
                hu=float(contrast),
                irregular=0.0 if kind == "cyst" else float(rng.uniform(0.1, 0.3)),
                seed=int(rng.integers(2**31)),
            )
        )
    return lesions


# ---------------------------------------------------------------- the files


def make_phantom(
    out,
    patients: int = 11,
    judge_patients: int = 0,
    test_patients: int = 0,
    size: int = 128,
    seed: int = 0,
    slices: int | None = None,
    phase: str = "portal",
    mr: bool = False,
    workers: int = 1,
    progress: bool = True,
    twins: bool = False,
    tumor_free: float = 0.1,
    first_test: int | None = None,
) -> Path:
    """Write synthetic patients as LiTS pairs with `volumes.csv`, `truth.csv` and `lesions.csv`; returns the folder.

    `patients` go to the split train, then come those of judge and test, numbered in a row; `first_test`: another number for the
    first test patient, so that `test` stays clear of patients that a model elsewhere has learned from. `size` is the image's side
    in pixels (32 to 512), `slices` fixes their number (else 42 to 58 by patient), `phase` is none, arterial, portal or mixed,
    `workers` processes draw one patient each. The same call again makes nothing new; another takes the place of the phantom that
    is there.
    `tumor_free`: how probable it is that a patient has no tumors, drawn for each patient alone.
    `mr`: each patient is looked at by an MR-like modality too, on the same grid: volume-Nmr, of modality MR.
    `twins`: each volume N with tumors is written once more without them, Nfree, `twin_of` N in volumes.csv: the same patient,
    split, look and noise, equal to the bit beyond the tumors' reach (see `scan`). All other volumes are as without twins.
    lesions.csv lists the tumors and cysts of N; its twin has the cysts alone.
    Volumes: int16 HU, axes LPS, the field of view fits the body; labels 0, 1 liver, 2 tumor.
    Raises BadInput for numbers out of range, for a folder that is no phantom, and where a phantom with twins would take the
    place of another, or another its place.
    """
    import json

    import pandas as pd
    from tqdm import tqdm

    out = Path(out)
    counts = {"train": patients, "judge": judge_patients, "test": test_patients}
    _check(counts, size, slices, phase, tumor_free)
    others = patients + judge_patients
    first = others + 1 if first_test is None else first_test
    if first <= others:
        raise BadInput(f"test patients from number {first} on: train and judge take the numbers up to {others}")
    made_by = dict(phantom=VERSION, size=size, seed=seed, slices=slices, phase=phase, mr=mr, twins=twins)
    made_by |= dict(tumor_free=tumor_free, **counts)
    made_by |= {} if first == others + 1 else {"first_test": first}
    stamp = out / "phantom.json"
    there = json.loads(stamp.read_text()) if stamp.is_file() else None
    if there == made_by:
        if progress:
            print(f"{out} holds this phantom already")
        return out
    if there and (twins or there.get("twins")):  # truth of edits: never replaced in passing
        other = [f"{k} {there.get(k)}, not {v}" for k, v in made_by.items() if there.get(k) != v]
        raise BadInput(
            f"{out} holds a phantom made with {'; '.join(other)}: name another folder with --out, or remove it"
        )
    if out.exists() and (not out.is_dir() or (any(out.iterdir()) and there is None)):
        raise BadInput(f"{out} exists and is no phantom folder; name a new folder with --out")
    splits = [split for split, n in counts.items() for _ in range(n)]
    numbers = [*range(1, others + 1), *range(first, first + test_patients)]
    volumes, truth, lesions = [], [], []
    with atomic(out) as draft:
        draft.mkdir()
        shared = (size, slices, phase, mr, twins, tumor_free)
        jobs = [(draft.absolute(), seed, i, split, *shared) for i, split in zip(numbers, splits, strict=True)]
        if min(workers, len(jobs)) <= 1:
            made = (_write_patient(*job) for job in jobs)
        else:
            from joblib import Parallel, delayed

            made = Parallel(workers, return_as="generator")(delayed(_write_patient)(*job) for job in jobs)
        for rows, slice_rows, lesion_rows in tqdm(made, "phantom", len(jobs), unit=" patients", disable=not progress):
            volumes += rows
            truth += slice_rows
            lesions += lesion_rows
        pd.DataFrame(volumes).to_csv(draft / "volumes.csv", index=False)
        pd.DataFrame(truth).to_csv(draft / "truth.csv", index=False, float_format="%.5g")
        pd.DataFrame(lesions, columns=LESION_COLUMNS).to_csv(draft / "lesions.csv", index=False, float_format="%.5g")
        (draft / "phantom.json").write_text(json.dumps(made_by, indent=1))
    return out


VERSION = 6  # of the anatomy: raised when the same seed gives other patients
LESION_COLUMNS = ["volume", "patient", "kind", "tumor", "x_mm", "y_mm", "z_mm", "diameter_mm", "hu", "irregular"]


def _check(counts, size, slices, phase, tumor_free):
    for split, n in counts.items():
        if n < 0:
            raise BadInput(f"{n} {split} patients: give a number of at least 0")
    if sum(counts.values()) == 0:
        raise BadInput("a phantom of no patients: give at least one with --patients")
    if not 32 <= size <= 512:
        raise BadInput(f"a phantom image of {size} pixels: choose a size from 32 to 512")
    if slices is not None and not 8 <= slices <= 400:
        raise BadInput(f"{slices} slices: choose from 8 to 400")
    if phase not in (*an.ENHANCEMENT, MIXED):
        raise BadInput(f"unknown contrast phase {phase!r}: choose from {', '.join((*an.ENHANCEMENT, MIXED))}")
    if not 0 <= tumor_free <= 1:
        raise BadInput(f"a share of {tumor_free} patients without tumors: choose from 0 to 1")


def _write_patient(folder, seed, patient, split, size, slices, phase, mr, twins, tumor_free):
    """Draw, scan and save patient i; the rows for volumes.csv, truth.csv and lesions.csv."""
    phase = draw_phase(seed, patient, phase)
    one = draw_anatomy(seed, patient, phase, tumor_free)
    look = draw_look(seed, patient, one)
    look.phase = phase
    if slices is not None:  # the same stretch of body, cut otherwise
        look.slice_mm, look.slices = look.slice_mm * look.slices / slices, slices
    name, volumes, truth = f"phantom{patient:04d}", [], []
    common = dict(patient=name, split=split, tumor_labels="known", spacing="known", orientation="LPS")
    ct = dict(modality="CT", phase=phase, hu_min="", hu_max="", kernel=look.kernel, noise_hu=round(look.noise_hu, 2))
    modalities = [(str(patient), scan, 4, ct)]
    if mr:
        seen = dict(modality="MR", phase="", hu_min=0, hu_max=int(MR_MAX), kernel="", noise_hu="")
        modalities.append((f"{patient}mr", scan_mr, 6, seen))
    free = replace(one, lesions=[le for le in one.lesions if not le.tumor])
    for volume, scanner, purpose, seen in modalities:
        drawn, twin, pixel = scanner(one, look, size, _rng(seed, patient, purpose))
        written = [(volume, "", one, *drawn)]
        if twins and len(free.lesions) < len(one.lesions):
            written.append((f"{volume}free", volume, free, *twin))
        for number, twin_of, body, image, labels in written:
            # The origin of the world is the middle of the body, wherever it lies in the image.
            origin = pixel * (image.shape[-1] - 1) / 2 + np.array(look.shift_mm)
            write_pair(folder, number, image, labels, (look.slice_mm, pixel, pixel), origin)
            volumes.append(dict(volume=number, **common, **seen, twin_of=twin_of))
            truth += _truth(body, look, number, seen["modality"], name, split, labels, pixel)
    lesions = []
    for le in one.lesions:
        place = (c * s for c, s in zip(le.centre, one.scale, strict=True))
        diameter = 2 * float(np.prod(le.radii) * np.prod(one.scale)) ** (1 / 3)
        row = (patient, name, le.kind, int(le.tumor), *place, diameter, one.lesion_hu(le), le.irregular)
        lesions.append(dict(zip(LESION_COLUMNS, row, strict=True)))
    return volumes, truth, lesions


def _truth(one, look, volume, modality, name, split, labels, pixel):
    """One row per slice: what is in it, and every factor of the patient it belongs to."""
    factors = dict(
        phase=look.phase,
        kernel=look.kernel,
        noise_hu=look.noise_hu,
        streak_hu=look.streak_hu,
        mr_bias=look.mr_bias,
        mr_noise=look.mr_noise,
        slice_mm=look.slice_mm,
        pixel_mm=pixel,
        shift_x_mm=look.shift_mm[0],
        shift_y_mm=look.shift_mm[1],
        scale_x=one.scale[0],
        scale_y=one.scale[1],
        scale_z=one.scale[2],
        corner=one.corner,
        fat_mm=one.fat_mm,
        fat_sides=one.fat_sides,
        wall_mm=one.wall_mm,
        stomach_gas=one.stomach_gas,
        stomach_hu=one.stomach_hu,
        texture_hu=one.texture_hu,
        oral=int(one.oral),
        vertebra_phase=one.vertebra_phase,
        rib_phase=one.ribs[0],
        rib_pitch=one.ribs[1],
        rib_drop=one.ribs[2],
    )
    factors |= {f"harmonic_{i}": float(v) for i, v in enumerate(one.harmonics.ravel())}
    factors |= {f"liver_{i}": float(v) for i, v in enumerate(one.liver)}
    factors |= {f"organs_{i}": float(v) for i, v in enumerate(one.organs)}
    factors |= {f"hu_{k}": v for k, v in one.hu.items()}
    factors |= dict(tumors=sum(le.tumor for le in one.lesions), cysts=sum(not le.tumor for le in one.lesions))
    rows, middle = [], (labels.shape[1] - 1) / 2
    for z, image in enumerate(labels):
        tumor = np.argwhere(image == an.TUMOR)
        y, x = (tumor.mean(0) - middle) * pixel - look.shift_mm[::-1] if len(tumor) else (np.nan, np.nan)
        rows.append(
            dict(
                volume=volume,
                patient=name,
                split=split,
                modality=modality,
                z=z,
                z_mm=(z - (len(labels) - 1) / 2) * look.slice_mm + 2.0 * one.scale[2],
                liver_px=int((image > 0).sum()),
                tumor_px=len(tumor),
                tumor_x_mm=x,
                tumor_y_mm=y,
                **factors,
            )
        )
    return rows
