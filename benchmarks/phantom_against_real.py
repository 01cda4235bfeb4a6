"""The phantom beside real CT, cut to [0, 255] HU and then brought to 64²: numbers, a picture, and can a network tell them apart?

    python benchmarks/phantom_against_real.py REAL_FOLDER --patients 60 --out _build/phantom

REAL_FOLDER is in LiTS layout with a volumes.csv. First how common and how large tumors are: of the phantom's patients, of the
real ones whose tumors are known, and LiTS's published counts. Then, per patient: mean and spread (standard deviation) in liver
and tumor, their contrast, noise inside the liver, the liver's share of the image. The phantom's mean should lie between the 10th
and the 90th percentile of the real patients. Regions placed by hand (`real_regions.csv`: volume, organ, x, y, z, radius in voxels
of the stored array) stand beside what the phantom was painted with. Whole volumes with all HU (`--whole`) give fat, tumor
diameters and the liver's area along z. The picture holds real slices and stays where it is written.
"""

import argparse
from pathlib import Path

import numpy as np
import pandas as pd

LOW, HIGH, SIDE = 0, 255, 64
REGIONS = Path(__file__).with_name("real_regions.csv")


def per_patient(store) -> pd.DataFrame:
    """One row per patient, of slices [R, R] cut to [LOW, HIGH]."""
    from scipy import ndimage

    rows = []
    for patient, group in store.slices.iloc[store.select()].groupby("patient"):  # without twins
        at = group.index.to_numpy()
        hu, labels = store.hu[at].astype(np.float32), np.asarray(store.labels[at])
        known = bool((group["tumor_known"] == 1).all())
        inner = np.stack([ndimage.binary_erosion(mask, iterations=2) for mask in labels == 1])
        local = _spread(hu, 3)
        tumor = labels == 2
        around = np.stack([ndimage.binary_dilation(m, iterations=3) for m in tumor]) & (labels == 1)
        quiet = inner & ~np.stack([ndimage.binary_dilation(m, iterations=2) for m in tumor])
        rows.append(
            {
                "patient": patient,
                "liver, mean HU": hu[quiet].mean() if quiet.any() else np.nan,
                "liver, spread HU": hu[quiet].std() if quiet.any() else np.nan,
                "liver, noise HU": np.median(local[quiet]) if quiet.any() else np.nan,
                "liver, largest share of image %": 100 * (labels > 0).mean(axis=(1, 2)).max(),
                "tumor, mean HU": hu[tumor].mean() if known and tumor.any() else np.nan,
                "tumor, spread HU": hu[tumor].std() if known and tumor.any() else np.nan,
                "tumor, contrast HU": hu[tumor].mean() - hu[around].mean() if known and around.any() else np.nan,
            }
        )
    return pd.DataFrame(rows)


LITS = {  # as published: 118 of 131 patients, 7190 of 19163 slices with liver
    "patients with a tumor %": f"{100 * 118 / 131:.0f}",
    "slices with a tumor %": f"{100 * 7190 / 19163:.0f}",
}
SEEN = 25  # pixels at 64²


def prevalence(store, diameters: list[np.ndarray]) -> dict[str, str]:
    """How common and large tumors are in the slices whose tumors are known; diameters (mm): an array for each whole volume."""
    from scipy import ndimage

    table = store.slices[store.slices["tumor_known"] == 1]
    tumor = table["tumor_px"] > 0
    largest = [
        np.bincount(ndimage.label(mask == 2)[0].ravel())[1:].max(initial=0)
        for mask in store.labels[table.index.to_numpy()]
    ]
    out = {
        "patients": str(table["patient"].nunique()),
        "slices with liver": str(len(table)),
        "patients with a tumor %": f"{100 * tumor.groupby(table['patient']).any().mean():.0f}",
        "slices with a tumor %": f"{100 * tumor.mean():.0f}",
        f"slices whose largest tumor has {SEEN} pixels or more at {SIDE}² %": f"{100 * np.mean(np.array(largest) >= SEEN):.0f}",
    }
    sizes = np.concatenate(diameters)
    if len(sizes):
        out["tumors of a patient who has some: 10, 50, 90 %"] = _three([len(d) for d in diameters if len(d)])
        out["tumor, diameter mm: 10, 50, 90 %"] = _three(sizes)
    return out


