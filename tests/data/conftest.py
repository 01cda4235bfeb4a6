"""One small phantom for all tests of the data part."""

import pytest

from stylemed.data import make_phantom


@pytest.fixture(scope="session")
def phantom(tmp_path_factory):
    """Six patients at 64 x 64 pixels with 20 slices: 1 to 4 train, 5 and 6 test; the odd ones have tumors."""
    return make_phantom(
        tmp_path_factory.mktemp("data") / "phantom", 4, test_patients=2, size=64, slices=20, progress=False
    )
