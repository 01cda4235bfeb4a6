"""The readers of slices, judge and labeller, and their training: the judge on `judge` patients only, the labeller on `train`.

The judge measures what generator, encoder and directions do, and has no part in making any of them. The labeller may take part
(it labels generated images, say), and measures nothing. Both are one network, `networks.reader`. The threshold of "present" is
fixed on patients of the same split, held back from the training.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F
from torch import Tensor

from stylemed.data.body import BODY_HU, BRIGHTEST_FAT_HU, body_piece
from stylemed.data.truth import patients_by_tumors, present, truth
from stylemed.errors import BadInput
from stylemed.files import write_atomic
from stylemed.networks.reader import CLASSES, ReaderNetwork
from stylemed.phantom.anatomy import ENHANCEMENT
from stylemed.provenance import Provenance
from stylemed.statistics import dice
from stylemed.training import augment
from stylemed.training.distributed import own_device, refuse_team
from stylemed.training.loop import GradientGuard, drive, move_average, next_positions, random_stream
from stylemed.training.run import Run, export, load_network
from stylemed.training.schedule import Intervals, all_every, config_from_preset, ema_beta

PHASES = tuple(ENHANCEMENT)
NOISE_HU = 30.0  # unit of the noise head
BATCH = 32  # slices read at a time
BODY_SIGNAL = 80  # MR: above is body, of a signal up to 1000
SEEN_AT = 64  # pixels: the U-Net's own resolution, at most
MOST_TIMES = 6  # that a slice with a tumor is shown while another is shown once
# Little of brightness and contrast: HU tell a cyst from a tumor, and a phase from another.
VARIED = augment.Ranges(brightness=0.02, contrast=0.03)
FEWEST_PATIENTS = 3  # to learn from
HELD = 0.2  # of the patients: they fix the threshold


# -- the readers


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

    def __init__(self, network: ReaderNetwork, threshold: float, metadata: dict | None = None):
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
            logits, heads = self.network(part.to(self.network.heads.weight.device))
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
        network, metadata = load_network(path, cls.kind, ReaderNetwork)
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


# -- their training


@dataclass(frozen=True)
class ReaderConfig(Intervals):
    """One training of a judge or a labeller."""

    width: int = 16
    trunk: str = "unet"  # or "residual": ReaderNetwork
    batch: int = 16
    learning_rate: float = 2e-3
    kimg: float = 60.0  # the learning rate falls to nothing until then (half a cosine)
    augment_p: float = 0.4
    blur_p: float = 0.2  # generated images are softer than scans: some training images are made so
    ema_kimg: float = 1.0
    ema_rampup: float | None = 0.1
    tick_kimg: float = 1.0
    grid_kimg: float = 20.0
    export_kimg: float = 20.0  # and a row of curve.csv
    measure_kimg: float = 20.0
    checkpoint_kimg: float = 20.0


READER_PRESETS: dict[str, dict] = {
    "standard": {},
    "smoke": {"width": 8, "batch": 8, "kimg": 3.0, "tick_kimg": 0.2, **all_every(0.6)},
}


def reader_config(preset: str | ReaderConfig, **changes) -> ReaderConfig:
    """The named preset with single fields replaced: `config_from_preset`."""
    return config_from_preset(ReaderConfig, READER_PRESETS, preset, changes)


class ReaderTrainer:
    """The network, its average, and one step. rows: of the store, to learn from; None takes those of the reader's split."""

    saved = ("nimg", "guard", "network", "averaged", "optimizer", "curve")

    def __init__(
        self,
        store,
        config: ReaderConfig,
        seed: int,
        device: str | torch.device = "cpu",
        rows=None,
        reader: type[Reader] = Judge,
    ):
        self.store, self.config, self.seed, self.device = store, config, seed, torch.device(device)
        self.reader, self.split = reader, reader.split if rows is None else None
        rows = store.select(reader.split) if rows is None else np.asarray(rows)
        table = store.slices.iloc[rows]
        if table["patient"].nunique() < FEWEST_PATIENTS:
            raise BadInput(
                f"{store.path} has {table['patient'].nunique()} patients for a {reader.kind} to learn from, which needs "
                f"at least {FEWEST_PATIENTS}; give more of them the split {reader.split}."
            )
        strata = list(patients_by_tumors(table, seed).values())
        held = [name for names in strata for name in names[: _held_back(len(names))]] or strata[0][:1]
        inside = table["patient"].astype(str).isin(held).to_numpy()
        self.rows, self.held = rows[~inside], rows[inside]
        self.images = torch.from_numpy(store.images(self.rows))
        self.classes = torch.from_numpy(_classes(store, self.rows))
        self.body_known = torch.from_numpy(_body_known(store, self.rows))
        self.true = truth(store, self.rows)
        self.targets = {
            "present": _tensor(present(self.true)),
            "modality": _tensor(self.true["modality_mr"]),
            "phase": torch.tensor([PHASES.index(p) if p in PHASES else -1 for p in self.true["phase"]]),
            "kernel": _tensor(self.true["kernel_sharp"]),
            "noise": _tensor(self.true["noise_hu"] / NOISE_HU),
            "height": _tensor(self.true["height"]),
        }
        self.tumor_known = _tensor(self.true["tumor"]).isfinite()
        ill = np.flatnonzero(self.true["tumor"] == 1)
        more = min(MOST_TIMES, round((len(self.rows) - len(ill)) / max(len(ill), 1)))  # tumors are as often seen as not
        self.order = np.concatenate([np.arange(len(self.rows)), *[ill] * max(more - 1, 0)])
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(random_stream(seed, 0, "judge").initial_seed())
            fold = max(1, store.resolution // SEEN_AT)
            shape = (config.width, fold, config.trunk)
            self.network, self.averaged = ReaderNetwork(*shape), ReaderNetwork(*shape)
        self.averaged.load_state_dict(self.network.state_dict())
        self.network.to(self.device)
        self.averaged.to(self.device).eval().requires_grad_(False)
        self.optimizer = torch.optim.AdamW(self.network.parameters(), lr=config.learning_rate, weight_decay=1e-3)
        self.guard = GradientGuard()
        self.nimg, self.seconds_reading, self.resolution = 0, 0.0, store.resolution
        self.curve: list[dict[str, float]] = []  # a row per snapshot, see `_reached`

    def step(self) -> dict[str, float]:
        n, config = self.config.batch, self.config
        positions = torch.from_numpy(self.order[next_positions(self.nimg, n, len(self.order), self.seed)])
        images, classes = self._varied(self.images[positions], self.classes[positions])
        known = [flags[positions].to(self.device) for flags in (self.tumor_known, self.body_known)]
        targets = {name: target[positions].to(self.device) for name, target in self.targets.items()}
        logits, heads = self.network(images.to(self.device))
        outlines = _outline_loss(logits, classes.to(self.device), *known)
        told = _head_losses(heads, targets)
        loss = outlines + told["present"] + 0.3 * sum(value for name, value in told.items() if name != "present")
        share = min(1.0, self.nimg / (1000 * config.kimg))
        self.optimizer.param_groups[0]["lr"] = config.learning_rate * (0.5 + 0.5 * float(np.cos(np.pi * share)))
        self.optimizer.zero_grad()
        loss.backward()
        self.guard.step(self.optimizer)
        self.nimg += n
        move_average(self.averaged, self.network, ema_beta(self.nimg, n, config))
        return {"outlines": outlines.item()} | {name: value.item() for name, value in told.items()}

    def _varied(self, images: Tensor, classes: Tensor) -> tuple[Tensor, Tensor]:
        """Images moved, lit and softened at random; the classes move along."""
        stream = random_stream(self.seed, self.nimg, "vary")
        drawn = augment.draw(tuple(images.shape), self.config.augment_p, stream, VARIED)
        shapes = (
            2 * F.one_hot(classes.long(), len(CLASSES)).permute(0, 3, 1, 2).float() - 1
        )  # air outside, as in the image
        still = {"brightness": torch.zeros(len(images)), "contrast": torch.ones(len(images)), "noise": torch.zeros(1)}
        drawn["cut"] = torch.zeros(len(images))
        moved = augment.apply(shapes, {**drawn, **still})
        moved[:, 0] += 1e-3  # what comes from outside is air
        soft = torch.rand(len(images), generator=stream) < self.config.blur_p
        images = augment.apply(images, drawn)
        blurred = F.avg_pool2d(F.pad(images, (1, 1, 1, 1), mode="replicate"), 3, stride=1)
        return torch.where(soft[:, None, None, None], blurred, images).clamp(-1, 1), moved.argmax(dim=1)

    def row(self) -> dict:
        return {"resolution": self.resolution, "batch": self.config.batch, "skipped": self.guard.skipped}

    def reader_now(self) -> Reader:
        """The reader as it is now, its threshold still open."""
        rows = np.concatenate([self.rows, self.held])
        made = self.store.learned_from(rows, self.split, shown=self.rows[self.order])
        metadata = {"store": self.store.digest, "resolution": self.resolution, "nimg": self.nimg, "seed": self.seed}
        return self.reader(self.averaged, 0.0, {**metadata, "provenance": made.to_dict()})

    def export(self, run: Run) -> None:
        """Fix the threshold on the patients held back; write the weights and a row of curve.csv."""
        reader = self.reader_now()
        found, true = reader.findings(self.store.images(self.held)), truth(self.store, self.held)
        reader.threshold = best_threshold(found.table["tumor_score"].to_numpy(), present(true).to_numpy())
        reader.save(run.path / f"{reader.kind}.safetensors")
        liver = dice(found.masks >= 2, np.asarray(self.store.labels[self.held]) > 0)
        self.curve.append({"kimg": self.nimg / 1000, **_reached(found, true, reader.threshold, liver)})
        write_atomic(run.path / "curve.csv", pd.DataFrame(self.curve).to_csv(index=False).encode())

    def grid(self, run: Run) -> None:
        """Write some slices of the patients held back and, below each row, what it outlines there."""
        some = self.held[np.linspace(0, len(self.held) - 1, BATCH // 2).astype(int)]
        images = torch.from_numpy(self.store.images(some))
        outlined = torch.from_numpy(self.reader_now().findings(images).masks.astype(np.float32))[:, None] / 1.5 - 1
        rows = [part for pair in zip(images.split(8), outlined.split(8), strict=True) for part in pair]
        run.save_grid(torch.cat(rows), self.nimg)


def _reached(found: Findings, true: pd.DataFrame, threshold: float, liver: np.ndarray) -> dict[str, float]:
    """How well it reads the patients held back, NaN where that cannot be asked: AUC for tumors of at least 3 pixels across, of all
    and of portal CT alone, sensitivity for them at the threshold that was fixed on them, and Dice of the liver."""
    from sklearn.metrics import roc_auc_score

    score, state = found.table["tumor_score"].to_numpy(), present(true).to_numpy()
    row = {}
    for name, use in (("auc", np.full(len(true), True)), ("auc_portal", (true["phase"] == "portal").to_numpy())):
        use = use & np.isfinite(state)
        row[name] = float(roc_auc_score(state[use], score[use])) if len(set(state[use])) == 2 else float("nan")
    large = state == 1
    row["sensitivity"] = float((score[large] > threshold).mean()) if large.any() else float("nan")
    return row | {"liver_dice": float(np.nanmean(liver))}


def _held_back(patients: int) -> int:
    return max(1, round(HELD * patients)) if patients > 1 else 0


def train_judge(store, run: str | Path, preset: str | ReaderConfig = "standard", **how) -> Run:
    """Train a judge on the split `judge` of a store: `train_reader`, as it takes the rest."""
    return train_reader(Judge, store, run, preset, **how)


def train_labeller(store, run: str | Path, preset: str | ReaderConfig = "standard", **how) -> Run:
    """Train a labeller on the split `train` of a store: `train_reader`, as it takes the rest."""
    return train_reader(Labeller, store, run, preset, **how)


def train_reader(
    reader: type[Reader],
    store,
    run: str | Path,
    preset: str | ReaderConfig = "standard",
    *,
    kimg: float | None = None,
    max_minutes: float | None = None,
    seed: int = 0,
    device: str | None = None,
    progress: bool = True,
    on_snapshot: Callable[[Run, ReaderTrainer], None] | None = None,
    rows=None,
    fold: str | None = None,
    **changes,
) -> Run:
    """Train a reader in the folder `run`; the same call resumes.

    Args:
        preset: name in `READER_PRESETS` or a whole ReaderConfig; `changes` replace single fields of a preset.
        kimg: thousands of slices to show in all; None takes the preset's. The learning rate falls until then.
        rows: of the store, to learn from; None takes those of the reader's split. fold: a name for them.

    Raises BadInput for too few patients, an unknown preset or field, a run folder of another configuration or in use.
    """
    refuse_team("A judge or labeller")
    config = reader_config(preset, **changes)
    config = config if kimg is None else replace(config, kimg=kimg)
    trainer = ReaderTrainer(store, config, seed, own_device(device), rows, reader)
    asked = {"kind": reader.kind, "seed": seed, "store": store.digest, **asdict(config)}
    return drive(
        trainer,
        Run(run),
        asked if fold is None else {**asked, "fold": fold},
        kimg=config.kimg,
        max_minutes=max_minutes,
        progress=progress,
        on_snapshot=on_snapshot,
    )


def best_threshold(scores: np.ndarray, state: np.ndarray) -> float:
    """The score with the highest sensitivity + specificity (Youden); 0 where there are not both kinds. NaN states are not used."""
    known = np.isfinite(state)
    scores, state = scores[known], state[known] == 1
    if not (state.any() and (~state).any()):
        return 0.0
    order = np.sort(scores)
    cuts = np.concatenate([[order[0] - 1], (order[1:] + order[:-1]) / 2])
    gained = [(scores[state] > cut).mean() + (scores[~state] <= cut).mean() for cut in cuts]
    best = np.flatnonzero(np.isclose(gained, max(gained)))
    return float(cuts[best[len(best) // 2]])  # the middle of equally good ones


def _classes(store, rows) -> np.ndarray:
    """CLASSES of every pixel, uint8 [n, R, R]: the labels, and the body, which is what is denser than air, holes filled."""
    hu, labels = np.asarray(store.hu[rows]), np.asarray(store.labels[rows])
    ct = (store.slices["modality"].to_numpy()[rows] != "MR")[:, None, None]
    body = np.where(ct, hu > BODY_HU, hu > BODY_SIGNAL)
    out = np.zeros(labels.shape, np.uint8)
    for i, mask in enumerate(body):
        out[i] = body_piece(mask, thin=int(len(mask) >= 64))
    out[labels > 0] = labels[labels > 0] + 1
    return out


def _body_known(store, rows) -> np.ndarray:
    """Whether body can be told from air [n]: not where CT was cut off above fat, in the store (said or not) or by its window."""
    said = {entry["case"]: entry.get("hu_min") for entry in store.info["inputs"]}
    table = store.slices.iloc[rows]
    known = {}
    for case, part in table.groupby("case"):
        modality = part["modality"].iloc[0]
        low = said.get(case)
        known[case] = modality == "MR" or (
            (low is None or low < BODY_HU)
            and store.windows[modality].lo < BRIGHTEST_FAT_HU
            and np.asarray(store.hu[part.index]).min() < BODY_HU
        )
    return np.array([known[case] for case in table["case"]], bool)


def _tensor(column) -> Tensor:
    return torch.from_numpy(np.asarray(column, np.float32))


def _outline_loss(logits: Tensor, classes: Tensor, tumor_known: Tensor, body_known: Tensor) -> Tensor:
    """Cross-entropy and Dice of liver and tumor. What is not known is not asked: liver and tumor count as one where tumors were
    not labelled, air and body where they cannot be told apart."""
    from monai.losses import DiceLoss

    shares = logits.log_softmax(dim=1)
    merged = shares.gather(1, classes[:, None])[:, 0]
    liver = shares[:, 2:].logsumexp(dim=1)
    outside = shares[:, :2].logsumexp(dim=1)
    unknown_tumor = ~tumor_known[:, None, None] & (classes >= 2)
    unknown_body = ~body_known[:, None, None] & (classes < 2)
    merged = torch.where(unknown_tumor, liver, torch.where(unknown_body, outside, merged))
    dice = DiceLoss(reduction="mean", batch=True)
    loss = -merged.mean() + 0.5 * dice(liver.exp()[:, None], (classes >= 2)[:, None].float())
    if tumor_known.any():
        loss = loss + 0.5 * dice(shares[tumor_known, 3:].exp(), (classes == 3)[tumor_known][:, None].float())
    return loss


def _head_losses(heads: dict[str, Tensor], targets: dict[str, Tensor]) -> dict[str, Tensor]:
    out = {}
    for name, target in targets.items():
        known = target >= 0 if name == "phase" else target.isfinite()
        answer, wanted = heads[name][known], target[known]
        if not known.any():
            out[name] = heads[name].sum() * 0
        elif name == "phase":
            out[name] = F.cross_entropy(answer, wanted)
        elif name in ("noise", "height"):
            out[name] = F.l1_loss(answer[:, 0], wanted)
        else:
            out[name] = F.binary_cross_entropy_with_logits(answer[:, 0], wanted)
    return out
