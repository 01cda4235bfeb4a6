"""What is compared how tightly, what a baseline keeps, and that a changed number is found and named."""

import json
import subprocess
from pathlib import Path

import pytest

from stylemed.book.regression import (
    accept,
    check,
    compare,
    compare_build,
    entries,
    is_noise,
    read_baseline,
    read_metrics,
    tolerances,
    what_differs,
)
from stylemed.errors import BadInput
from stylemed.machine import machine

ROOT = Path(__file__).resolve().parents[2]
COMMITTED = [file.stem for file in sorted((ROOT / "book" / "baselines").glob("*.json"))]


def git(root, *arguments):
    identity = ["-c", "user.name=t", "-c", "user.email=t@example.org", "-c", "commit.gpgsign=false"]
    subprocess.run(["git", *identity, *arguments], cwd=root, check=True, capture_output=True)


def test_check_repeats_and_names_the_place(tiny_book, capsys):
    chapter, file = tiny_book / "book" / "01_one.ipynb", tiny_book / "book" / "baselines" / "smoke.json"
    chapter.write_text(chapter.read_text().replace("fixed=7)", "fixed=7, noise=0.1 - seed)"))
    with pytest.raises(BadInput, match="no baseline for the profile 'smoke'"):
        check("smoke", tiny_book)
    (tiny_book / ".gitignore").write_text("_build/\n")
    git(tiny_book, "init", "-q")
    with pytest.raises(BadInput, match="git"):
        accept("smoke", root=tiny_book)
    file.parent.mkdir()
    file.write_text('{"chapters": {"01_one": {"fixed": {"value": 7, "tolerance": 1e-6}}}}')
    git(tiny_book, "add", "-A")
    git(tiny_book, "commit", "-q", "-m", "first")
    with pytest.raises(BadInput, match="not a baseline of this version.*make accept"):
        check("smoke", tiny_book)
    assert accept("smoke", root=tiny_book) == file
    content = json.loads(file.read_text())
    assert content["chapters"]["01_one"]["answer"] == pytest.approx({"value": 3.0, "tight": 0.003, "loose": 0.75})
    assert content["chapters"]["01_one"]["fixed"] == {"value": 7, "tight": 0.0, "loose": 0.0}
    assert content["noisy"] == {"01_one": {"noise": pytest.approx({"value": 0.1, "tight": 1e-4, "loose": 4.0})}}
    assert content["made"]["cpu"] and content["made"]["threads"] == 1 and content["made"]["versions"]["python"]
    printed = capsys.readouterr().out
    assert "(new) -> 3 ± 0.75" in printed and "1 of 3 numbers are noise" in printed and "01_one: noise\n" in printed
    with pytest.raises(BadInput, match="not clean"):
        accept("smoke", root=tiny_book)

    assert check("smoke", tiny_book) == []
    assert "== 3 numbers of 1 chapters compared tightly" in capsys.readouterr().out
    build = tiny_book / "_build" / "smoke-check"
    assert read_metrics(build) == read_metrics(tiny_book / "_build" / "smoke-accept" / "seed-0")

    chapter.write_text(chapter.read_text().replace("fixed=7", "fixed=8").replace("0.1 - seed", "0.2 - seed"))
    found = check("smoke", tiny_book)
    assert [(d.chapter, d.metric, d.old, d.new) for d in found] == [
        ("01_one", "fixed", 7, 8),
        ("01_one", "noise", 0.1, 0.2),
    ]
    assert "01_one: fixed: 7 -> 8 (tolerance 0; left its tolerance)" in capsys.readouterr().out

    content["made"] |= {"cpu": "Another", "threads": 2}
    content["chapters"]["01_one"]["answer"]["value"] = 3.3
    found, how = compare_build(build, content)
    assert [d.metric for d in found] == ["fixed"]
    assert how.startswith("loosely") and "1 noisy" in how
    assert f"cpu {machine()['cpu']} (baseline: Another); threads 1 (baseline: 2)" in how


BASELINE = {
    "chapters": {
        "01": {"a": {"value": 1.0, "tight": 0.001, "loose": 0.1}, "b": {"value": None, "tight": 0.0, "loose": 0.0}}
    },
    "noisy": {"01": {"c": {"value": 1.0, "tight": 0.001, "loose": 2.0}}},
}


