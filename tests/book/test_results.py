"""What chapters read of long studies is of the weights that are in the repository."""

from pathlib import Path

import pytest

from stylemed.files import digest_of_weights
from stylemed.networks import Encoder, Generator
from stylemed.networks.reader import ReaderNetwork
from stylemed.studies import Result
from stylemed.training.run import load_network

ROOT = Path(__file__).parents[2]
MODELS = ROOT / "benchmarks" / "milestones"
NETWORKS = {"generator": Generator, "encoder": Encoder, "judge": ReaderNetwork, "labeller": ReaderNetwork}


def digest(folder: Path, noun: str) -> str:
    return digest_of_weights(load_network(folder, noun, NETWORKS[noun])[0].state_dict())


@pytest.mark.parametrize("path", sorted((ROOT / "book" / "results").glob("*.json")), ids=lambda path: path.stem)
def test_a_result_is_of_the_weights_at_hand(path):
    result = Result.load(path)
    model = next(folder for folder in sorted(MODELS.iterdir()) if path.stem.endswith(folder.name))
    kept = {"generator": model, "encoder": MODELS / f"{model.name}-encoder"}
    kept |= {noun: MODELS / noun for noun in ("labeller", "judge")}
    for noun, folder in kept.items():
        if noun in result.made_from:
            assert result.made_from[noun] == digest(folder, noun), f"{path.name}: make it again with {result.command}"
    assert result.command.startswith("stylemed study ") and len(result.store) == 16
