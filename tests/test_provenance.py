"""Every artifact says where it comes from, and what does not belong together is told apart."""

import json
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from made_up import TINY, Blobs
from safetensors import safe_open
from safetensors.torch import save_file

from stylemed.data import SliceDataset, SliceStore, prepare
from stylemed.errors import BadInput
from stylemed.files import digest_of_weights
from stylemed.latent import Codes, encode_store
from stylemed.latent.direction import Direction, random_direction
from stylemed.networks import Discriminator
from stylemed.provenance import Provenance, belong_together, refuse_seen
from stylemed.training import load_encoder, load_generator, train_encoder, train_gan
from stylemed.training.run import load_network

WHOLE = Provenance(
    kind="generator",
    format=1,
    windows={"CT": [-100.0, 250.0], "MR": [0.0, 1000.0]},
    frame="image",
    resolution=64,
    store="a" * 16,
    digest="b" * 16,
    made_from={"encoder": "c" * 16},
    patients={"1": ["0123456789ab"], "2": []},
    split="train",
    seed=3,
    nimg=1000,
    version="0.1.0",
    prevalence=0.5,
)
CODES = replace(WHOLE, kind="codes", windows={"CT": [-100.0, 250.0]}, digest=None, made_from={"generator": "b" * 16})


def test_round_trip_through_json_and_what_was_written_before():
    assert Provenance.from_dict(json.loads(json.dumps(WHOLE.to_dict()))) == WHOLE
    assert Provenance.from_dict(None) == Provenance.from_dict({}) == Provenance() and Provenance().to_dict() == {}
    assert Provenance.from_dict({"seed": 0, "of a later version": 1}) == Provenance(seed=0)


def test_what_fits_and_what_is_unknown_is_not_refused():
    belong_together(WHOLE, CODES, names=("gan", "codes"))
    belong_together(Provenance(), CODES, names=("gan", "codes"))
    belong_together(WHOLE, Provenance(kind="codes"), names=("gan", "codes"))
    judge = replace(WHOLE, kind="judge", store="of its own", digest="e" * 16)
    belong_together(judge, CODES, names=("judge", "codes"))


def test_the_patients_may_be_others_where_that_is_said_and_nothing_else():
    elsewhere = replace(CODES, store="d" * 16)
    belong_together(WHOLE, elsewhere, names=("gan", "codes"), same_store=False)
    with pytest.raises(BadInput, match="frame is image .* body for the second; encode again.$"):
        body = replace(elsewhere, frame="body")
        belong_together(WHOLE, body, names=("gan", "codes"), same_store=False, cure="encode again")


@pytest.mark.parametrize(
    "changes, says",
    [
        ({"windows": {"CT": [-100.0, 200.0]}}, r"window of CT is \[-100.0, 250.0\] .* \[-100.0, 200.0\]"),
        ({"windows": {"PET": [0.0, 9.0]}}, "modality is CT, MR .* PET"),
        ({"frame": "body"}, "frame is image .* body"),
        ({"resolution": 128}, "resolution is 64 .* 128"),
        ({"store": "d" * 16}, f"store is {'a' * 16} .* {'d' * 16}"),
        ({"made_from": {"generator": "d" * 16}}, f"generator is {'b' * 16} .* {'d' * 16}"),
        ({"made_from": {"encoder": "d" * 16}}, f"encoder is {'c' * 16} .* {'d' * 16}"),
    ],
)
def test_what_does_not_fit_is_named(changes, says):
    with pytest.raises(BadInput, match=f"^gan and my.codes do not belong together: the {says}"):
        belong_together(WHOLE, replace(CODES, **changes), names=("gan", "my.codes"))


def test_patients_are_known_by_their_files_and_by_name_only_within_a_store():
    reader = Provenance(store="s", patients={"7": ["aa", "bb"], "8": ["cc"], "9": []})
    elsewhere = {"of another name": ["bb"], "8": ["dd"], "9": []}
    assert reader.shared_patients(Provenance(store="t", patients=elsewhere)) == ["of another name"]
    assert reader.shared_patients(Provenance(store="s", patients=elsewhere)) == ["8", "9", "of another name"]
    assert reader.shared_patients(Provenance(patients={"8": []}), by_name_alone=True) == ["8"]
    assert Provenance(patients={"9": []}).shared_patients(Provenance(patients={"9": []})) == []


def test_who_has_learned_from_the_measured_patients_is_named():
    of_rows = {"test": Provenance(patients={"7": ["aa"], "8": ["bb"]}), "few": Provenance(patients={"9": ["cc"]})}
    store = SimpleNamespace(path="store", select=lambda split: split, learned_from=of_rows.get)
    knows = SimpleNamespace(provenance=Provenance(patients={"of another name": ["bb"]}))
    others = {"generator": SimpleNamespace(provenance=Provenance(patients={"1": ["dd"]})), "labeller": object()}
    refuse_seen(others, store)
    refuse_seen(others | {"judge": knows}, store, "few")
    with pytest.raises(BadInput, match=r"judge has learned from test patients of store \(8\).*give one that has not"):
        refuse_seen(others | {"judge": knows}, store)
    with pytest.raises(BadInput, match=r"judge has learned from patients of store \(8\)"):
        refuse_seen({"judge": knows}, store, "test")


