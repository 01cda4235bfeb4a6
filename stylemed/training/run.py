"""The folder of one training: configuration, log, sample grids, checkpoints that survive a kill, exported weights."""

import csv
import hashlib
import io
import json
import warnings
from dataclasses import replace
from pathlib import Path

import torch
import yaml

from stylemed import __version__
from stylemed.errors import BadInput, Hindered
from stylemed.files import (
    FORMAT,
    KINDS,
    damaged,
    digest_of_weights,
    load_tensors,
    lock_folder,
    save_tensors,
    write_atomic,
)
from stylemed.networks import Encoder, Generator
from stylemed.networks.packing import pack, unpack
from stylemed.provenance import Provenance

_HEADER = b"stylemed checkpoint\n"


class Run:
    """A run folder: `config.yaml`, `log.csv`, `samples/`, `checkpoint-*.pt`, and the exported `*.safetensors`."""

    def __init__(self, path: str | Path):
        self.path = Path(path)

    @property
    def config(self) -> dict:
        """What was asked for when the run was begun."""
        file = self.path / "config.yaml"
        if not file.is_file():
            raise BadInput(f"{self.path} is not a run folder (it has no config.yaml).")
        try:
            return yaml.safe_load(file.read_text())
        except yaml.YAMLError:
            raise BadInput(f"{file} cannot be read as YAML; restore it or begin a new run folder.") from None

    def log(self):
        """log.csv as a pandas DataFrame, one row a tick."""
        import pandas as pd

        file = self.path / "log.csv"
        if not file.is_file():
            raise BadInput(f"{self.path} has no log.csv: nothing was trained there yet.")
        return pd.read_csv(file)

    def samples(self) -> list[Path]:
        """Paths of the sample grids, oldest first."""
        return sorted((self.path / "samples").glob("*.png"))

    # -- used by the training loops

    def begin(self, config: dict):
        """Create or reopen the folder for exactly this configuration; returns the lock on it, to be released at the end.

        BadInput when the folder holds another configuration, something else, or is in use by another process.
        """
        if self.path.exists() and not self.path.is_dir():
            raise BadInput(f"{self.path} is a file; name a folder for the run.")
        if (
            self.path.is_dir()
            and any(p.name != ".lock" for p in self.path.iterdir())
            and not (self.path / "config.yaml").is_file()
        ):
            raise BadInput(
                f"{self.path} holds other files and no config.yaml; name an empty or new folder for the run."
            )
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            lock = lock_folder(self.path, "another training")
        except OSError as error:
            raise Hindered(f"{self.path} cannot be written to ({error.strerror}); name a folder elsewhere.") from None
        try:
            self._settle(config)
        except BaseException:
            lock.release()
            raise
        return lock

    def _settle(self, config: dict) -> None:
        """Write the configuration, or compare it with the one that is there."""
        file = self.path / "config.yaml"
        config = json.loads(json.dumps(config))  # keys and tuples as YAML will give them back
        if file.is_file():
            before = self.config
            if not isinstance(before, dict):
                raise BadInput(f"{file} does not hold a configuration; begin a new run folder.")
            differing = _differences(json.loads(json.dumps(before)), config)
            if differing:
                raise BadInput(
                    f"{self.path} was trained with another configuration ({'; '.join(differing)}); "
                    "repeat the same command to resume, or name a new folder."
                )
        else:
            write_atomic(file, yaml.safe_dump(config, sort_keys=False).encode())
        (self.path / "samples").mkdir(exist_ok=True)

    def save_checkpoint(self, checkpoint: "Checkpoint", nimg: int, resolution: int, keep: int = 3) -> None:
        """Write `checkpoint-NIMG-RESOLUTION.pt`; keep the newest `keep` and the last of each resolution."""
        checkpoint.save(self.path / f"checkpoint-{nimg:010d}-{resolution}.pt")
        files = self.checkpoints()
        last = {file.stem.rpartition("-")[2]: file for file in files}  # of each resolution
        for old in files[:-keep]:
            if old not in last.values():
                old.unlink()

    def checkpoints(self) -> list[Path]:
        return sorted(self.path.glob("checkpoint-*.pt"))

    def load_checkpoint(self) -> dict | None:
        """The newest checkpoint that is whole; damaged ones are warned about by name. None when there is none at all."""
        files = self.checkpoints()
        for file in reversed(files):
            try:
                return read_checkpoint(file)
            except BadInput as error:
                warnings.warn(f"{error} The one before it is used.", stacklevel=2)
        if files:
            raise BadInput(f"{self.path}: no checkpoint can be read; remove the folder and begin again.")
        return None

    def write_log(self, rows: list[dict]) -> None:
        """Rewrite log.csv from `rows`; the table is small and a whole file is never half a line."""
        if not rows:
            return
        text = io.StringIO()
        writer = csv.DictWriter(text, fieldnames=list(rows[-1]))
        writer.writeheader()
        writer.writerows(rows)
        write_atomic(self.path / "log.csv", text.getvalue().encode())

    def save_grid(self, images: torch.Tensor, nimg: int, columns: int = 8) -> Path:
        """Write images [N, C, R, R] in [-1, 1] as one PNG, `samples/KIMG.png`; grey values are not stretched."""
        file = self.path / "samples" / f"{nimg:010d}.png"
        write_atomic(file, grid_png(images, columns), sync=False)
        return file


