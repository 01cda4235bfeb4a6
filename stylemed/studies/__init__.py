"""Long measurements: each is a command that writes one JSON, which is committed and which chapters read.

A result says what it was made from (command, commit, machine, seed, digests of store and weights), so that anyone can repeat it,
and nobody can take it for that of other weights.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import date
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd

from stylemed.errors import BadInput
from stylemed.files import digest_of_weights, write_json
from stylemed.machine import commit, machine

if TYPE_CHECKING:
    from stylemed.latent.codes import Codes


@dataclass(frozen=True)
class Result:
    """What a study found. tables {name: table}; made_from {kind: digest}; settings: its own parameters; minutes: of the call
    that wrote it, so without what its folder `--work` had kept.
    """

    study: str
    tables: dict[str, pd.DataFrame]
    store: str
    made_from: dict[str, str]
    seed: int
    settings: dict[str, Any]
    minutes: float
    command: str = ""
    made: dict[str, Any] = field(default_factory=dict)  # commit, date, cpu, gpu, versions

    def save(self, path: str | Path) -> Path:
        """Write JSON, whole or not at all."""
        tables = {name: table.round(6).to_dict("split", index=False) for name, table in self.tables.items()}
        plain = {name: getattr(self, name) for name in ("study", "store", "made_from", "seed", "settings", "command")}
        here = {"commit": commit(Path(__file__).parent), "date": date.today().isoformat(), **machine()}
        content = plain | {"minutes": round(self.minutes, 2), "made": here, "tables": _without_nan(tables)}
        write_json(path, content, sort_keys=False)
        return Path(path)

    @classmethod
    def load(cls, path: str | Path) -> Result:
        """Read what `save` wrote; BadInput for anything else."""
        try:
            content = json.loads(Path(path).read_text())
            tables = {name: pd.DataFrame(**table) for name, table in content.pop("tables").items()}
            return cls(tables=tables, **content)
        except FileNotFoundError:
            raise BadInput(f"{path}: no such file; make it with stylemed study.") from None
        except (ValueError, KeyError, TypeError, AttributeError):
            raise BadInput(f"{path} is no result of a study; make it anew with stylemed study.") from None


def digests_of(parts: Mapping[str, Any]) -> dict[str, str]:
    """Digests of the weights of networks and readers, and of the vectors of directions, by name: what a study was made from."""
    import numpy as np
    import torch

    def weights(part) -> dict:
        if hasattr(part, "vector"):
            return {"vector": torch.from_numpy(np.ascontiguousarray(part.vector))}
        return getattr(part, "network", part).state_dict()

    return {name: digest_of_weights(weights(part)) for name, part in parts.items()}


def kept_codes(path: Path, key: dict[str, Any], make: Callable[[], Codes]) -> Codes:
    """Codes from a file of before with the same key, else made and kept there.

    What an inversion keeps of its beginning in `begun(path)` is deleted once they are saved.
    """
    from stylemed.latent.codes import Codes  # torch, which a reader of results does not need

    codes = Codes.load(path) if path.exists() else None
    if codes is None or codes.info.get("key") != key:
        codes = make()
        Codes(codes.table, codes.w_plus, codes.info | {"key": key}).save(path)
    begun(path).unlink(missing_ok=True)
    return codes


def begun(path: Path) -> Path:
    """Where the beginning of codes is kept until they are whole."""
    return path.with_suffix(".begun")


def kept_table(path: Path, key: dict[str, Any], make: Callable[[], pd.DataFrame]) -> pd.DataFrame:
    """A table from a file of before with the same key, else made and kept there."""
    key = json.loads(json.dumps(key))
    if path.exists():
        content = json.loads(path.read_text())
        if content["key"] == key:
            return pd.DataFrame(**content["table"])
    table = make()
    plain = json.loads(table.to_json(orient="split", index=False, double_precision=15))
    write_json(path, {"key": key, "table": plain}, sort_keys=False)
    return table


def _without_nan(value):
    """NaN, which JSON does not have, as null."""
    if isinstance(value, dict):
        return {key: _without_nan(v) for key, v in value.items()}
    if isinstance(value, list):
        return [_without_nan(v) for v in value]
    return None if isinstance(value, float) and value != value else value
