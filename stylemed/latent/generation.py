"""Images of a class: styles to begin with, drawn at random or found by the encoder, and the walk from each of them.

Or a whole data set of a class, as the paper makes it: by the coarse styles of a latent of that class, or by the walk. Beyond the
paper: by an edit that the labeller guides.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pandas as pd
import torch

from stylemed.data.store import LEAST_LIVER, Window
from stylemed.data.volumes import write_pair
from stylemed.errors import BadInput
from stylemed.files import atomic, digest_of_weights
from stylemed.latent.codes import Codes
from stylemed.latent.direction import Direction, labels_of, traverse, walk
from stylemed.latent.guided import guided_edit
from stylemed.latent.mixing import mix, synthesize
from stylemed.provenance import Provenance, belong_together

BATCH = 64  # candidates at a time
FIND = "find the direction on codes of this generator (stylemed encode, direction)"
READ = ("tumor", "modality_mr", "kernel_sharp")  # classes that a labeller tells
TRIES = 100  # candidates for each image that is asked for, at most
FEW = 16  # candidates at a time where each takes an edit
WAYS = ("coarse", "direction", "guided")


@torch.no_grad()
def random_styles(generator, count: int, psi: float = 0.7, seed: int = 0) -> torch.Tensor:
    """Styles [count, L, latent] of latents drawn from `seed`, truncated by psi (1: not at all, 0: the mean image)."""
    z = torch.randn(count, generator.latent_size, generator=torch.Generator().manual_seed(seed))
    return generator.truncate(generator.broadcast(generator.mapping(z)), psi)


def some_codes(
    codes: Codes,
    count: int,
    generator,
    *,
    split: str | None = None,
    seed: int = 0,
    names: tuple[str, str] = ("the generator", "the codes"),
) -> Codes:
    """Codes of `count` slices of different patients, then of any, that belong to the generator.

    BadInput, with `names` for generator and codes, where they belong to another one or are too few.
    """
    _check_codes(codes, generator, names)
    chosen = codes.pick(count, split, seed=seed)
    if len(chosen) < count:
        rest = np.setdiff1d(codes.find(split), chosen)
        more = np.random.default_rng(seed).permutation(rest)[: count - len(chosen)]
        chosen = np.concatenate([chosen, more])
    if len(chosen) < count:
        raise BadInput(f"{names[1]} holds {len(chosen)} slices of the split {split or 'all'}; {count} are asked for.")
    return codes.select(chosen)


def images_of_class(
    generator,
    direction: Direction,
    steps,
    count: int,
    *,
    codes: Codes | None = None,
    split: str | None = None,
    psi: float = 0.7,
    seed: int = 0,
    names: tuple[str, str, str] = ("the generator", "the direction", "the codes"),
) -> tuple[torch.Tensor, pd.DataFrame]:
    """Walk along a direction from `count` random styles, or from as many codes where there are any.

    steps: S lengths in standard deviations of the codes that the direction was found on. -> images [count, S, C, R, R] about
    [-1, 1] on the CPU, and a table with a row for each of them, in the same order: file (a name for it), source (the seed, or case
    and z of the slice), step, score (`Direction.score`, after the walk). BadInput, with `names`, for parts that do not belong
    together.
    """
    _check_direction(direction, generator, names[:2])
    if len({f"{length:+g}" for length in steps}) < len(steps):
        raise BadInput(
            f"The steps {', '.join(f'{length:g}' for length in steps)} are not all different; give each once."
        )
    if codes is None:
        styles = random_styles(generator, count, psi, seed)
        sources = [f"random {seed}/{i}" for i in range(count)]
    else:
        few = some_codes(codes, count, generator, split=split, seed=seed, names=(names[0], names[2]))
        belong_together(few.provenance, direction.provenance, names=(names[2], names[1]), same_store=False, cure=FIND)
        styles = few.w_plus
        sources = [f"{case} z {z}" for case, z in zip(few.table["case"], few.table["z"], strict=True)]
    rows = [
        {"file": f"{i:04d}_step{length:+g}.png", "source": source, "step": length, "score": float(score) + length}
        for i, (source, score) in enumerate(zip(sources, direction.score(styles), strict=True))
        for length in steps
    ]
    return traverse(generator, styles, direction, steps), pd.DataFrame(rows)


# -- a data set of a class


@dataclass
class ClassImages:
    """N images that were accepted, N = all that were asked for, those with the class first.

    images [N, C, R, R] about [-1, 1]; w_plus [N, L, latent]; labels uint8 [N, R, R] (1 liver, 2 tumor): the labeller's outlines;
    table: a row each: class (1 with, 0 without), label, by, seed and draw (which of BATCH `random_styles` of it, guided: of FEW),
    source (the slice in their place), class_source (what gave the coarse styles), step and score of a walk, asked_x and asked_y
    (centre in pixels of the tumor that a guided edit added or took out; none where nothing was asked), tumor_labels (unknown where
    the outlines contradict a class of tumors), modality_mr, phase and tumor_score as the labeller reads them.
    tally: for each class the styles drawn, the candidates that were read, and those that were accepted, the last ones included.
    """

    images: torch.Tensor
    w_plus: torch.Tensor
    labels: np.ndarray
    table: pd.DataFrame
    tally: pd.DataFrame


def class_images(
    generator,
    labeller,
    count: int,
    label: str = "tumor",
    *,
    by: str = "coarse",
    ratio: float = 0.5,
    direction: Direction | None = None,
    codes: Codes | None = None,
    margin: float = 1.0,
    steps: int = 50,
    modality: str | None = None,
    psi: float = 0.7,
    seed: int = 0,
    names: tuple[str, str, str] = ("the generator", "the direction", "the codes"),
) -> ClassImages:
    """`count` images, a share `ratio` of them with the class `label`, the others without it.

    by="coarse": random styles with the coarse ones of a latent of the class, which is an encoded `train` slice with that label
    where there are codes, else a sample that the labeller calls so. The image is accepted when the labeller agrees; label: tumor
    (head and outline have to agree), modality_mr or kernel_sharp.
    by="direction": the walk from random styles (or from codes of `train`) to `margin` steps beyond the boundary of the latent
    classifier, which alone decides how far and whether.
    by="guided": random styles after `steps` steps of `guided_edit`: a tumor is added to each at a random place of its liver, or
    taken out where the labeller sees one, and the labeller has to agree. Tumors only, and no codes.
    In all an image needs a liver, or it would be no slice of a liver data set, and with `modality` the labeller has to read this
    one: fine styles that are drawn at random may be those of another. BadInput for parts that do not belong together,
    and where after TRIES candidates for each image there are too few.
    """
    cure = "give a labeller that learned from slices like those of the generator"
    of_labeller = getattr(labeller, "provenance", Provenance())
    belong_together(generator.provenance, of_labeller, names=(names[0], "the labeller"), same_store=False, cure=cure)
    if codes is not None:
        _check_codes(codes, generator, (names[0], names[2]))
    if by == "direction":
        if direction is None or direction.label != label:
            told = "no direction was given" if direction is None else f"{names[1]} is one of {direction.label}"
            raise BadInput(f"A walk towards {label} needs a direction of {label}; {told}.")
        _check_direction(direction, generator, names[:2])
        if codes is not None:
            belong_together(
                codes.provenance, direction.provenance, names=(names[2], names[1]), same_store=False, cure=FIND
            )
    elif by not in WAYS:
        raise BadInput(f"Images of a class are made by {', '.join(WAYS)}, not by {by}.")
    elif by == "guided" and (label != "tumor" or codes is not None):
        raise BadInput("A guided edit adds and removes tumors in random styles; leave out other classes and codes.")
    elif by == "guided" and not generator.provenance.windows:
        raise BadInput(
            f"{names[0]} does not say the window of its images, so no change can be told in HU; export it anew."
        )
    elif label not in READ:
        raise BadInput(f"The labeller does not tell {label}; it tells {', '.join(READ)}. Others take a direction.")
    parts = []
    for wanted, share in ((1, round(count * ratio)), (0, count - round(count * ratio))):
        rng = np.random.default_rng([seed, wanted])
        if by == "coarse":
            candidates = _with_coarse_styles(generator, labeller, label, wanted, codes, psi, rng)
        elif by == "direction":
            candidates = _walked(generator, direction, wanted, codes, margin, psi, rng)
        else:
            candidates = _edited(generator, labeller, wanted, steps, psi, rng)
        if share:
            parts.append(_accepted(generator, labeller, candidates, share, label, wanted, by, modality))
    return _joined(parts)


def write_class_images(out: str | Path, made: ClassImages, windows: dict, generator) -> Path:
    """A new folder in the LiTS layout, a volume of one slice for each image, that `stylemed prepare` reads.

    windows {modality: Window} of the generator's images: intensities are written in HU, where there are several modalities in
    that which the labeller reads. volumes.csv says of each volume how it was made, and that its mask is machine-made;
    codes.safetensors holds the style of volume N in row N - 1. All are patients of `train`: nothing may be measured on them.
    BadInput where the window is not known, and for a folder that is there already.
    """
    out = Path(out)
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise BadInput(f"{out} is there already; name a new folder.")
    if not windows:
        raise BadInput(
            "The generator does not say the window of its images, so they cannot be written in HU; export it anew."
        )
    mr = made.table["modality_mr"].to_numpy() > 0.5
    modality = np.where(mr, "MR", "CT") if {"CT", "MR"} <= windows.keys() else np.full(len(mr), next(iter(windows)))
    numbers = np.arange(1, len(mr) + 1)
    table = pd.DataFrame({"volume": numbers, "patient": [f"made{n:05d}" for n in numbers], "split": "train"})
    table = table.assign(
        modality=modality,
        phase=np.where(modality == "CT", made.table["phase"], ""),
        hu_min=[windows[name].lo for name in modality],
        hu_max=[windows[name].hi for name in modality],
        spacing="unknown",
        orientation="LPS",
        mask="machine-made",
        code=numbers - 1,
    )
    table = pd.concat([table, made.table.drop(columns=["modality_mr", "phase"])], axis=1)
    with atomic(out) as draft:
        draft.mkdir()
        for row, image, labels in zip(table.itertuples(), made.images, made.labels, strict=True):
            hu = np.rint(windows[row.modality].to_hu(image[:1].clamp(-1, 1).numpy())).astype(np.int16)
            write_pair(draft, str(row.volume), hu, labels[None])
        table.to_csv(draft / "volumes.csv", index=False)
        _codes_of(made, table, generator).save(draft / "codes.safetensors")
    return out


def _codes_of(made: ClassImages, table: pd.DataFrame, generator) -> Codes:
    rows = table[["patient", "split", "modality", "phase"]].assign(
        case=[f"volume-{n}" for n in table["volume"]],
        z=0,
        liver_px=(made.labels > 0).sum(axis=(1, 2)),
        tumor_px=(made.labels == 2).sum(axis=(1, 2)),
        tumor_known=(table["tumor_labels"] == "known").astype(int),
    )
    behind = {"generator": digest_of_weights(generator.state_dict())}
    its = replace(generator.provenance, kind="codes", made_from=behind, patients={}, digest=None)
    return Codes(rows, made.w_plus.numpy(), {"provenance": its.to_dict()})


def _with_coarse_styles(
    generator, labeller, label, wanted, codes, psi, rng
) -> Iterator[tuple[int, torch.Tensor, pd.DataFrame]]:
    """Styles drawn and the candidates made of them, endlessly: random styles, the coarse ones from latents of the class."""
    known = None
    if codes is not None:
        known = np.intersect1d(codes.find("train"), np.flatnonzero(labels_of(codes.table, label) == wanted))
        if not len(known):
            raise BadInput(f"The codes hold no slice of train {'with' if wanted else 'without'} {label}.")
    while True:
        if known is None:
            seed = int(rng.integers(2**31))
            styles = random_styles(generator, BATCH, psi, seed)
            of_class = _agrees(labeller.findings(synthesize(generator, styles)), label, wanted).nonzero()[0]
            where = rng.permutation(of_class)
            coarse, sources = styles[where], [f"random {seed}/{i}" for i in where]
        else:
            where = rng.choice(known, BATCH)
            coarse, sources = torch.as_tensor(codes.w_plus[where]), _slices(codes, where)
        seed = int(rng.integers(2**31))
        rest = random_styles(generator, BATCH, psi, seed)[: len(coarse)]
        told = {"seed": seed, "draw": np.arange(len(coarse)), "class_source": sources}
        yield BATCH, mix(rest, coarse, "coarse"), pd.DataFrame(told)


def _walked(generator, direction, wanted, codes, margin, psi, rng) -> Iterator[tuple[int, torch.Tensor, pd.DataFrame]]:
    """Styles drawn and the candidates made of them, endlessly: walked until the latent classifier is sure of the class."""
    known = None if codes is None else codes.find("train")
    if known is not None and not len(known):
        raise BadInput("The codes hold no slice of train to walk from.")
    side = 1.0 if wanted else -1.0
    while True:
        if known is None:
            seed = int(rng.integers(2**31))
            styles, told = random_styles(generator, BATCH, psi, seed), {"seed": seed, "draw": np.arange(BATCH)}
        else:
            where = rng.choice(known, BATCH)
            styles, told = torch.as_tensor(codes.w_plus[where]), {"source": _slices(codes, where)}
        length = side * np.maximum(margin - side * direction.score(styles), 0.0)
        moved = walk(styles, direction, length[:, None])[:, 0]
        told |= {"step": length, "score": direction.score(moved)}
        sure = side * told["score"] > 0
        yield BATCH, moved[sure], pd.DataFrame(told)[sure]


def _edited(generator, labeller, wanted, steps, psi, rng) -> Iterator[tuple[int, torch.Tensor, pd.DataFrame]]:
    """Styles drawn and the candidates made of them, endlessly: random styles, edited towards the class."""
    window = Window(*generator.provenance.window)
    while True:
        seed = int(rng.integers(2**31))
        drawn = random_styles(generator, FEW, psi, seed)
        found = labeller.findings(synthesize(generator, drawn))
        room = (found.masks >= 2).mean(axis=(1, 2)) >= LEAST_LIVER
        edit = room if wanted else room & ~_agrees(found, "tumor", 0)
        styles, centres = drawn.numpy().copy(), np.full((FEW, 2), np.nan)
        if edit.any():
            how = dict(per_unit=window.per_unit, steps=steps, seed=seed, progress=False)
            edited = guided_edit(generator, labeller, styles[edit], wanted, **how)
            styles[edit], centres[edit] = edited.w_plus, [_centre(mask) for mask in edited.asked]
        told = {"seed": seed, "draw": np.arange(FEW), "asked_x": centres[:, 0], "asked_y": centres[:, 1]}
        yield FEW, torch.as_tensor(styles[room]), pd.DataFrame(told)[room]


def _centre(mask: np.ndarray) -> tuple[float, float]:
    """(x, y) of a mask [R, R] in pixels, NaN where it is empty."""
    y, x = np.nonzero(mask)
    return (x.mean(), y.mean()) if len(x) else (np.nan, np.nan)


def _accepted(generator, labeller, candidates, count, label, wanted, by, modality) -> ClassImages:
    """The first `count` candidates that are accepted."""
    parts, have, tried, read = [], 0, 0, 0
    for drawn, w_plus, told in candidates:
        tried, read = tried + drawn, read + len(w_plus)
        if len(w_plus):
            images = synthesize(generator, w_plus)
            found = labeller.findings(images)
            agrees = _agrees(found, label, wanted)
            fits = (found.table["liver_px"] > 0).to_numpy() & (agrees | (by == "direction"))
            if modality is not None:
                fits &= (found.table["modality_mr"] > 0.5).to_numpy() == (modality == "MR")
            keep = np.flatnonzero(fits)
            its = found.table.iloc[keep][["modality_mr", "phase", "tumor_score"]].reset_index(drop=True)
            table = pd.concat([told.iloc[keep].reset_index(drop=True), its], axis=1)
            doubtful = (label == "tumor") & ~agrees[keep]
            table = table.assign(by=by, label=label, tumor_labels=np.where(doubtful, "unknown", "known"))
            table["class"] = wanted
            masks = found.masks[keep]
            labels = np.where(masks >= 2, masks - 1, 0).astype(np.uint8)
            parts.append(ClassImages(images[keep], w_plus[keep], labels, table, pd.DataFrame()))
            have += len(keep)
        if have >= count:
            break
        if tried >= TRIES * count + 10 * BATCH:
            raise BadInput(
                f"Only {have} of {count} images {'with' if wanted else 'without'} {label} were accepted among {tried}; "
                "ask for fewer, or for another class."
            )
    made = _joined(parts, count)
    made.tally = pd.DataFrame([{"class": wanted, "drawn": tried, "candidates": read, "accepted": have}])
    return made


def _joined(parts: list[ClassImages], most: int | None = None) -> ClassImages:
    """All parts in a row, the first `most` of them."""
    return ClassImages(
        torch.cat([part.images for part in parts])[:most],
        torch.cat([part.w_plus for part in parts])[:most],
        np.concatenate([part.labels for part in parts])[:most],
        pd.concat([part.table for part in parts], ignore_index=True)[:most],
        pd.concat([part.tally for part in parts], ignore_index=True),
    )


def _agrees(found, label: str, wanted: int) -> np.ndarray:
    """bool [N]: the labeller's answer is the one that is wanted; for tumors, head and outline both."""
    if label not in READ:
        return np.ones(len(found.table), bool)
    says = (found.table[label].to_numpy() > 0.5) == bool(wanted)
    return says & ((found.table["tumor_px"].to_numpy() > 0) == bool(wanted)) if label == "tumor" else says


def _slices(codes: Codes, where) -> list[str]:
    rows = codes.table.iloc[where]
    return [f"{case} z {z}" for case, z in zip(rows["case"], rows["z"], strict=True)]


def _check_codes(codes: Codes, generator, names: tuple[str, str]) -> None:
    if codes.w_plus.shape[1:] != (generator.num_layers, generator.latent_size):
        raise BadInput(f"{names[1]} was made for another generator: its codes are {codes.w_plus.shape[1:]}.")
    belong_together(
        generator.provenance,
        codes.provenance,
        names=names,
        same_store=False,  # slices of new patients are what codes are for
        cure="encode the slices with an encoder that was trained for this generator",
    )


def _check_direction(direction: Direction, generator, names: tuple[str, str]) -> None:
    if len(direction.vector) != generator.latent_size:
        raise BadInput(f"{names[1]} was found in another latent space than that of {names[0]}.")
    belong_together(generator.provenance, direction.provenance, names=names, same_store=False, cure=FIND)