def grid_png(images: torch.Tensor, columns: int) -> bytes:
    """Images [N, C, R, R] in [-1, 1] in rows of `columns` as a PNG: three channels as colours, else the first as grey values."""
    from PIL import Image

    n, c, h, w = images.shape
    rows = (n + columns - 1) // columns
    grid = torch.full((rows * columns, c, h, w), -1.0)
    grid[:n] = images.detach().float().cpu().clamp(-1, 1)
    grid = grid.reshape(rows, columns, c, h, w).permute(0, 3, 1, 4, 2).reshape(rows * h, columns * w, c)
    pixels = ((grid + 1) * 127.5).round().to(torch.uint8).numpy()
    buffer = io.BytesIO()
    Image.fromarray(pixels if c == 3 else pixels[..., 0]).save(buffer, format="png")
    return buffer.getvalue()


def _differences(before: dict, now: dict, prefix: str = "") -> list[str]:
    found = []
    for key in sorted(set(before) | set(now)):
        old, new = before.get(key), now.get(key)
        if isinstance(old, dict) and isinstance(new, dict):
            found += _differences(old, new, f"{prefix}{key}.")
        elif old != new:
            found.append(f"{prefix}{key}: {old} there, {new} now")
    return found


class Checkpoint:
    """What is saved of a training and read again: of each named part the attributes that its `saved` lists (as edm2 does).

    An attribute is saved by its state_dict where it has one (networks, optimizers), else as the plain value it is.
    """

    def __init__(self, **parts):
        self.parts = parts

    def state(self) -> dict:
        """{part: {attribute: state or value}}."""
        return {name: {key: _state(getattr(part, key)) for key in part.saved} for name, part in self.parts.items()}

    def save(self, path: Path) -> None:
        """Write all of it to one file, with a checksum: whole or not at all."""
        buffer = io.BytesIO()
        torch.save(self.state(), buffer)
        digest = hashlib.sha256(buffer.getvalue()).hexdigest().encode()
        write_atomic(path, _HEADER + digest + b"\n" + buffer.getvalue())

    def load(self, state: dict) -> None:
        """Put back what `read_checkpoint` read; BadInput where it is the state of other parts."""
        known = {name: set(part.saved) for name, part in self.parts.items()}
        if set(state) != set(known) or any(set(state[name]) != known[name] for name in known):
            raise BadInput(
                "The checkpoint is of another version of this program; begin a new run, from its weights if you like."
            )
        for name, part in self.parts.items():
            for key, value in state[name].items():
                if hasattr(getattr(part, key), "load_state_dict"):
                    getattr(part, key).load_state_dict(value)
                else:
                    setattr(part, key, value)


