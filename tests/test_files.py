"""Files are whole or as they were, tensors come back as what they are, and what was written before can still be read."""

import json

import numpy as np
import pytest
import torch
from safetensors.numpy import save_file
from safetensors.torch import save_file as torch_save_file

from stylemed.errors import BadInput, Hindered
from stylemed.files import atomic, load_tensors, save_tensors, write_json
from stylemed.networks.reader import ReaderNetwork
from stylemed.training import load_encoder, load_generator
from stylemed.training.reader import Judge, Labeller


def tree(folder):
    return {str(p.relative_to(folder)): p.read_text() for p in sorted(folder.rglob("*")) if p.is_file()}


@pytest.mark.parametrize("stop", [KeyboardInterrupt, RuntimeError, OSError(28, "No space left on device")])
@pytest.mark.parametrize("kind", ["file", "folder"])
def test_what_stops_half_way_leaves_what_was_there_and_nothing_else(tmp_path, stop, kind):
    def write(text, then=None):
        with atomic(tmp_path / "sub" / "it", sync=kind == "file") as draft:
            if kind == "folder":
                draft.mkdir()
                (draft / "a").write_text(text)
            else:
                draft.write_text(text)
            if then is not None:
                raise then
            if kind == "folder":
                (draft / "b").write_text(text)

    write("first")
    before = tree(tmp_path)
    assert set(before.values()) == {"first"}
    hindered = isinstance(stop, OSError)
    with pytest.raises(Hindered if hindered else stop, match="it could not be written .No space" if hindered else None):
        write("second", stop)
    assert tree(tmp_path) == before
    # A process that was killed cleans nothing up.
    (tmp_path / "sub" / ".it.part").mkdir()
    (tmp_path / "sub" / ".it.part" / "rest").write_text("of a killed one")
    write("third")
    assert tree(tmp_path) == {name: "third" for name in before}
    assert [p.name for p in (tmp_path / "sub").iterdir()] == ["it"]


def test_a_file_takes_no_place_of_a_folder(tmp_path):
    (tmp_path / "results").mkdir()
    (tmp_path / "results" / "dear.json").write_text("{}")
    with pytest.raises(BadInput, match="results is a folder; name a file in it"):
        write_json(tmp_path / "results", {})
    assert [file.name for file in tmp_path.rglob("*")] == ["results", "dear.json"]


def test_json_is_read_back(tmp_path):
    write_json(tmp_path / "new" / "x.json", {"b": [1.5, None], "a": "ö"})
    assert json.loads((tmp_path / "new" / "x.json").read_text()) == {"a": "ö", "b": [1.5, None]}


def test_tensors_come_back_with_their_header_and_only_as_what_they_are(tmp_path):
    header = {
        "metadata": {"provenance": {"kind": "generator", "windows": {"CT": [-100.0, 250.0]}}, "note": "7"},
        "count": 3,
    }
    arrays = {"a": np.arange(6.0).reshape(2, 3).T, "b": np.ones((), np.int16)}
    tensors = {"a": torch.arange(6.0).reshape(2, 3).T, "b": torch.ones((), dtype=torch.bfloat16)}
    for given, framework in ((arrays, "numpy"), (tensors, "pt")):
        file = save_tensors(tmp_path / "x.safetensors", "generator", given, header)
        found, told = load_tensors(file, "generator", framework=framework)
        assert told == header and all(
            found[name].dtype == given[name].dtype and (found[name] == given[name]).all() for name in given
        )
    with pytest.raises(
        BadInput, match="x.safetensors: holds no stylemed codes of format 1 .found: generator, format 1"
    ):
        load_tensors(file, "codes")
    with pytest.raises(BadInput, match="nowhere: no such file; make the judge first"):
        load_tensors(tmp_path / "nowhere", "reader", "judge")
    whole = file.read_bytes()
    for damaged in (b"", b"nonsense", whole[: len(whole) // 2]):
        file.write_bytes(damaged)
        with pytest.raises(BadInput, match="x.safetensors: is damaged or not a generator"):
            load_tensors(file, "generator")
    save_file(arrays, file, {"kind": "stylemed generator", "format": "2"})
    with pytest.raises(BadInput, match="format 2"):
        load_tensors(file, "generator")
    save_file(arrays, file, {"kind": "stylemed generator", "format": "1", "count": "{"})
    with pytest.raises(BadInput, match="damaged"):
        load_tensors(file, "generator")


@pytest.mark.slow
def test_readers_of_before_can_be_read(tmp_path):
    """Their header names a class of before, and their provenance says which reader it is."""
    network = ReaderNetwork(8, 1)
    metadata = {"threshold": 0.5, "provenance": {"kind": "labeller", "patients": {"1": []}}}
    header = {
        "format": "1",
        "class": "JudgeNetwork",
        "config": json.dumps(network.config),
        "metadata": json.dumps(metadata),
    }
    torch_save_file(network.state_dict(), tmp_path / "labeller.safetensors", header)
    reader = Labeller.load(tmp_path)
    assert reader.threshold == 0.5 and set(reader.provenance.patients) == {"1"}
    again = Labeller.load(reader.save(tmp_path / "again.safetensors"))
    assert all(torch.equal(a, b) for a, b in zip(reader.network.parameters(), again.network.parameters(), strict=True))


@pytest.mark.slow
def test_a_released_network_is_no_other(root):
    """Frozen networks, and a judge of before the header named a kind."""
    folder = root / "stylemed" / "pretrained" / "phantom-64"
    Judge.load(folder / "judge.safetensors")
    generator, metadata = load_generator(folder)
    assert generator.resolution == 64 and generator.provenance.digest and metadata["nimg"] > 0
    with pytest.raises(BadInput, match="holds no stylemed encoder of format 1 .found: discriminator"):
        load_encoder(folder / "discriminator.safetensors")
