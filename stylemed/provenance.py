"""What every artifact says about where it comes from, and whether two of them belong together.

Plain values only: stores carry it without torch, weights in the header of their file.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields, replace

from stylemed.errors import BadInput


@dataclass(frozen=True)
class Provenance:
    """Where an artifact comes from. None (or nothing in a dictionary): not known, as with files of before.

    kind: store, generator, encoder, judge, labeller, codes or direction. format: of its file. windows {modality: [lo, hi]}.
    frame: the part of a slice that is its image. resolution: side in pixels. store: digest of the store. digest: of its own
    weights. made_from {kind: digest}: the weights it was made from. patients {name: [short hashes of their files]}: whom it holds
    or has learned from. split: of these patients. nimg: images shown in training. version: of this package. prevalence: share of
    slices with tumor among those that were shown and known.
    """

    kind: str | None = None
    format: int | None = None
    windows: dict[str, list[float]] = field(default_factory=dict)
    frame: str | None = None
    resolution: int | None = None
    store: str | None = None
    digest: str | None = None
    made_from: dict[str, str] = field(default_factory=dict)
    patients: dict[str, list[str]] = field(default_factory=dict)
    split: str | None = None
    seed: int | None = None
    nimg: int | None = None
    version: str | None = None
    prevalence: float | None = None

    @property
    def window(self) -> list[float] | None:
        """[lo, hi] of its images: of several modalities the first, None if unknown."""
        return next(iter(self.windows.values()), None)

    def to_dict(self) -> dict:
        """What is known, as JSON takes it."""
        return {name: value for name, value in asdict(self).items() if value not in (None, {})}

    def with_patients(self, patients: dict[str, list[str]]) -> Provenance:
        """One that knows these patients, too; who has the same name keeps the files of both."""
        both = {name: list(dict.fromkeys([*self.patients.get(name, ()), *hashes])) for name, hashes in patients.items()}
        return replace(self, patients={**self.patients, **both})

    @classmethod
    def from_dict(cls, plain: dict | None) -> Provenance:
        """Of `to_dict`; all unknown for None. What only a later version knows is left out."""
        known = {f.name for f in fields(cls)}
        return cls(**{name: value for name, value in (plain or {}).items() if name in known})

    def shared_patients(self, other: Provenance, *, by_name_alone: bool = False) -> list[str]:
        """Names of the patients of another artifact that are among its own: by a file in common, or by name within one store.

        by_name_alone: by name in any two stores. One body of the phantom scanned in another phase or size is another file; where
        names are given twice, as by another seed of the phantom, two patients pass for one.
        """
        files = {short for hashes in self.patients.values() for short in hashes}
        one_store = by_name_alone or (self.store is not None and self.store == other.store)
        by_name = set(self.patients) if one_store else set()
        return sorted(name for name, hashes in other.patients.items() if name in by_name or files & set(hashes))


def short_hash(sha256: str) -> str:
    """The first 12 hex digits, as `patients` lists them."""
    return sha256[:12]


def belong_together(
    a: Provenance,
    b: Provenance,
    *,
    names: tuple[str, str],
    same_store: bool = True,
    cure: str = "give two that come from the same",
) -> None:
    """Raises BadInput that names both, the first difference and the cure; what one of them does not know is no difference.

    Compared are windows (of the modalities that both have), frame, resolution, store, and weights: those that one of them is, and
    those that both were made from. same_store=False: the patients may be others. A judge has patients of its own, so its store
    may be another one anyway.
    """
    for what, mine, other in _compared(a, b, same_store):
        if None not in (mine, other) and mine != other:
            raise BadInput(
                f"{names[0]} and {names[1]} do not belong together: {what} is {mine} for the first and {other} for the second; "
                f"{cure}."
            )


def refuse_seen(artifacts: Mapping[str, object], store, rows=None) -> None:
    """BadInput where one of artifacts {name: artifact} has learned from patients of these rows (None: of `test`)."""
    measured = store.learned_from(store.select("test") if rows is None else rows)
    for name, artifact in artifacts.items():
        known = getattr(artifact, "provenance", Provenance()).shared_patients(measured)
        if known:
            whose = "test patients" if rows is None else "patients"
            raise BadInput(
                f"The {name} has learned from {whose} of {store.path} ({', '.join(known[:3])}), so nothing can be measured "
                "on them with it; give one that has not."
            )


def _compared(a: Provenance, b: Provenance, same_store: bool) -> list[tuple]:
    """(what, of a, of b) of everything that has to be equal where both are known."""
    shared = sorted(a.windows.keys() & b.windows.keys())
    pairs = [(f"the window of {name}", list(a.windows[name]), list(b.windows[name])) for name in shared]
    if not shared:
        pairs.append(("the modality", *(", ".join(p.windows) or None for p in (a, b))))
    pairs += [("the frame", a.frame, b.frame), ("the resolution", a.resolution, b.resolution)]
    if same_store and "judge" not in (a.kind, b.kind):
        pairs.append(("the store", a.store, b.store))
    mine, other = ({**p.made_from, **({p.kind: p.digest} if p.kind and p.digest else {})} for p in (a, b))
    return pairs + [(f"the {kind}", mine[kind], other[kind]) for kind in sorted(mine.keys() & other.keys())]
