"""Fixtures for all tests. Outside material is found by STYLEMED_SAMPLE and STYLEMED_REFERENCE, and done without."""

import os
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT / "tests"), str(ROOT / "tests" / "data")]  # for made_up, notebooks and odd_files


@pytest.fixture(autouse=True)
def no_build_of_someone_else(monkeypatch):
    """A run of the book sets this for its kernels; a test must never write there."""
    monkeypatch.delenv("STYLEMED_BUILD", raising=False)


@pytest.fixture(scope="session")
def root() -> Path:
    return ROOT


@pytest.fixture(scope="session")
def python_env() -> dict[str, str]:
    """An environment in which a child process finds this package, wherever it runs."""
    env = {k: v for k, v in os.environ.items() if k != "STYLEMED_BUILD"}
    env["PYTHONPATH"] = os.pathsep.join(filter(None, [str(ROOT), env.get("PYTHONPATH", "")]))
    return env


@pytest.fixture
def one_thread():
    """Tiny networks gain nothing from threads, and lose much when tests run side by side."""
    import torch

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="session")
def phantom(tmp_path_factory) -> Path:
    """Six patients at 64 x 64 pixels with 20 slices: 1 to 4 train, 5 and 6 test."""
    from stylemed.phantom import make_phantom

    return make_phantom(
        tmp_path_factory.mktemp("data") / "phantom", 4, test_patients=2, size=64, slices=20, progress=False
    )
