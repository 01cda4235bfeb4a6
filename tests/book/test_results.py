"""What chapters read of long studies is of the released weights."""

from pathlib import Path

import numpy as np
import pytest
from scipy import stats

from stylemed import pretrained
from stylemed.files import digest_of_weights
from stylemed.networks import Encoder, Generator
from stylemed.networks.reader import ReaderNetwork
from stylemed.studies import Result
from stylemed.training.run import load_network

pytestmark = pytest.mark.slow

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


def test_the_intro_says_what_the_study_of_edits_found():
    """A page that is no notebook has its numbers typed; these are the ones of the direction that changes most `train` slices."""
    result = Result.load(ROOT / "book" / "results" / "edits-phantom-64.json")
    tables, said = result.tables, (ROOT / "book" / "intro.md").read_text()
    best = tables["choice"].query("chosen and level == 'all'").groupby("direction")["changed"].mean().idxmax()
    effects = tables["effects"].query("what == 'changed' and direction == @best and level == 'all'").set_index("way")
    chance = tables["random"].query("direction == @best").set_index("way")
    truth = (
        tables["truth"].query("what == 'tumor_hu' and among == 'seen in the reconstruction'").set_index("way")["value"]
    )
    seen = tables["truth"].query("what == 'liver_hu' and among == 'seen in the reconstruction'")
    rest, counted = seen.set_index("way")["value"], tables["counted"].set_index("way")
    add, remove = (effects.loc[way, ["value", "low", "high"]].astype(float) * 100 for way in ("add", "remove"))
    for text in (
        "a tumor in {:.0f} % (95 % interval {:.0f} to {:.0f} %) of the slices".format(*add),
        "no tumor any more in {:.0f} % ({:.0f} to {:.0f} %) of those".format(*remove),
        f"the aim, fixed beforehand, was {100 * result.settings['aim']:.0f} %",
        f"tried on {chance['slices'].max()} slices, add one in {100 * chance['changed']['add']:.0f} % "
        f"and remove it in {100 * chance['changed']['remove']:.0f} %",
        f'walked to "no tumor" is {truth[f"walk, {best}"]:.0f} HU away',
        f"reconstruction is {truth['unedited reconstruction']:.0f} HU away",
        f"lose anyway is {truth['reconstruction of the twin']:.0f} HU",
        "({right:.0f} of {slices:.0f} slices)".format(**counted.loc["remove"]),
        f"from {rest['unedited reconstruction']:.0f} to {rest[f'walk, {best}']:.0f} HU",
        f"beat all but {['none', 'one', 'two', 'three'][round(100 * chance['p']['remove']) - 1]} of 99 of them",
        f"p = {chance['p']['remove']:.2f}, not corrected for the {({2: 'two', 4: 'four', 6: 'six'})[len(tables['random'])]} tests",
    ):
        assert text in said, text
    better = {way: chance["p"][way] < 0.05 for way in ("add", "remove")}
    assert better == {"add": False, "remove": True}  # "removing works better than chance, adding has not been shown"

    own_way = (
        Result.load(ROOT / "book" / "results" / "guided-phantom-64.json").tables["effects"].set_index(["way", "what"])
    )
    add, remove = (
        own_way.loc[(way, "changed"), ["value", "low", "high"]].astype(float) * 100 for way in ("add", "remove")
    )
    own_way_counted = (
        Result.load(ROOT / "book" / "results" / "guided-phantom-64.json").tables["counted"].set_index("way")["right"]
    )
    worst = {what: own_way.xs(what, level="what")["value"].max() for what in ("outside_hu", "rest_hu")}
    for text in (
        "was asked for in {:.0f} % ({:.0f} to {:.0f} %)".format(*add),
        "none any more in {:.0f} % ({:.0f} to {:.0f} %)".format(*remove),
        "changes by at most {outside_hu:.0f} HU in the mean and the rest of the liver by {rest_hu:.0f}".format(**worst),
        "{add:.0f} and {remove:.0f} of 120,".format(**own_way_counted),
    ):
        assert text in said, text


def test_the_intro_says_whether_generated_images_help():
    result, said = Result.load(ROOT / "book" / "results" / "augmentation-phantom-64.json"), (ROOT / "book" / "intro.md")
    arms = result.tables["arms"].query("what == 'AUC' and tumors != 'all'").set_index("arm")["value"]
    away = result.tables["differences"].query("what == 'AUC' and tumors != 'all'").set_index("arm")
    text = said.read_text()
    assert f"With {result.settings['patients']} labelled patients no help was shown" in text
    assert not ((away["p_holm"] < 0.05) & (away["low"] > 0)).any()
    assert f"real slices alone reach an AUC of {arms['real']:.2f}" in text
    own, more = (arms[arms.index.str.endswith(f", {whose}")] for whose in ("own", "unlabelled"))
    assert len(own) == len(more) == 7 and f"the best of seven ways {own.max():.2f}" in text
    assert f"of one that has seen slices of 60 patients {more.max():.2f}" in text
    assert f"painted discs {arms['painted']:.2f}, with twice as many patients {arms['more patients']:.2f}" in text


def test_the_intro_says_what_spots_and_discs_bring_to_groups_of_four():
    text = (ROOT / "book" / "intro.md").read_text()
    gains, whole = {"spot, own": [], "painted": []}, []
    for letter in ("", "b-", "c-", "d-"):
        tables = Result.load(ROOT / "book" / "results" / f"augmentation-four-{letter}phantom-64.json").tables
        asked = {
            name: tables[name].query("what == 'AUC' and tumors != 'all'")
            for name in ("arms", "differences", "contrasts")
        }
        away = asked["differences"].set_index("arm")
        for arm, its in gains.items():
            its.append(away["value"][arm])
        against = asked["contrasts"].query("arm == 'spot, own'").set_index("rival")["value"]
        assert against["guided, own"] > 0  # as chapter 9 has it
        whole.append(away["value"]["guided, own"])
        if not letter:
            arms = asked["arms"].set_index("arm")["value"]
            p = away["p_holm"]["spot, own"]
            assert f"from {arms['real']:.2f} to {arms['spot, own']:.2f} (p {p:.2f})" in text
    spots, discs = (np.round(its, 2) + 0.0 for its in gains.values())
    assert "in three other groups of four by {:.2f}, {:.2f} and {:.2f}".format(*spots[1:]) in text
    assert "raised it by {:.2f}, and by {:.2f}, {:.2f} and {:.2f};".format(*discs) in text
    assert "in none of the four groups" in text and max(whole) < 0
    low, high = stats.t.interval(0.95, 3, np.mean(gains["spot, own"]), stats.sem(gains["spot, own"]))
    assert low < 0 < high, "the intro says that four groups are too few to be sure"
    assert f"{np.mean(gains['spot, own']):.2f} in the mean ({low:.2f} to {high:.2f})".replace("-", "−") in text
