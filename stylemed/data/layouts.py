"""Which files belong together: pairs of volume and segmentation in three layouts, and what a table says of them.

- LiTS: `volume-N.nii[.gz]` and `segmentation-N.nii[.gz]`, in sub-folders (batches) too
- Medical Segmentation Decathlon: `imagesTr/NAME_N.nii.gz` and `labelsTr/NAME_N.nii.gz`
- a plain table: `volumes.csv`, or any CSV given instead of a folder, with the columns image and mask

Beside the first two may lie a `volumes.csv` that says what the files cannot: patient, split, modality, phase, kernel, noise_hu,
hu_min, hu_max, tumor_labels, spacing, orientation, twin_of, one row per volume. Columns it does not know are ignored.
"""

from __future__ import annotations

import fnmatch
import os
import re
from dataclasses import dataclass
from pathlib import Path

from stylemed.errors import BadInput

SPLITS = ("train", "judge", "test")
MODALITIES = {"CT": "CT", "MR": "MR", "MRI": "MR"}  # as they are written here
NIFTI = re.compile(r"\.nii(\.gz)?$", re.IGNORECASE)


@dataclass(frozen=True)
class Case:
    """One volume with its segmentation, and the patient it belongs to.

    `kernel` (such as soft or sharp) and `noise_hu`: how the scan was reconstructed and how noisy it is, where that is known.
    `hu_min`, `hu_max`: range the intensities were already cut to, None where they were not.
    `tumor_known`: False where the labels do not tell tumor from liver; such a case is never tumor-free.
    `spacing_known`: whether the header's millimetres were measured; None where the table does not say.
    `orientation`: axis codes such as "LPS" that stand above the file's header, None to trust the header.
    `twin_of`: name of the case that this one repeats without its tumors, None for a case of its own.
    """

    name: str
    volume: Path
    segmentation: Path
    patient: str
    split: str | None = None
    modality: str = "CT"
    phase: str | None = None
    kernel: str | None = None
    noise_hu: float | None = None
    hu_min: float | None = None
    hu_max: float | None = None
    tumor_known: bool = True
    spacing_known: bool | None = None
    orientation: str | None = None
    twin_of: str | None = None


def find_cases(source, include: str | None = None, exclude: str | None = None) -> list[Case]:
    """All pairs below `source`, in the order of their numbers, with what the table says of them.

    `source`: a folder in one of the layouts, or a CSV file. `include`, `exclude`: glob patterns, separated by commas, for a
    case's name, number, patient or file. A volume whose segmentation is missing is a case that cannot be read.

    Raises BadInput for a folder that is missing or in no known layout, a table that names a volume that is not there, an unknown
    split, or one patient in two splits, and patterns that leave nothing.
    """
    return find_layout(source, include, exclude)[1]


def find_layout(source, include: str | None = None, exclude: str | None = None) -> tuple[str, list[Case]]:
    """The name of the layout ("LiTS", "Medical Segmentation Decathlon" or "table") and the cases, as `find_cases`."""
    source = Path(source)
    listed = source if source.suffix.lower() == ".csv" else source / "volumes.csv"
    if not source.is_dir() and not (listed == source and source.is_file()):
        raise BadInput(
            f"{source} is not a folder; give the folder that holds volume-N.nii.gz and segmentation-N.nii.gz, "
            "or a CSV table with the columns image and mask"
        )
    rows = _read_table(listed)
    if rows and "image" in next(iter(rows.values())):
        layout, pairs = "table", _listed(listed, rows)
    elif listed == source:
        raise BadInput(f"{source} has no column image; a table needs the columns image and mask, one row per volume")
    else:
        layout, pairs = _found(source)
    by_name = {}
    for name, row in rows.items():
        key = _named_by(name, pairs)
        if key is None:
            raise BadInput(
                f"{listed} names volume {name}, but there is no {_file_name(layout, name)} in {source}; "
                "remove the row or add the file"
            )
        by_name[key] = row
    for key, row in by_name.items():
        if "twin_of" in row:
            row["twin_of"] = _original(row["twin_of"], key, by_name, pairs, listed)
            row.setdefault("patient", by_name.get(row["twin_of"], {}).get("patient", row["twin_of"]))
    cases = [_case(name, *pairs[name], by_name.get(name, {}), listed) for name in sorted(pairs, key=_natural)]
    splits: dict[str, Case] = {}
    for case in cases:
        first = splits.setdefault(case.patient, case)
        if first.split != case.split:
            raise BadInput(
                f"{listed} puts patient {case.patient} into two splits "
                f"({first.name}: {first.split or 'none'}, {case.name}: {case.split or 'none'}); "
                "give all volumes of a patient the same split"
            )
    return layout, _chosen(cases, source, include, exclude)


