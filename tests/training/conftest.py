import sys
from pathlib import Path

import pytest
import torch

sys.path.insert(0, str(Path(__file__).parent))  # for made_up


@pytest.fixture(autouse=True)
def _one_thread():
    """Tiny networks gain nothing from threads, and lose much when tests run side by side."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)