def _state(value):
    return value.state_dict() if hasattr(value, "state_dict") else value


def read_checkpoint(path: Path) -> dict:
    """The state in a checkpoint file; BadInput unless it is whole."""
    try:
        data = path.read_bytes()
    except OSError as error:
        raise BadInput(f"{path}: cannot be read ({error.strerror}).") from None
    digest, _, payload = data.removeprefix(_HEADER).partition(b"\n")
    if not data.startswith(_HEADER) or hashlib.sha256(payload).hexdigest().encode() != digest:
        raise BadInput(f"{path}: is not a whole checkpoint (its checksum does not fit).")
    return torch.load(io.BytesIO(payload), map_location="cpu", weights_only=True)


# -- exported weights


def export(path: Path, network: torch.nn.Module, metadata: dict, storage: str = "float32") -> None:
    """Write a network as safetensors; its constructor arguments and `metadata` (plain values) go into the header.

    To the provenance in `metadata` is added what only the weights know: their digest, seed, nimg, resolution and version.
    storage: "float16" or "int8" (see `packing`) round the weights: what is read is another network than `network`, with a digest
    of its own.
    """
    packed = pack(network.state_dict(), storage)
    tensors = unpack(packed)
    made = Provenance.from_dict(metadata.get("provenance"))
    made = replace(
        made,
        kind=made.kind or _kind(type(network)),
        format=FORMAT,
        resolution=getattr(network, "resolution", made.resolution),
        digest=digest_of_weights(tensors),
        seed=metadata.get("seed"),
        nimg=metadata.get("nimg"),
        version=__version__,
    )
    metadata = {**metadata, "provenance": made.to_dict()}
    save_tensors(path, _kind(type(network)), packed, {"config": network.config, "metadata": metadata})


def settings_of(metadata: dict) -> dict:
    """Metadata as a run's configuration keeps them: without the provenance, which is of the moment (version, digests)."""
    return {name: value for name, value in metadata.items() if name != "provenance"}


def load_generator(path: str | Path) -> tuple[Generator, dict]:
    """The generator of a run folder or .safetensors file, in eval mode, and its metadata (window, resolution, seed, …)."""
    return load_network(path, "generator", Generator)


def load_encoder(path: str | Path) -> tuple[Encoder, dict]:
    """The encoder of a run folder or .safetensors file, in eval mode, and its metadata."""
    return load_network(path, "encoder", Encoder)


def load_network(path: str | Path, noun: str, kind: type) -> tuple:
    """A network of class `kind` from a run folder (NOUN.safetensors in it) or a file that `export` wrote, and its metadata.

    In eval mode, without gradients; `network.provenance` says where it comes from. BadInput for a file that is missing, damaged,
    or holds something else.
    """
    path = Path(path)
    file = path / f"{noun}.safetensors" if path.is_dir() else path
    tensors, header = load_tensors(file, _kind(kind), noun, framework="pt")
    tensors = unpack(tensors)
    try:
        metadata = header["metadata"]
        network = kind(**header["config"])
        network.load_state_dict(tensors)
        network.provenance = Provenance.from_dict(metadata.get("provenance"))
        if isinstance(network, Generator):
            network.lod = float(metadata.get("lod", 0.0))  # a training stopped early has not grown to its full size
    except (AttributeError, KeyError, TypeError, ValueError, RuntimeError) as error:
        raise BadInput(damaged(file, noun, error)) from None
    if network.provenance.digest not in (None, digest_of_weights(tensors)):
        raise BadInput(f"{file}: its weights are not those that were written; export or download it again.")
    return network.eval().requires_grad_(False), metadata


def _kind(network: type) -> str:
    """What kind of file a network's weights are."""
    return KINDS.get(network.__name__, network.__name__.lower())
