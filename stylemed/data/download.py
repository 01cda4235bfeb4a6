"""Public data sets, fetched by MONAI's downloader: checksum, room on the disk and licence come first."""

from __future__ import annotations

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

    `name`: a key of ARCHIVES. `url`, `md5`: another server's address of the same archive, and its checksum.
    Raises BadInput for an unknown name, too little room, a server that does not answer or sends something else.
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

    url, md5 = url or DecathlonDataset.resource[archive.task], md5 or DecathlonDataset.md5[archive.task]
    out.mkdir(parents=True, exist_ok=True)
    file, draft = out / f"{archive.task}.tar", out / f".{archive.task}.part"
    size = _size(url) or archive.gigabytes * 1e9
    needed = (size if file.exists() else 2 * size) * 1.02  # the archive and what comes out of it
    free = shutil.disk_usage(out).free
    if free < needed:
        raise BadInput(
            f"{out} has {free / 1e9:.1f} GB free, {needed / 1e9:.1f} are needed; name a folder on a larger disk."
        )
    with _scratch_in(out):
        try:
            download_url(url, file, md5, "md5", progress)
        except Exception as error:  # MONAI's own kinds, and all that a network can do
            if file.exists() and "existing file" in str(error):
                raise BadInput(
                    f"{file} is not the archive (its checksum does not fit); delete it and try again."
                ) from None
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
    file.unlink()
    return folder


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
