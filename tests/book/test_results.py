"""What chapters read of long studies is of the released weights."""

from pathlib import Path

import pytest

from stylemed import pretrained
from stylemed.files import digest_of_weights
from stylemed.networks import Encoder, Generator
from stylemed.networks.reader import ReaderNetwork
from stylemed.studies import Result
from stylemed.training.run import load_network

ROOT = Path(__file__).parents[2]
NETWORKS = {"generator": Generator, "encoder": Encoder, "judge": ReaderNetwork, "labeller": ReaderNetwork}


@pytest.mark.parametrize("path", sorted((ROOT / "book" / "results").glob("*.json")), ids=lambda path: path.stem)
def test_a_result_is_of_the_released_weights(path):
    result = Result.load(path)
    bundle = pretrained.load(next(name for name in pretrained.available() if path.stem.endswith(name)))
    for noun, kind in NETWORKS.items():
        if noun in result.made_from:
            weights = load_network(bundle.file(f"{noun}.safetensors"), noun, kind)[0].state_dict()
            assert result.made_from[noun] == digest_of_weights(weights), f"make it again: {result.command}"
    assert result.command.startswith("stylemed study ") and len(result.store) == 16
