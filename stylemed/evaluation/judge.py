"""Two readers of slices: the judge, trained on `judge` patients only, and the labeller, trained on `train` patients.

The judge measures what generator, encoder and directions do, and has no part in making any of them. The labeller may take part
(it labels generated images, say), and measures nothing. Both are one network (MONAI's U-Net) that outlines body, liver and tumor;
from its features small heads tell modality, contrast phase, kernel, noise and height, and whether a tumor is present. The threshold
of "present" is fixed on patients of the same split that the training did not see.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from stylemed.data.store import disc_across, largest_px
from stylemed.errors import BadInput
from stylemed.phantom.anatomy import ENHANCEMENT
from stylemed.provenance import Provenance, belong_together
from stylemed.statistics import mean_interval, patient_auc
from stylemed.training.run import export, load_network

CLASSES = ("air", "body", "liver", "tumor")
PHASES = tuple(ENHANCEMENT)
HEADS = {"present": 1, "modality": 1, "phase": 3, "kernel": 1, "noise": 1, "height": 1}
NOISE_HU = 30.0  # unit of the noise head
CENTRES, HALF_WIDTH = (-0.6, -0.3, 0.0, 0.3, 0.6), 0.3  # of the narrow windows, where images are in [-1, 1]
LEAST_ACROSS = 3.0  # pixels: smaller tumors are counted apart
SIZES = ((3, 5), (5, 8), (8, np.inf))  # pixels across: [from, to) of the largest tumor of a slice
BATCH = 32


class JudgeNetwork(nn.Module):
    """Images [B, 1, R, R] in [-1, 1] -> logits of CLASSES [B, 4, R, R], and of the heads {name: [B, n]}.

    The image comes in narrow windows too, one beside the other: tumors differ from liver by little. From 128² on the U-Net works
    at R/fold, squares of fold x fold pixels in as many channels: no pixel is lost, and a step takes a fraction of the time.
    """

    def __init__(self, width: int = 16, fold: int = 1):
        super().__init__()
        from monai.networks.nets import BasicUNet

        self.config = {"width": width, "fold": fold}
        self.fold = fold
        widths = (width, width, 2 * width, 4 * width, 8 * width, width)
        seen, told = (1 + len(CENTRES)) * fold**2, len(CLASSES) * fold**2
        self.unet = BasicUNet(2, seen, told, widths, norm=("group", {"num_groups": 4}))
        # All depths, since the shallow ones know intensities; and where the outlines see a tumor, how surely.
        self.heads = nn.Linear(2 * sum(widths) + 1, sum(HEADS.values()))

    def forward(self, images: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        net = self.unet
        windows = [((images - centre) / HALF_WIDTH).clamp(-1, 1) for centre in CENTRES]
        x0 = net.conv_0(F.pixel_unshuffle(torch.cat([images, *windows], dim=1), self.fold))
        x1 = net.down_1(x0)
        x2 = net.down_2(x1)
        x3 = net.down_3(x2)
        x4 = net.down_4(x3)
        up = net.upcat_1(net.upcat_2(net.upcat_3(net.upcat_4(x4, x3), x2), x1), x0)
        logits = F.pixel_shuffle(net.final_conv(up), self.fold)
        tumor = logits[:, 3:] - logits[:, :3].logsumexp(dim=1, keepdim=True)
        surest = _largest(F.avg_pool2d(tumor, 3, stride=1))
        pooled = [pool(x) for x in (x0, x1, x2, x3, x4, up) for pool in (_mean, _largest)]
        parts = self.heads(torch.cat([*pooled, surest], dim=1)).split(list(HEADS.values()), dim=1)
        return logits, dict(zip(HEADS, parts, strict=True))


def _mean(x: Tensor) -> Tensor:
    return x.mean(dim=(2, 3))


def _largest(x: Tensor) -> Tensor:
    return x.amax(dim=(2, 3))


@dataclass
class Findings:
    """What a reader sees in N slices.

    `masks` uint8 [N, R, R] of CLASSES; `table`, a row each: tumor_score (logit), tumor (0/1 at the threshold), tumor_px, liver_px,
    tumor_x, tumor_y (centre of the tumor's probability, in shares of the image side, NaN without tumor), modality_mr, phase,
    kernel_sharp, noise_hu, height (0 lowest slice with liver, 1 highest).
    """

    masks: np.ndarray
    table: pd.DataFrame


class Reader:
    """A trained network with its threshold: a `Judge` or a `Labeller`. `load` reads one, `findings` asks it."""

    kind: str  # also the name of its file in the run folder
    split: str  # that it learns from

    def __init__(self, network: JudgeNetwork, threshold: float, metadata: dict | None = None):
        self.network, self.threshold, self.metadata = network.eval().requires_grad_(False), threshold, metadata or {}

    @property
    def provenance(self) -> Provenance:
        """Where it comes from; its patients are those it learned from."""
        if "provenance" in self.metadata:
            return Provenance.from_dict(self.metadata["provenance"])
        names = {name: [] for name in self.metadata.get("patients", [])}  # a file of before
        return Provenance(kind=self.kind, store=self.metadata.get("store"), patients=names)

    @torch.no_grad()
    def findings(self, images) -> Findings:
        """images [N, 1, R, R] in [-1, 1], R a multiple of 16."""
        images = torch.as_tensor(images, dtype=torch.float32)
        if images.ndim != 4 or images.shape[1] != 1 or images.shape[-1] % 16:
            raise BadInput(
                f"The {self.kind} reads images [N, 1, R, R] with R a multiple of 16, not {tuple(images.shape)}."
            )
        masks, rows = [], []
        for part in images.clamp(-1, 1).split(BATCH):
            logits, heads = self.network(part.to(self.network.unet.final_conv.weight.device))
            logits, heads = logits.cpu(), {name: head.cpu() for name, head in heads.items()}
            masks.append(logits.argmax(dim=1).to(torch.uint8).numpy())
            rows.append(self._rows(logits.softmax(dim=1), heads, masks[-1]))
        return Findings(np.concatenate(masks), pd.concat(rows, ignore_index=True))

    def _rows(self, shares: Tensor, heads: dict[str, Tensor], masks: np.ndarray) -> pd.DataFrame:
        side = masks.shape[-1]
        tumor = masks == CLASSES.index("tumor")
        count = tumor.sum(axis=(1, 2))
        weight = shares[:, CLASSES.index("tumor")].numpy() * tumor
        total = np.where(count > 0, weight.sum(axis=(1, 2)), np.nan)
        along = (np.arange(side) + 0.5) / side
        score = heads["present"][:, 0].numpy()
        return pd.DataFrame(
            {
                "tumor_score": score,
                "tumor": (score > self.threshold).astype(int),
                "tumor_px": count,
                "liver_px": (masks >= CLASSES.index("liver")).sum(axis=(1, 2)),
                "tumor_x": weight.sum(axis=1) @ along / total,
                "tumor_y": weight.sum(axis=2) @ along / total,
                "modality_mr": heads["modality"][:, 0].sigmoid().numpy(),
                "phase": [PHASES[k] for k in heads["phase"].argmax(dim=1).tolist()],
                "kernel_sharp": heads["kernel"][:, 0].sigmoid().numpy(),
                "noise_hu": NOISE_HU * heads["noise"][:, 0].numpy(),
                "height": heads["height"][:, 0].numpy(),
            }
        )

    def save(self, path: Path) -> Path:
        """Write one safetensors file."""
        provenance = replace(self.provenance, kind=self.kind).to_dict()
        export(path, self.network, {**self.metadata, "threshold": self.threshold, "provenance": provenance})
        return path

    @classmethod
    def load(cls, path: str | Path):
        """That of a run folder or .safetensors file; BadInput for anything else, the other kind of reader included."""
        network, metadata = load_network(path, cls.kind, JudgeNetwork)
        found = network.provenance.kind or Judge.kind  # before there were labellers, all were judges
        if found != cls.kind:
            raise BadInput(f"{path}: holds a {found}, not a {cls.kind}; train one with stylemed train {cls.kind}.")
        return cls(network, metadata["threshold"], metadata)


class Judge(Reader):
    """The reader that only measures, trained on `judge` patients."""

    kind, split = "judge", "judge"


class Labeller(Reader):
    """The reader that may take part in making things, trained on `train` patients."""

    kind, split = "labeller", "train"


# -- what is true of a store's slices


def truth(store, rows) -> pd.DataFrame:
    """What the store knows of `rows`, in the columns of `Findings.table`; NaN (phase: "") where it does not know.

    tumor_across: diameter in pixels of a disc as large as the largest tumor of the slice. height only where a case has ten slices
    or more.
    """
    table = store.slices.iloc[rows].reset_index(drop=True)
    known = table["tumor_known"] == 1
    labels = np.asarray(store.labels[rows])
    along = (np.arange(labels.shape[-1]) + 0.5) / labels.shape[-1]
    tumor = labels == 2
    count = np.where(tumor.any(axis=(1, 2)), tumor.sum(axis=(1, 2)), np.nan)
    first, last, slices = (store.slices.groupby("case")["z"].agg(how) for how in ("min", "max", "count"))
    low, high = table["case"].map(first), table["case"].map(last)
    height = (table["z"] - low) / (high - low).clip(lower=1)
    mr = table["modality"].map({"CT": 0.0, "MR": 1.0})
    columns = {
        "tumor": (table["tumor_px"] > 0).astype(float).where(known),
        "tumor_across": [_across(mask) for mask in tumor],
        "tumor_px": table["tumor_px"].astype(float).where(known),
        "liver_px": table["liver_px"],
        "tumor_x": tumor.sum(axis=1) @ along / count,
        "tumor_y": tumor.sum(axis=2) @ along / count,
        "modality_mr": mr,
        "phase": table["phase"].where(mr == 0, ""),
        "kernel_sharp": _column(table, "kernel").map({"soft": 0.0, "sharp": 1.0}),
        "noise_hu": pd.to_numeric(_column(table, "noise_hu"), errors="coerce"),
        "height": height.where(table["case"].map(slices) >= 10),
    }
    return pd.DataFrame(columns)


def _across(mask: np.ndarray) -> float:
    return disc_across(largest_px(mask))


def _column(table, name):
    return table[name] if name in table else pd.Series([""] * len(table))


# -- how wrong it is


def check_reader(reader, store) -> None:
    """BadInput where a reader's slices looked otherwise than those of a store: window, frame, resolution. Patients may differ."""
    its, of_store = (getattr(artifact, "provenance", Provenance()) for artifact in (reader, store))
    belong_together(
        its,
        of_store,
        names=(f"the {its.kind or 'reader'}", f"the store {getattr(store, 'path', '')}".strip()),
        same_store=False,
        cure=f"prepare the store as that of the {its.kind or 'reader'} was, or train one on slices like these",
    )


def errors(
    reader: Reader, store, split: str = "test", seed: int = 0, draws: int = 1000, *, seen: bool = False
) -> pd.DataFrame:
    """The reader's own errors on a split: `error_table` of what it finds there.

    BadInput where the store has another window, frame or resolution than it learned from, and where it has learned from some of
    these patients; with seen=True they are asked about all the same, and a column `seen` says how many they are.
    """
    check_reader(reader, store)
    rows = store.select(split)
    if not len(rows):
        raise BadInput(f"{store.path} has no slice of the split {split} to measure the {reader.kind} on.")
    known = reader.provenance.shared_patients(store.learned_from(rows, split))
    if known and not seen:
        some = ", ".join(known[:3]) + (f" and {len(known) - 3} more" if len(known) > 3 else "")
        raise BadInput(
            f"The {reader.kind} has learned from {some} of {store.path}, so what it finds there says nothing about new patients; "
            "choose another split or store, or ask for it with --seen (seen=True)."
        )
    table = error_table(reader.findings(store.images(rows)), store, rows, seed=seed, draws=draws)
    return table.assign(seen=len(known)) if seen else table


def error_table(found: Findings, store, rows, folds=None, *, seed: int = 0, draws: int = 1000) -> pd.DataFrame:
    """What was found in `rows` against what is true: a row per factor with value, 95 % interval (bootstrap over patients), n.

    Tumors of at least 3 pixels across count for AUC and sensitivity; each of SIZES has a sensitivity too, and so have smaller ones.
    The AUC is given for each modality and phase too, where there are several. folds [n]: which judge answered; scores of different
    judges are not compared.
    """
    table, true, patients = found.table, truth(store, rows), store.slices["patient"].to_numpy()[rows]
    labels = np.asarray(store.labels[rows])
    large = (true["tumor"] == 1) & (true["tumor_across"] >= LEAST_ACROSS)
    none, small = true["tumor"] == 0, (true["tumor"] == 1) & ~large
    out = []
    looks = store.slices.iloc[rows][["modality", "phase"]].fillna("").agg(" ".join, axis=1).str.strip().to_numpy()
    for look in ("", *sorted(set(looks))) if len(set(looks)) > 1 else ("",):
        use = (large | none).to_numpy() & ((looks == look) | (look == ""))
        if large[use].any() and none[use].any():
            asked = None if folds is None else np.asarray(folds)[use]
            auc = patient_auc(table["tumor_score"][use], large[use], patients[use], asked, seed=seed)
            out.append((f"tumor, AUC{look and ', ' + look}", *auc, int(use.sum()), len(set(patients[use]))))

    def add(name, values, where):
        where = np.asarray(where) & np.isfinite(np.asarray(values, float))
        if where.any():
            low, high, value = mean_interval(np.asarray(values, float)[where], patients[where], seed, draws)
            out.append((name, value, low, high, int(where.sum()), len(set(patients[where]))))

    add("tumor, sensitivity", table["tumor"], large)
    for low, high in SIZES:
        size = f"{low} to {high} pixels" if np.isfinite(high) else f"{low} pixels or more"
        add(f"tumor of {size}, sensitivity", table["tumor"], large & true["tumor_across"].between(low, high, "left"))
    add("tumor under 3 pixels, sensitivity", table["tumor"], small)
    add("no tumor, specificity", 1 - table["tumor"], none)
    add("tumor, Dice", dice(found.masks == 3, labels == 2), large)
    add("liver, Dice", dice(found.masks >= 2, labels > 0), np.ones(len(rows), bool))
    add("tumor area, error in pixels", (table["tumor_px"] - true["tumor_px"]).abs(), large)
    add(
        "liver area, error in %",
        100 * (table["liver_px"] - true["liver_px"]).abs() / true["liver_px"],
        true["liver_px"] > 50,
    )
    away = np.hypot(table["tumor_x"] - true["tumor_x"], table["tumor_y"] - true["tumor_y"]) * store.resolution
    add("tumor place, error in pixels", away, large)
    add("modality, accuracy", (table["modality_mr"] > 0.5) == true["modality_mr"], true["modality_mr"].notna())
    add("phase, accuracy", table["phase"] == true["phase"], true["phase"].isin(PHASES))
    add("kernel, accuracy", (table["kernel_sharp"] > 0.5) == true["kernel_sharp"], true["kernel_sharp"].notna())
    add("noise, error in HU", (table["noise_hu"] - true["noise_hu"]).abs(), true["noise_hu"].notna())
    add("height, error", (table["height"] - true["height"]).abs(), true["height"].notna())
    return pd.DataFrame(out, columns=["what", "value", "low", "high", "slices", "patients"])


def dice(found: np.ndarray, true: np.ndarray) -> np.ndarray:
    """Dice of each slice; NaN where neither has a pixel."""
    total = found.sum(axis=(1, 2)) + true.sum(axis=(1, 2))
    return np.where(total > 0, 2 * (found & true).sum(axis=(1, 2)) / np.maximum(total, 1), np.nan)