def _three(values) -> str:
    return ", ".join(f"{v:.0f}" for v in np.quantile(values, [0.1, 0.5, 0.9]))


def tumor_diameters(folder: Path, volume: str) -> np.ndarray:
    """Of the tumors of a whole volume that lie apart in its labels: diameters of spheres as large, in mm, from 3 mm on."""
    import nibabel as nib
    from scipy import ndimage

    image = nib.load(folder / f"segmentation-{volume}.nii.gz")
    pieces, _ = ndimage.label(np.asanyarray(image.dataobj) == 2)
    voxel = abs(np.linalg.det(image.affine[:3, :3]))
    diameters = (6 / np.pi * voxel * np.bincount(pieces.ravel())[1:]) ** (1 / 3)
    return diameters[diameters > 3]


def prevalence_table(stores, phantom: Path, real: Path, names: list[str], patients: int) -> None:
    ours = prevalence(stores["phantom"], [tumor_diameters(phantom, str(i)) for i in range(1, patients + 1)])
    theirs = prevalence(stores["real"], [tumor_diameters(real, name) for name in names] or [np.array([])])
    whole_volumes = f" (tumors: of {', '.join(names)})" if names else ""
    print(f"| tumors | phantom | real, labelled{whole_volumes} | LiTS |\n|---|---|---|---|")
    for what, value in ours.items():
        print(f"| {what} | {value} | {theirs.get(what, '')} | {LITS.get(what, '')} |")
    print()


def _spread(hu: np.ndarray, side: int) -> np.ndarray:
    """Standard deviation in the side x side neighbourhood of every pixel."""
    from scipy import ndimage

    size = (1, side, side)
    square = (
        ndimage.uniform_filter(hu.astype(np.float64) ** 2, size)
        - ndimage.uniform_filter(hu.astype(np.float64), size) ** 2
    )
    return np.sqrt(square.clip(min=0))


def regions(folder: Path) -> pd.DataFrame:
    """Mean HU of the regions placed by hand, cut to [LOW, HIGH]."""
    import nibabel as nib

    table = pd.read_csv(REGIONS, comment="#")
    out = []
    for volume, group in table.groupby("volume"):
        array = np.asanyarray(nib.load(folder / f"volume-{volume}.nii.gz").dataobj)
        for row in group.itertuples():
            x, y = np.ogrid[: array.shape[0], : array.shape[1]]
            disc = (x - row.x) ** 2 + (y - row.y) ** 2 <= row.radius**2
            values = np.clip(array[..., row.z][disc], LOW, HIGH)
            out.append({"volume": volume, "organ": row.organ, "mean HU": values.mean(), "spread HU": values.std()})
    return pd.DataFrame(out)