def test_digest_is_of_the_weights_and_of_nothing_else(tmp_path):
    weights = {"a": torch.arange(6.0), "b": torch.ones((), dtype=torch.bfloat16)}
    digest = digest_of_weights(weights)
    assert digest_of_weights(dict(reversed(weights.items()))) == digest and len(digest) == 16
    one = weights["a"].clone()
    one[3] = torch.nextafter(one[3], torch.tensor(9.0))
    others = [weights | {"a": value} for value in (one, weights["a"].reshape(2, 3), weights["a"].int())]
    others += [{"c": weights["a"], "b": weights["b"]}]
    assert len({digest, *map(digest_of_weights, others)}) == 5


def test_changed_weights_are_refused_and_old_files_load(tmp_path):
    train_gan(Blobs(), tmp_path / "run", "smoke", kimg=0.008, progress=False, **TINY)
    file = tmp_path / "run" / "generator.safetensors"
    with safe_open(file, "pt") as archive:
        header, tensors = archive.metadata(), {key: archive.get_tensor(key) for key in archive.keys()}  # noqa: SIM118
    metadata = json.loads(header["metadata"])
    assert metadata["provenance"]["digest"] == digest_of_weights(load_generator(file)[0].state_dict())
    save_file(tensors, file, header | {"metadata": json.dumps(metadata | {"note": "mine"})})
    assert load_generator(file)[1]["note"] == "mine"
    tensors["w_avg"][0] += 1e-3
    save_file(tensors, file, header)
    with pytest.raises(BadInput, match=r"generator.safetensors: its weights are not those that were written"):
        load_generator(file)
    del metadata["provenance"]
    save_file(tensors, file, header | {"metadata": json.dumps(metadata)})
    assert load_generator(file)[0].provenance == Provenance()


@pytest.mark.slow
def test_it_travels_from_the_store_to_the_direction(phantom, tmp_path):
    prepare(phantom, tmp_path / "store", 32, progress=False)
    store = SliceStore.open(tmp_path / "store")
    mine = store.provenance
    train = {name: mine.patients[name] for name in store.slices["patient"][store.select("train")]}
    assert 0 < len(train) < len(mine.patients) and all(len(hashes) == 2 for hashes in mine.patients.values())

    # A quarter of the tumor slices are of unknown state: they count as neither.
    tumor = store.select("train", tumor=True)
    store.slices.loc[tumor[::4], "tumor_known"] = 0
    known = store.select("train", tumor=True), store.select("train", tumor=False)
    gan = dict(fmap_base=64, fmap_max=8, latent_size=16, mapping_layers=2)
    train_gan(SliceDataset(store), tmp_path / "gan", "smoke", kimg=0.008, seed=5, progress=False, **gan)
    generator, metadata = load_generator(tmp_path / "gan")
    made = generator.provenance
    assert (made.kind, made.store, made.windows, made.frame) == ("generator", store.digest, mine.windows, mine.frame)
    assert (made.patients, made.split, made.resolution) == (train, "train", 32)
    assert (made.seed, made.nimg) == (5, metadata["nimg"]) and made.nimg >= 8
    assert made.prevalence == pytest.approx(len(known[0]) / (len(known[0]) + len(known[1])), abs=1e-4)
    belong_together(made, mine, names=("gan", "store"))

    train_encoder(tmp_path / "gan", tmp_path / "enc", "smoke", kimg=0.008, seed=6, progress=False, shortcut=0)
    encoder, _ = load_encoder(tmp_path / "enc")
    judging, _ = load_network(
        tmp_path / "gan", "discriminator", Discriminator
    )  # whose features the encoder was asked for
    assert encoder.provenance.made_from == {"generator": made.digest, "discriminator": judging.provenance.digest}
    assert (encoder.provenance.seed, encoder.provenance.patients) == (6, train)

    codes = encode_store(store, encoder, progress=False)
    codes = Codes.load(codes.save(tmp_path / "codes.safetensors"))
    weights = {**encoder.provenance.made_from, "encoder": encoder.provenance.digest}
    assert codes.provenance.made_from == weights and codes.provenance.patients == mine.patients
    like = Direction(codes.w[0], 0.0, 1.0, "tumor", split="train")
    found = Direction.load(random_direction(codes, like, seed=7).save(tmp_path / "d.safetensors")).provenance
    assert (found.kind, found.made_from, found.patients, found.seed) == ("direction", weights, train, 7)
    for other in (made, encoder.provenance, codes.provenance, mine):
        belong_together(found, other, names=("direction", other.kind))

    with torch.no_grad():  # trained on since it was loaded: whose it is, is no longer known
        next(encoder.parameters()).add_(1e-3)
    assert set(encode_store(store, encoder, split="test", progress=False).provenance.made_from) == {"encoder"}
