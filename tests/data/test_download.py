"""The downloader against a server of our own: good data, a web page, a wrong checksum, no room."""

import functools
import hashlib
import http.server
import shutil
import tarfile
import threading
from collections import namedtuple

import pytest

from stylemed.data import download as d
from stylemed.data import find_cases
from stylemed.errors import BadInput


@pytest.fixture
def server(tmp_path, phantom):
    """Serves a made-up Task03_Liver.tar, the page moved.html, and other.tar that holds something else."""
    root = tmp_path / "www"
    for folder, kind in (("imagesTr", "volume"), ("labelsTr", "segmentation")):
        (root / "Task03_Liver" / folder).mkdir(parents=True)
        shutil.copy(phantom / f"{kind}-1.nii.gz", root / "Task03_Liver" / folder / "liver_1.nii.gz")
    for name, inside in (("Task03_Liver.tar", "Task03_Liver"), ("other.tar", "Task09_Spleen")):
        with tarfile.open(root / name, "w") as tar:
            tar.add(root / "Task03_Liver", inside)
    (root / "moved.html").write_text("<html>it has moved</html>")
    handler = functools.partial(http.server.SimpleHTTPRequestHandler, directory=root)
    handler.log_message = lambda *_: None
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield root, f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


def md5(path):
    return hashlib.md5(path.read_bytes()).hexdigest()


@pytest.mark.slow
def test_archive_becomes_a_folder_that_can_be_read(server, tmp_path, capsys):
    root, address = server
    arguments = dict(url=f"{address}/Task03_Liver.tar", md5=md5(root / "Task03_Liver.tar"), progress=False)
    folder = d.download("msd-liver", tmp_path / "data", **arguments)
    assert [case.name for case in find_cases(folder)] == ["liver_1"]
    assert "CC BY-SA 4.0" in capsys.readouterr().out
    assert [p.name for p in (tmp_path / "data").iterdir()] == ["Task03_Liver"], "neither the archive nor scraps"
    assert d.download("msd-liver", tmp_path / "data", **arguments) == folder
    assert "already" in capsys.readouterr().out


@pytest.mark.slow
def test_an_archive_that_lies_there_needs_no_network(server, tmp_path, monkeypatch, capsys):
    from monai.apps.datasets import DecathlonDataset

    root, _ = server
    archive, nowhere = (
        tmp_path / "data" / "Task03_Liver.tar",
        "http://127.0.0.1:9/nothing.tar",
    )  # a port that nobody hears
    (tmp_path / "data").mkdir()
    shutil.copy(root / "Task03_Liver.tar", archive)
    with pytest.raises(BadInput) as caught:
        d.download("msd-liver", tmp_path / "data", nowhere, "0" * 32, progress=False)
    for part in (str(archive), md5(archive), "0" * 32, "delete it"):
        assert part in str(caught.value)
    monkeypatch.setattr(DecathlonDataset, "md5", {})
    for known in (md5(archive).upper(), None):
        folder = d.download("msd-liver", tmp_path / "data", nowhere, known, progress=False)
        assert [case.name for case in find_cases(folder)] == ["liver_1"]
        assert ("no checksum is known" in capsys.readouterr().out) == (known is None)
        assert {p.name for p in (tmp_path / "data").iterdir()} == {"Task03_Liver", archive.name}, "it is the user's"
        shutil.rmtree(folder)


@pytest.mark.parametrize(
    "file, sum_of, says",
    [
        ("moved.html", "moved.html", "web page"),
        ("nowhere.tar", "other.tar", "cannot be reached"),
        ("Task03_Liver.tar", "other.tar", "did not send the archive"),
        ("other.tar", "other.tar", "not this data set"),
    ],
)
@pytest.mark.slow
def test_what_is_not_the_archive_leaves_no_data_set(server, tmp_path, file, sum_of, says):
    root, address = server
    with pytest.raises(BadInput, match=says):
        d.download("msd-liver", tmp_path / "data", f"{address}/{file}", md5(root / sum_of), progress=False)
    assert not (tmp_path / "data" / "Task03_Liver").exists() and not list((tmp_path / "data").glob(".*"))


@pytest.mark.slow
def test_room_is_looked_at_first(server, tmp_path, monkeypatch):
    root, address = server
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(d.shutil, "disk_usage", lambda _: usage(1, 1, 1000))
    with pytest.raises(BadInput, match="larger disk"):
        d.download("msd-liver", tmp_path / "data", f"{address}/Task03_Liver.tar", "0" * 32, progress=False)
    with pytest.raises(BadInput, match="no data set"):
        d.download("lits", tmp_path)