def _named_by(name: str, pairs) -> str | None:
    """The pair that a table means by a number or name."""
    if name in pairs:
        return name
    return next((k for k in pairs if name in (k, k.removeprefix("volume-"), k.rpartition("_")[2])), None)


def _original(name: str, twin: str, rows, pairs, table) -> str:
    """The case that `twin` is a twin of."""
    original = _named_by(re.sub(r"^volume-", "", NIFTI.sub("", name)), pairs)
    number = twin.removeprefix("volume-")
    if original is None:
        raise BadInput(
            f"{table}: volume {number} is the twin of {name}, which is not there; add its files or empty the cell twin_of"
        )
    if original == twin or "twin_of" in rows.get(original, {}):
        raise BadInput(
            f"{table}: volume {number} is the twin of {name}, which is a twin itself; name the volume with the tumors"
        )
    return original


def relative(path: Path, source: Path) -> str:
    """A file's path below `source` (or below the folder of a table), as it is written down in a store."""
    folder = source if source.is_dir() else source.parent
    return Path(os.path.relpath(path, folder)).as_posix()


def _natural(name: str) -> list:
    """Sorts volume-2 before volume-10."""
    return [(int(part), "") if part.isdigit() else (-1, part) for part in re.split(r"(\d+)", name)]


def _found(source: Path) -> tuple[str, dict[str, tuple[Path, Path]]]:
    """Pairs by name. Files whose name begins with a dot are not looked at: the Decathlon's archive is full of them."""
    files = [
        p for p in sorted(source.rglob("*")) if NIFTI.search(p.name) and not p.name.startswith(".") and p.is_file()
    ]
    volumes, masks = _named(files, "volume"), _named(files, "segmentation")
    if volumes:
        pairs = {}
        for number, path in volumes.items():
            expected = path.with_name(re.sub("volume", "segmentation", path.name, count=1, flags=re.IGNORECASE))
            pairs[f"volume-{number}"] = (path, masks.get(number, expected))
        return "LiTS", pairs
    pairs = {}
    for path in (p for p in files if p.parent.name == "imagesTr"):
        name = NIFTI.sub("", path.name)
        if name in pairs:
            raise BadInput(f"{pairs[name][0]} and {path} are both {name}; keep one of them")
        labels = path.parent.parent / "labelsTr"
        other = [m for m in (labels / path.name, labels / f"{name}.nii.gz", labels / f"{name}.nii") if m.is_file()]
        pairs[name] = (path, other[0] if other else labels / path.name)
    if not pairs:
        raise BadInput(
            f"{source} holds no volume-N.nii[.gz] (LiTS) and no imagesTr with volumes (Medical Segmentation Decathlon), "
            "nor do its sub-folders; give a folder in one of these layouts or a CSV table with the columns image and mask"
        )
    return "Medical Segmentation Decathlon", pairs


def _named(files: list[Path], kind: str) -> dict[str, Path]:
    found: dict[str, Path] = {}
    pattern = re.compile(rf"{kind}-([\w.-]+?)\.nii(\.gz)?", re.IGNORECASE)
    for path in files:
        match = pattern.fullmatch(path.name)
        if not match:
            continue
        number = match[1]
        if number in found:
            raise BadInput(f"{found[number]} and {path} are both {kind} {number}; keep one of them")
        found[number] = path
    return found


def _listed(table: Path, rows: dict[str, dict[str, str]]) -> dict[str, tuple[Path, Path]]:
    pairs = {}
    for name, row in rows.items():
        for column in ("image", "mask"):
            if column not in row:
                raise BadInput(f"{table}: the row of {name} has no {column}; give both files of every volume")
        pairs[name] = (table.parent / row["image"], table.parent / row["mask"])
    return pairs


