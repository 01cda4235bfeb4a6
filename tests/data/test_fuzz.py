"""Damaged and odd files, 500 of them: never a crash, never a hang, never half a store."""

import shutil
import signal

import numpy as np
import pytest
from odd_files import BAD, EITHER, GOOD

from stylemed.data import SliceStore, prepare
from stylemed.phantom import make_phantom

KINDS = {**GOOD, **BAD, **EITHER}
PARTS, FILES = 5, 500
HANG_S = 30


@pytest.fixture(scope="module")
def two_cases(tmp_path_factory):
    folder = tmp_path_factory.mktemp("odd") / "p"
    return make_phantom(folder, 2, size=32, slices=8, progress=False)


def files(part):
    """(kind, seed) of one part: every kind five times in all, and the rest shared by those that chance decides."""
    every = [(kind, seed) for seed in range(PARTS) for kind in KINDS]
    more = [(kind, seed) for seed in range(PARTS, FILES) for kind in EITHER]
    return (every + more)[:FILES][part::PARTS]


def test_there_are_forty_kinds():
    assert len(KINDS) == 40 and sum(len(files(part)) for part in range(PARTS)) == FILES


@pytest.mark.slow
@pytest.mark.parametrize("part", range(PARTS))
def test_odd_files_end_in_a_store_and_a_sentence(two_cases, part, tmp_path):
    def hang(*_):
        raise AssertionError(f"{kind}, seed {seed}: no end after {HANG_S} s")

    before = signal.signal(signal.SIGALRM, hang)
    try:
        for kind, seed in files(part):
            signal.alarm(HANG_S)
            source = shutil.copytree(two_cases, tmp_path / "p")
            KINDS[kind](source, np.random.default_rng(seed))
            report = prepare(source, tmp_path / "s", 16, workers=1, progress=False)
            store = SliceStore.open(tmp_path / "s")
            cases = set(store.slices["case"])
            name = f"{kind}, seed {seed}"
            assert "volume-2" in cases and len(store.hu) == len(store.slices) == len(store.labels), name
            sentence = report.left_out.get("volume-1")
            assert ("volume-1" in cases) == (sentence is None) or kind == "no liver", name
            assert sentence is None or ("-1.nii" in sentence and "\n" not in sentence), (name, sentence)
            assert not (kind in GOOD and sentence and kind != "no liver"), (name, sentence)
            assert not (kind in BAD and sentence is None), name
            assert sorted(p.name for p in tmp_path.iterdir()) == ["p", "s"], name
            shutil.rmtree(source)
            shutil.rmtree(tmp_path / "s")
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)