def test_tight_loose_and_noisy_numbers():
    def differing(tight, **numbers):
        return [d.metric for d in compare({"01": {"a": 1.0, "b": None, "c": 1.0} | numbers}, BASELINE, tight=tight)]

    assert differing(True) == differing(False) == []
    assert differing(True, a=1.05) == ["a"] and differing(False, a=1.05) == [] and differing(False, a=1.15) == ["a"]
    assert differing(True, c=1.05) == ["c"] and differing(False, c=9.0) == []
    assert differing(True, c=None) == ["c"] and differing(False, c=None) == []
    assert differing(True, a=None, b=1.0) == differing(False, a=None, b=1.0) == ["a", "b"]


def test_gone_and_new_numbers_are_differences():
    for tight in (True, False):
        why = {(d.metric, d.why) for d in compare({"01": {"b": None, "d": 1.0}}, BASELINE, tight=tight)}
        assert why == {("a", "is gone"), ("c", "is gone"), ("d", "is new")}
        assert len(compare({}, BASELINE, tight=tight)) == 3


def test_tolerances_come_from_value_and_spread():
    assert tolerances([1.0, 1.5, 0.9]) == pytest.approx((0.001, 1.2))
    assert tolerances([100.0, 100.0, 100.0]) == pytest.approx((0.1, 0.1))
    assert tolerances([100.0, 102.0, 101.0]) == pytest.approx((0.1, 25.0))  # close by chance
    assert tolerances([421, 390, 420]) == (0.0, 105.25) and tolerances([6, 6, 6]) == (0.0, 0.0)
    assert tolerances([0.0, 0.0, 0.0]) == pytest.approx((1e-6, 1e-6))
    assert tolerances([None, None, None]) == (0.0, 0.0)
    assert tolerances([2.0, None, 2.0]) == (pytest.approx(0.002), None)


@pytest.mark.parametrize(
    ("values", "noise"),
    [
        ([10.0, 12.0, 9.0], False),
        ([10.0, 15.0, 9.0], True),  # loose is 12: nothing at all would pass
        ([-10.0, -15.0, -9.0], True),
        ([0.0, 0.5, 0.0], True),
        ([0.0, 0.0, 0.0], False),
        ([0.0, 1e-9, 0.0], False),  # rounding
        ([0, 0, 0], False),
        ([1, 2, 1], True),
        ([None, None, None], False),
        ([1.0, None, 1.0], True),
        ([None, 1.0, 1.0], True),
    ],
)
def test_a_number_that_could_vanish_unnoticed_is_noise(values, noise):
    assert is_noise(values) is noise
    sure, noisy = entries([{"01": {"a": value}} for value in values])
    assert ("01" in noisy, "01" in sure) == (noise, not noise)


def test_what_differs_is_named():
    made = {"cpu": "A (AVX2)", "gpu": None, "threads": 1, "versions": {"torch": "2.11.0", "numpy": "2.4.6"}}
    assert what_differs(made, [made | {"minutes": 3}]) == []
    versions = {"torch": "2.12.0", "numpy": "2.4.6", "scipy": "1.17.1"}
    other = made | {"cpu": "A (AVX-512)", "gpu": "B", "versions": versions}
    assert what_differs(made, [made, other, other]) == [
        "cpu A (AVX-512) (baseline: A (AVX2))",
        "gpu B (baseline: None)",
        "torch 2.12.0 (baseline: 2.11.0)",
        "scipy 1.17.1 (baseline: none)",
    ]


def test_a_processor_is_named_with_its_instructions(monkeypatch):
    info = Path("/proc/cpuinfo")
    name = machine()["cpu"]
    if info.is_file() and " avx2 " in info.read_text():
        assert "AVX" in name and "model" in name
    monkeypatch.setenv("ATEN_CPU_CAPABILITY", "default")
    assert machine()["cpu"] != name and "default" in machine()["cpu"]


@pytest.mark.parametrize("profile", COMMITTED)
def test_every_committed_number_can_fail(profile):
    baseline = read_baseline(profile, ROOT)
    for chapter, metrics in baseline["chapters"].items():
        for metric, entry in metrics.items():
            vanished = {chapter: {metric: 0.0 if entry["value"] else 1.0}}
            (found,) = [
                d for d in compare(vanished, baseline, tight=False) if d.metric == metric and d.chapter == chapter
            ]
            assert found.why == "left its tolerance"


def test_two_seeds_are_too_few(tiny_book):
    with pytest.raises(BadInput, match="at least 3"):
        accept("smoke", seeds=2, root=tiny_book)
