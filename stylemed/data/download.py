"""Public data sets, fetched by MONAI's downloader: checksum, room on the disk and licence come first."""

from __future__ import annotations

import hashlib
import shutil
import tempfile
import urllib.request
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from stylemed.errors import BadInput


@dataclass(frozen=True)
class Archive:
    """A public archive: MONAI's name for it, its size, and what has to be said before it is used."""

    task: str
    gigabytes: float
    licence: str


ARCHIVES = {
    "msd-liver": Archive(
        "Task03_Liver",
        27.0,
        "Medical Segmentation Decathlon, Task03_Liver (the LiTS challenge's CT): CC BY-SA 4.0. Cite Antonelli et al., "
        "Nature Communications 2022, and Bilic et al., Medical Image Analysis 2023.",
    )
}


def download(name: str, out, url: str | None = None, md5: str | None = None, progress: bool = True) -> Path:
    """Fetch and unpack a public data set below `out`; returns its folder. What is there already is not fetched again.

    An archive that lies in `out` under its own name (such as Task03_Liver.tar) is unpacked without a network, and kept.
    `name`: a key of ARCHIVES. `url`, `md5`: another server's address of the same archive, and its checksum.
    Raises BadInput for an unknown name, an archive with another checksum, too little room, a server that does not answer or
    sends something else.
    """
    if name not in ARCHIVES:
        raise BadInput(f"There is no data set {name}; choose one of {', '.join(ARCHIVES)}.")
    archive, out = ARCHIVES[name], Path(out)
    folder = out / archive.task
    if folder.is_dir():
        print(f"{folder} is there already")
        return folder
    print(archive.licence)
    from monai.apps.datasets import DecathlonDataset
    from monai.apps.utils import download_url, extractall

    url, md5 = url or DecathlonDataset.resource[archive.task], md5 or DecathlonDataset.md5.get(archive.task)
    out.mkdir(parents=True, exist_ok=True)
    file, draft = out / f"{archive.task}.tar", out / f".{archive.task}.part"
    own = file.exists()
    size = file.stat().st_size if own else _size(url) or archive.gigabytes * 1e9
    needed = (size if own else 2 * size) * 1.02  # the archive and what comes out of it
    free = shutil.disk_usage(out).free
    if free < needed:
        raise BadInput(
            f"{out} has {free / 1e9:.1f} GB free, {needed / 1e9:.1f} are needed; name a folder on a larger disk."
        )
    if own:
        _check(file, md5)
    else:
        try:
            with _scratch_in(out):
                download_url(url, file, md5, "md5", progress)
        except Exception as error:  # MONAI's own kinds, and all that a network can do
            raise BadInput(
                f"{url} did not send the archive ({' '.join(str(error).split())[:160]}); try again, or fetch it with a browser "
                f"and lay it down as {file}."
            ) from None
    shutil.rmtree(draft, ignore_errors=True)
    try:
        extractall(file, draft, file_type="tar", has_base=False)
        found = draft / archive.task
        if not (found / "imagesTr").is_dir():
            raise BadInput(f"{file} holds no {archive.task}/imagesTr; it is not this data set.")
        found.rename(folder)
    except BadInput:
        raise
    except Exception as error:
        raise BadInput(
            f"{file} cannot be unpacked ({' '.join(str(error).split())[:160]}); delete it and try again."
        ) from None
    finally:
        shutil.rmtree(draft, ignore_errors=True)
    if own:
        print(f"{file} is no longer needed; delete it to free {size / 1e9:.1f} GB")
    else:
        file.unlink()
    return folder


def _check(file: Path, md5: str | None) -> None:
    """BadInput where an archive that was there before has another checksum than `md5`; None: none is known, which is said."""
    if md5 is None:
        print(f"{file} is there already and is unpacked as it is: no checksum is known to compare it with")
        return
    print(f"{file} is there already and is unpacked if its checksum is right")
    with file.open("rb") as data:
        found = hashlib.file_digest(data, "md5").hexdigest()
    if found != md5.lower():
        raise BadInput(
            f"{file} has the MD5 checksum {found}, the archive has {md5}; delete it to have it fetched, or give its own with --md5."
        )


def _size(url: str) -> int:
    """Bytes the server says it will send; 0 where it does not say. BadInput where it sends a page instead of data."""
    try:
        with urllib.request.urlopen(urllib.request.Request(url, method="HEAD"), timeout=30) as answer:
            kind, size = answer.headers.get_content_type(), int(answer.headers.get("Content-Length") or 0)
    except OSError as error:  # URLError and HTTPError are among them
        raise BadInput(f"{url} cannot be reached ({error}); check the connection or give another address.") from None
    if kind == "text/html":
        raise BadInput(
            f"{url} sends a web page instead of the archive; it may have moved, give its new address with --url."
        )
    return size


@contextmanager
def _scratch_in(folder: Path):
    """MONAI downloads into the system's temporary folder first, which may be on another, smaller disk."""
    before, tempfile.tempdir = tempfile.tempdir, str(folder)
    try:
        yield
    finally:
        tempfile.tempdir = before
