"""What is stored in fewer bits is read as what was rounded, and rounding twice changes nothing."""

import pytest
import torch

from stylemed.errors import BadInput
from stylemed.files import digest_of_weights
from stylemed.networks import Discriminator, Encoder, Generator
from stylemed.networks.packing import STORAGES, pack, unpack
from stylemed.pretrained.freezing import freeze
from stylemed.training.run import export, load_encoder, load_generator

SMALL = dict(latent_size=32, mapping_layers=2, fmap_base=512, fmap_max=32)


@pytest.mark.parametrize("storage", STORAGES)
def test_rounding_is_bounded_and_happens_once(storage):
    torch.manual_seed(0)
    tensors = {
        "weight": torch.randn(64, 16, 3, 3) * torch.logspace(-3, 2, 64).reshape(-1, 1, 1, 1),
        "bias": torch.randn(64),
        "variance": torch.tensor([1e-12, 1.0]),  # below half precision's smallest
        "large": torch.tensor([1e6, 1.0]),
        "count": torch.tensor(7),
    }
    stored = pack(tensors, storage)
    again = unpack(stored)
    assert list(again) == list(tensors) and again["count"] == 7 and again["weight"].dtype == torch.float32
    row = tensors["weight"].flatten(1).abs().amax(dim=1).reshape(-1, 1, 1, 1)
    most = {"float32": 0.0, "float16": 5e-4, "int8": 0.5 / 127 + 1e-6}[storage]
    assert ((again["weight"] - tensors["weight"]).abs() / row).max() <= most
    assert again["variance"][0] > 0 and again["large"][0] == 1e6
    assert digest_of_weights(unpack(pack(again, storage))) == digest_of_weights(again)
    if storage == "int8":
        assert stored["weight"].dtype == torch.int8 and stored["weight"].abs().amax() == 127


@pytest.mark.slow
def test_frozen_networks_are_smaller_and_know_their_digest(tmp_path):
    torch.manual_seed(0)
    run = tmp_path / "run"
    run.mkdir()
    export(run / "generator.safetensors", Generator(32, **SMALL), {"nimg": 7})
    export(run / "discriminator.safetensors", Discriminator(32, fmap_base=512, fmap_max=32), {})
    (run / "config.yaml").write_text("kind: gan\n")
    table = freeze(run, tmp_path / "out").set_index("network")
    network, metadata = load_generator(tmp_path / "out")
    assert metadata["nimg"] == 7 and network.provenance.digest == digest_of_weights(network.state_dict())
    assert network.provenance.digest != load_generator(run)[0].provenance.digest
    size = (run / "generator.safetensors").stat().st_size / 1e6
    assert table.loc["generator", "MB"] < 0.6 * size and 0 < table.loc["generator", "change"] < 2e-2
    assert freeze(tmp_path / "out", tmp_path / "again").set_index("network").loc["generator", "change"] == 0
    assert (tmp_path / "again" / "config.yaml").is_file()

    encoder = Encoder(32, latent_size=32, num_layers=8, trunk="resnet18", shortcut=8)
    encoder.linear.weight.data.normal_()
    export(tmp_path / "encoder.safetensors", encoder, {})
    whole = (tmp_path / "encoder.safetensors").stat().st_size / 1e6
    row = freeze(tmp_path, tmp_path / "small").iloc[0]
    assert row["network"] == "encoder" and row["MB"] < 0.27 * whole
    images = torch.rand(4, 1, 32, 32)
    with torch.no_grad():
        wanted, got = encoder.eval()(images), load_encoder(tmp_path / "small")[0](images)
    assert (wanted - got).square().mean().sqrt() < 0.02 * wanted.std()
    with pytest.raises(BadInput, match="nothing holds no generator"):
        freeze(tmp_path / "nothing", tmp_path / "x")