def classifier(phantom: np.ndarray, real: np.ndarray, groups: np.ndarray, steps: int = 300, seed: int = 0) -> float:
    """Balanced accuracy of a small network that tells phantom from real slices, on patients it has not seen (4 folds)."""
    import torch
    from sklearn.model_selection import GroupKFold
    from torch import nn

    x = torch.from_numpy(np.concatenate([phantom, real]))[:, None]
    y = np.r_[np.zeros(len(phantom)), np.ones(len(real))]
    right = []
    for fold, (train, test) in enumerate(GroupKFold(4).split(x, y, groups)):
        torch.manual_seed(seed + fold)
        layers = [
            part
            for i, o in ((1, 12), (12, 24), (24, 32))
            for part in (nn.Conv2d(i, o, 3, stride=2, padding=1), nn.ReLU())
        ]
        network = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(32, 1))
        optimizer = torch.optim.Adam(network.parameters(), 2e-3)
        rng = np.random.default_rng(seed + fold)
        kinds = [train[y[train] == k] for k in (0, 1)]
        for _ in range(steps):
            batch = np.r_[rng.choice(kinds[0], 16), rng.choice(kinds[1], 16)]
            loss = nn.functional.binary_cross_entropy_with_logits(
                network(x[batch])[:, 0], torch.from_numpy(y[batch]).float()
            )
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        with torch.no_grad():
            said = (network(x[test])[:, 0] > 0).numpy()
        right.append(np.mean([(said[y[test] == k] == k).mean() for k in (0, 1)]))
    return float(np.mean(right))


def cut_to_window(folder: Path, out: Path) -> Path:
    """The same LiTS folder with every volume cut to [LOW, HIGH], as the real sample was before anybody resampled it."""
    import nibabel as nib

    out.mkdir(parents=True, exist_ok=True)
    table = pd.read_csv(folder / "volumes.csv", dtype=str, keep_default_na=False)
    for volume in table["volume"]:
        image = nib.load(folder / f"volume-{volume}.nii.gz")
        array = np.clip(np.asanyarray(image.dataobj), LOW, HIGH).astype(np.int16)
        nib.save(nib.Nifti1Image(array, image.affine), out / f"volume-{volume}.nii.gz")
        mask = out / f"segmentation-{volume}.nii.gz"
        mask.unlink(missing_ok=True)
        mask.symlink_to((folder / mask.name).absolute())
    table["hu_min"], table["hu_max"] = LOW, HIGH
    table.to_csv(out / "volumes.csv", index=False)
    return out


PLACES = (0.1, 0.3, 0.5, 0.7, 0.9)  # of the liver's height, from below


def whole(folder: Path, volume: str) -> dict:
    """Fat, tumors and the liver's area along z of one volume with all its HU, axes LPS."""
    import nibabel as nib
    from scipy import ndimage

    image = nib.load(folder / f"volume-{volume}.nii.gz")
    hu = np.asanyarray(image.dataobj)
    labels = np.asanyarray(nib.load(folder / f"segmentation-{volume}.nii.gz").dataobj)
    area = (labels > 0).sum(axis=(0, 1))
    levels = np.flatnonzero(area)
    low, high = levels[0], levels[-1]
    inside = fat = 0
    for z in range(low, high + 1, 4):
        body = ndimage.binary_opening(hu[..., z] > -300, iterations=2)
        pieces, n = ndimage.label(body)
        body = ndimage.binary_fill_holes(pieces == 1 + np.bincount(pieces.ravel())[1:].argmax())
        inside += body.sum()
        fat += (body & (hu[..., z] > -150) & (hu[..., z] < -50)).sum()
    smooth = ndimage.uniform_filter1d(area[low : high + 1].astype(float), max(1, round((high - low) / 20)))
    out = {"fat, share of the body %": 100 * fat / inside, "tumor, diameter mm": tumor_diameters(folder, volume)}
    for place in PLACES:
        at = np.interp(place, np.linspace(0, 1, len(smooth)), smooth)
        out[f"liver's area at {place:.0%} of its height, % of the largest"] = 100 * at / smooth.max()
    return out


