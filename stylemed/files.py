"""Files that are whole or as they were, tensors that say what they are, and the lock on a folder.

Nothing is unpickled here, and torch is imported only where tensors are its own.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from stylemed.errors import BadInput, Hindered

FORMAT = 1  # of the header that `save_tensors` writes
# By the class of a network. Headers of before name the class; there it was JudgeNetwork.
KINDS = {
    "Generator": "generator",
    "Discriminator": "discriminator",
    "Encoder": "encoder",
    "JudgeNetwork": "reader",
    "ReaderNetwork": "reader",
}


# -- atomic writing


@contextmanager
def atomic(path: str | Path, sync: bool = False) -> Iterator[Path]:
    """A path beside `path` to write a file or a folder to; `path` itself is replaced at the end, at once, or stays as it was.

    sync: wait until the disk has the file. Hindered (a BadInput) when the disk does not take what is written inside.
    """
    path = Path(path)
    draft = path.with_name(f".{path.name}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        _remove(draft)
        yield draft
        if sync:
            with draft.open("rb+") as file:
                os.fsync(file.fileno())
        put(draft, path)
        if sync and hasattr(os, "O_DIRECTORY"):  # Windows has no way to sync a folder
            folder = os.open(path.parent, os.O_RDONLY)
            os.fsync(folder)
            os.close(folder)
    except OSError as error:
        raise Hindered(
            f"{path} could not be written ({error.strerror or error}); what was saved before still stands."
        ) from None
    finally:
        _remove(draft)


def put(draft: Path, path: Path) -> None:
    """Move a finished file or folder to `path`. A folder there is moved away first, and is deleted only when the new one stands.

    BadInput for a file that would take the place of a folder.
    """
    if path.is_dir() and not draft.is_dir():
        raise BadInput(f"{path} is a folder; name a file in it.")
    old = path.with_name(f".{path.name}.old")
    _remove(old)
    if path.is_dir():
        path.rename(old)
    os.replace(draft, path)
    _remove(old)


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


def write_atomic(path: str | Path, data: bytes, sync: bool = True) -> None:
    """Write a file with `atomic`."""
    with atomic(path, sync) as draft:
        draft.write_bytes(data)


def write_json(path: str | Path, content: Any, *, sort_keys: bool = True) -> None:
    """Write `content` as JSON, whole or not at all; folders above are made."""
    write_atomic(path, (json.dumps(content, indent=1, sort_keys=sort_keys) + "\n").encode(), sync=False)


# -- tensors that say what they are


def save_tensors(path: str | Path, kind: str, tensors: dict, header: dict[str, Any]) -> Path:
    """Write a .safetensors file of a kind (generator, codes, …), of NumPy arrays or torch tensors.

    header: plain values, each as JSON under its name: what the reader needs beside the tensors, provenance included.
    """
    import numpy as np

    if all(isinstance(value, np.ndarray) for value in tensors.values()):
        from safetensors.numpy import save

        tensors = {name: np.ascontiguousarray(value) for name, value in tensors.items()}
    else:
        from safetensors.torch import save

        tensors = {name: value.detach().cpu().contiguous() for name, value in tensors.items()}
    texts = {name: json.dumps(value) for name, value in header.items()}
    write_atomic(path, save(tensors, {"kind": f"stylemed {kind}", "format": str(FORMAT), **texts}))
    return Path(path)


def no_such_file(path: str | Path, called: str, or_else: str = "") -> BadInput:
    """To be raised. called: what the user calls what is missing; or_else: what more may be named."""
    return BadInput(
        f"{path}: no such file; make the {called} first, or name its .safetensors file or run folder{or_else}."
    )


def load_tensors(
    path: str | Path, kind: str, called: str = "", framework: str = "numpy"
) -> tuple[dict, dict[str, Any]]:
    """What `save_tensors` wrote: (tensors, header). framework: "numpy" or "pt".

    called: what the user calls it, if not by its kind. BadInput for a file that is missing, damaged, or of another kind or format.
    """
    from safetensors import SafetensorError, safe_open

    path, called = Path(path), called or kind
    if not path.is_file():
        raise no_such_file(path, called)
    try:
        with safe_open(path, framework) as archive:
            texts = archive.metadata() or {}
            found = texts.pop("kind", "").removeprefix("stylemed ") or KINDS.get(
                texts.pop("class", ""), "something else"
            )
            number = texts.pop("format", "none")
            if (found, number) != (kind, str(FORMAT)):
                raise BadInput(
                    f"{path}: holds no stylemed {called} of format {FORMAT} (found: {found}, format {number}); "
                    "name another file, or make it again."
                )
            tensors = {name: archive.get_tensor(name) for name in archive.keys()}  # noqa: SIM118
        return tensors, {name: json.loads(text) for name, text in texts.items()}
    except (SafetensorError, OSError, ValueError) as error:
        raise BadInput(damaged(path, called, error)) from None


def damaged(path: Path, called: str, error: Exception) -> str:
    return f"{path}: is damaged or not a {called} ({type(error).__name__}); make it again or download it again."


def load_state(network, path: str | Path, called: str) -> None:
    """Fill a network with a state dict from a file, such as torchvision's; BadInput, which calls it `called`, when that fails."""
    import torch

    try:
        network.load_state_dict(torch.load(path, map_location="cpu", weights_only=True))
    except FileNotFoundError:
        raise BadInput(f"{path}: no such file; give the path of a {called} state dict, or none.") from None
    except Exception as error:
        raise BadInput(
            f"{path}: is not a {called} state dict ({type(error).__name__}); save one with torch.save."
        ) from None


def digest_of_weights(tensors: dict) -> str:
    """16 hex digits of the sha256 over names, shapes, types and values of a state dict, whatever its order and device."""
    import torch

    digest = hashlib.sha256()
    for name, tensor in sorted(tensors.items()):
        tensor = tensor.detach().cpu().contiguous()
        digest.update(f"{name} {tuple(tensor.shape)} {tensor.dtype}\n".encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy())
    return digest.hexdigest()[:16]


# -- the lock


def lock_folder(folder: Path, other: str):
    """The lock on a folder, held until its `release()`; BadInput where `other` (such as "another training") holds it."""
    from filelock import FileLock, Timeout

    lock = FileLock(folder / ".lock")
    try:
        lock.acquire(timeout=0)
    except Timeout:
        raise BadInput(f"{folder} is in use by {other}; wait for it or name another folder.") from None
    return lock