def _file_name(layout: str, name: str) -> str:
    return f"volume-{name}.nii[.gz]" if layout == "LiTS" else f"imagesTr/{name}.nii[.gz]"


def _chosen(cases, source, include, exclude) -> list[Case]:
    def fits(case, patterns):
        names = (
            case.name,
            case.name.removeprefix("volume-"),
            case.name.rpartition("_")[2],  # the Decathlon's number
            case.patient,
            case.volume.name,
            relative(case.volume, source),
        )
        return any(fnmatch.fnmatch(name, pattern.strip()) for name in names for pattern in patterns.split(","))

    chosen = [c for c in cases if (not include or fits(c, include)) and not (exclude and fits(c, exclude))]
    if not chosen:
        raise BadInput(
            f"none of the {len(cases)} cases in {source} is left after --include {include or '*'} "
            f"--exclude {exclude or '(none)'}; the first is named {cases[0].name}"
        )
    return chosen


def _read_table(path: Path) -> dict[str, dict[str, str]]:
    """Rows of a table by volume, every cell a stripped string, empty cells left out.

    Without a column volume the image names the row.
    """
    import csv

    if not path.is_file():
        return {}
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            rows = list(csv.DictReader(file))
    except (UnicodeDecodeError, csv.Error) as error:
        raise BadInput(f"{path} is not a readable CSV table ({error}); save it as UTF-8 with commas") from None
    if rows and not {"volume", "image"} & set(rows[0]):
        raise BadInput(f"{path} has no column volume; its first line must name the columns volume, patient, split, …")
    table: dict[str, dict[str, str]] = {}
    for row in rows:
        cells = {k: v.strip() for k, v in row.items() if isinstance(k, str) and isinstance(v, str) and v.strip()}
        number = cells.pop("volume", "") or Path(cells.get("image", "")).name
        number = re.sub(r"^volume-", "", NIFTI.sub("", number))
        if not number:
            continue
        if number in table:
            raise BadInput(f"{path} names volume {number} twice; keep one row, or tell them apart in a column volume")
        table[number] = cells
    return table


def _case(name, volume, segmentation, row, table) -> Case:
    number = name.removeprefix("volume-")

    def value(column, allowed, cure):
        text = row.get(column)
        if text is not None and text.lower() not in allowed:
            raise BadInput(f"{table}: {column} of volume {number} is {text!r}; {cure}")
        return None if text is None else text.lower()

    def number_of(column):
        try:
            return None if column not in row else float(row[column])
        except ValueError:
            raise BadInput(
                f"{table}: {column} of volume {number} is {row[column]!r}; give a number or leave it empty"
            ) from None

    hu_min, hu_max = number_of("hu_min"), number_of("hu_max")
    if hu_min is not None and hu_max is not None and not hu_min < hu_max:
        raise BadInput(
            f"{table}: volume {number} has hu_min {hu_min:g} and hu_max {hu_max:g}; hu_min must be the smaller"
        )
    orientation = row.get("orientation")
    if orientation is not None:
        orientation = orientation.upper()
        if sorted({"L": "x", "R": "x", "A": "y", "P": "y", "S": "z", "I": "z"}.get(c, "?") for c in orientation) != [
            "x",
            "y",
            "z",
        ]:
            raise BadInput(
                f"{table}: orientation of volume {number} is {orientation!r}; "
                "give three axis codes such as LPS, or leave it empty to trust the header"
            )
    known = value("tumor_labels", ("known", "unknown"), "write known or unknown")
    spacing = value("spacing", ("known", "unknown"), "write known or unknown")
    return Case(
        name=name,
        volume=volume,
        segmentation=segmentation,
        patient=row.get("patient", name),
        split=value("split", SPLITS, "write train, judge or test"),
        modality=MODALITIES.get(row.get("modality", "CT").upper(), row.get("modality")),
        phase=row.get("phase"),
        kernel=row.get("kernel"),
        noise_hu=number_of("noise_hu"),
        hu_min=hu_min,
        hu_max=hu_max,
        tumor_known=known != "unknown",
        spacing_known=None if spacing is None else spacing == "known",
        orientation=orientation,
        twin_of=row.get("twin_of"),
    )