def whole_table(phantom: Path, real: Path, names: list[str]) -> None:
    """Print phantom patients beside the named real ones (too few for percentiles)."""
    ours = [whole(phantom, str(i)) for i in range(1, 25) if (phantom / f"volume-{i}.nii.gz").is_file()]
    theirs = [whole(real, name) for name in names]
    print(f"\n| whole volumes | phantom ({len(ours)}): 10 % | median | 90 % | {' | '.join(names)} |")
    print("|---|---|---|---|" + "---|" * len(names))
    for key in ours[0]:
        low, middle, high = np.quantile(np.concatenate([np.atleast_1d(one[key]) for one in ours]), [0.1, 0.5, 0.9])
        cells = [" ".join(f"{v:.0f}" for v in sorted(np.atleast_1d(one[key]))) or "none" for one in theirs]
        print(f"| {key} | {low:.0f} | {middle:.0f} | {high:.0f} | {' | '.join(cells)} |")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("real", type=Path)
    parser.add_argument("--patients", type=int, default=60)
    parser.add_argument("--size", type=int, default=256)
    parser.add_argument("--whole", nargs="*", default=[], help="real volumes that hold all HU")
    parser.add_argument("--out", type=Path, default=Path("_build/phantom_against_real"))
    options = parser.parse_args()
    from stylemed.data import SliceStore, prepare
    from stylemed.phantom import make_phantom

    options.out.mkdir(parents=True, exist_ok=True)
    phantom = make_phantom(options.out / "phantom", options.patients, size=options.size, workers=2)
    stores = {}
    for name, source in (("phantom", phantom), ("real", options.real)):
        prepare(cut_to_window(source, options.out / f"{name}-cut"), options.out / f"{name}-{SIDE}", SIDE)
        stores[name] = SliceStore.open(options.out / f"{name}-{SIDE}")
    prevalence_table(stores, phantom, options.real, options.whole, options.patients)
    tables = {name: per_patient(store) for name, store in stores.items()}
    print(
        "| per patient | phantom, mean | real: 10 % | median | 90 % | n real | inside |\n|---|---|---|---|---|---|---|"
    )
    compared = [(column, tables["phantom"][column], tables["real"][column]) for column in tables["real"].columns[1:]]
    painted = pd.read_csv(phantom / "truth.csv").groupby("patient").first()
    for organ, values in regions(options.real).groupby("organ")["mean HU"]:
        compared.append((f"{organ}, mean HU (painted; by hand)", painted[f"hu_{organ}"].clip(LOW, HIGH), values))
    for what, ours, theirs in compared:
        ours, theirs = ours.dropna(), theirs.dropna()
        low, middle, high = theirs.quantile([0.1, 0.5, 0.9])
        inside = "yes" if low <= ours.mean() <= high else "**no**"
        print(f"| {what} | {ours.mean():.1f} | {low:.1f} | {middle:.1f} | {high:.1f} | {len(theirs)} | {inside} |")
    if options.whole:
        whole_table(phantom, options.real, options.whole)
    cut = {name: store.hu[:].astype(np.float32) / 127.5 - 1 for name, store in stores.items()}
    rng = np.random.default_rng(0)
    take = rng.permutation(len(cut["phantom"]))[: len(cut["real"])]
    groups = np.concatenate(
        [stores["phantom"].slices["patient"].to_numpy()[take], stores["real"].slices["patient"].to_numpy()]
    )
    share = classifier(cut["phantom"][take], cut["real"], groups)
    print(f"\nclassifier, phantom or real: balanced accuracy {share:.3f}")
    picture(cut, options.out / "side_by_side.png", rng)


def picture(cut, file: Path, rng, count: int = 24, scale: int = 3) -> None:
    from PIL import Image

    rows = []
    for name in ("phantom", "real"):
        images = cut[name][np.sort(rng.permutation(len(cut[name]))[:count])]
        grid = images.reshape(3, count // 3, SIDE, SIDE).transpose(0, 2, 1, 3).reshape(3 * SIDE, -1)
        rows.append(grid)
    page = np.concatenate([rows[0], np.full((6, rows[0].shape[1]), 1.0), rows[1]])
    pixels = ((page + 1) * 127.5).round().astype(np.uint8).repeat(scale, 0).repeat(scale, 1)
    Image.fromarray(pixels).save(file)
    print(f"above phantom, below real: {file}")


if __name__ == "__main__":
    main()
