"""Does one style channel add or remove tumors? The labeller ranks them on samples, the judge measures the best on `test`.

The third way to a direction, where neither slices nor samples gave one: single channels (StyleSpace, Wu, Lischinski and Shechtman
2021). Those whose slope of the labeller's log odds is steepest are ranked by how far its answer moves for each HU elsewhere.
"""

from __future__ import annotations

import time
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from tqdm.auto import tqdm

from stylemed.data.store import LEAST_LIVER
from stylemed.errors import BadInput
from stylemed.evaluation.edits import EFFECTS, edit_effects
from stylemed.evaluation.judge import check_reader
from stylemed.evaluation.reconstruction import by_patient
from stylemed.latent.channels import Channel, moved, slopes, spread_of_channels
from stylemed.latent.generation import random_styles
from stylemed.latent.inversion import check_networks, codes_by
from stylemed.latent.mixing import synthesize
from stylemed.provenance import refuse_seen
from stylemed.statistics import evenly_spaced
from stylemed.studies import Result, digests_of, kept_codes, kept_table
from stylemed.studies.edits import AIM, WAYS, asked, some_findings

SIZE = 5.0  # standard deviations of the channel by which it is ranked
SIZES = (2.5, 5.0, 10.0, 20.0)  # among which its step is chosen
PSI = 0.7
RANKED = 200  # channels, by the slope of the labeller's log odds at the samples, per standard deviation


def run(
    store,
    generator,
    encoder,
    labeller,
    judge,
    *,
    drawn: int = 12,
    top: int = 10,
    count: int = 60,
    steps: int = 200,
    modality: str = "CT",
    work: str | Path,
    seed: int = 0,
    progress: bool = True,
) -> Result:
    """The study; ranking and codes are kept in the folder `work`, and the same call goes on from there.

    Args:
        drawn: samples (psi 0.7) for each way, on which channels are ranked, and five times as many for the choice.
        top: channels of each way that take part in the choice of channel and size.
        count: `test` slices with and without tumor, at most. steps: of descent from the encoder's answers.

    Tables: ranked (the `top` of each way: raised or lowered by SIZE, change of the labeller's log odds towards what is asked, mean
    change in HU of the body outside the liver and of the rest of the liver, and their ratio), choice (by the labeller on fresh
    samples), counted (`test` slices by way, and those that the judge reads right on their reconstruction), effects (EFFECTS by the
    judge on the latter; 95 % over patients).
    BadInput where parts do not belong together or have learned from `test` patients.
    """
    began = time.monotonic()
    check_networks(store, generator, encoder)
    for reader in (labeller, judge):
        check_reader(reader, store)
    parts = {"generator": generator, "encoder": encoder, "labeller": labeller, "judge": judge}
    refuse_seen(parts, store)
    made_from = digests_of(parts)
    settings = dict(drawn=drawn, top=top, count=count, steps=steps, modality=modality, size=SIZE, sizes=list(SIZES))
    key, work = {"store": store.digest, "made_from": made_from, "settings": settings, "seed": seed}, Path(work)
    per_unit = store.windows[modality].per_unit
    spread = spread_of_channels(generator, seed=seed)
    ranked, choice, counted, effects = [], [], [], []
    for number, (way, wanted) in enumerate(WAYS.items()):
        samples = _samples(generator, labeller, drawn, wanted, seed + 100 * number)
        rank = partial(_ranked, generator, labeller, samples, wanted, spread, per_unit, top, progress)
        best = kept_table(work / f"ranked {way}.json", key, rank)
        ranked.append(best.assign(way=way))
        fresh = _samples(generator, labeller, 5 * drawn, wanted, seed + 100 * number + 50)
        tried = _tried(generator, labeller, fresh, wanted, spread, per_unit, best)
        choice.append(tried.assign(way=way))
        one = tried[tried["chosen"]].iloc[0]
        rows = asked(store, "test", way, modality)
        rows = rows[evenly_spaced(len(rows), count)]
        encode = partial(codes_by, store, generator, encoder, rows, steps=steps, progress=progress)
        w_plus = kept_codes(work / f"test {way}.safetensors", key | {"rows": rows.tolist()}, encode).w_plus
        before = synthesize(generator, w_plus)
        found = judge.findings(before)
        right = np.flatnonzero(found.table["tumor"].to_numpy() != wanted)
        counted.append({"way": way, "slices": len(rows), "right": len(right)})
        if not len(right):
            continue
        after = moved(generator, w_plus[right], _channel(one), one["size"] * spread[_channel(one)])
        table = edit_effects(before[right], after, some_findings(found, right), judge.findings(after), wanted, per_unit)
        table = by_patient(table.assign(patient=store.slices["patient"].to_numpy()[rows[right]]), seed, EFFECTS)
        effects.append(table.assign(way=way, channel=str(_channel(one)), size=one["size"]))
    tables = {"ranked": pd.concat(ranked, ignore_index=True), "choice": pd.concat(choice, ignore_index=True)}
    tables["counted"] = pd.DataFrame(counted)
    tables["effects"] = pd.concat(effects, ignore_index=True) if effects else pd.DataFrame()
    minutes = (time.monotonic() - began) / 60
    return Result("channels", tables, str(store.digest), made_from, seed, settings, minutes)


def _samples(generator, labeller, count: int, wanted: int, seed: int) -> torch.Tensor:
    """Random styles in which the labeller sees a liver, and not yet what is wanted."""
    parts, have = [], 0
    for i in range(50):
        styles = random_styles(generator, 4 * count, PSI, seed + 1000 * i)
        found = labeller.findings(synthesize(generator, styles)).table
        liver = found["liver_px"].to_numpy() >= LEAST_LIVER * generator.resolution**2
        parts.append(styles[np.flatnonzero(liver & (found["tumor"].to_numpy() != wanted))])
        have += len(parts[-1])
        if have >= count:
            return torch.cat(parts)[:count]
    raise BadInput(
        "The labeller sees hardly any sample with a liver of one class; train it or the generator for longer."
    )


def _effect(generator, labeller, styles, before, found, wanted: int, channel: Channel, by: float, per_unit) -> dict:
    """Change of the labeller's log odds towards what is wanted, and the means of EFFECTS."""
    after = moved(generator, styles, channel, by)
    again = labeller.findings(after)
    told = again.table["tumor_score"].mean() - found.table["tumor_score"].mean()
    means = edit_effects(before, after, found, again, wanted, per_unit)[list(EFFECTS)].mean()
    return {"log odds": told if wanted else -told, **means}


def _ranked(generator, labeller, styles, wanted, spread, per_unit, top: int, progress: bool) -> pd.DataFrame:
    before = synthesize(generator, styles)
    found, rows = labeller.findings(before), []
    tell = lambda images: labeller.network(images.clamp(-1, 1))[1]["present"][:, 0]  # noqa: E731
    steep = {channel: slope * spread[channel] for channel, slope in slopes(generator, styles, tell).items()}
    steepest = sorted(steep, key=lambda channel: -abs(steep[channel]))[:RANKED]
    for channel in tqdm(steepest, desc="channels", unit="channel", disable=not progress):
        sign = 1.0 if (steep[channel] > 0) == bool(wanted) else -1.0
        by = sign * SIZE * spread[channel]
        row = _effect(generator, labeller, styles, before, found, wanted, channel, by, per_unit)
        elsewhere = (row["outside_hu"] + row["rest_hu"]) / 2
        named = {"layer": channel.layer, "index": channel.index, "shift": channel.shift, "sign": sign}
        rows.append(named | row | {"per hu": row["log odds"] / max(elsewhere, 0.1)})
    return pd.DataFrame(rows).nlargest(top, "per hu").reset_index(drop=True)


def _tried(generator, labeller, styles, wanted, spread, per_unit, best: pd.DataFrame) -> pd.DataFrame:
    """The best channels at SIZES on fresh samples; chosen: least change elsewhere of those with AIM changed, else most changed."""
    before = synthesize(generator, styles)
    found, rows = labeller.findings(before), []
    for row in best.to_dict("records"):
        for size in SIZES:
            by = row["sign"] * size * spread[_channel(row)]
            effect = _effect(generator, labeller, styles, before, found, wanted, _channel(row), by, per_unit)
            named = {name: row[name] for name in ("layer", "index", "shift", "sign")}
            rows.append(named | {"size": row["sign"] * size} | effect)
    table = pd.DataFrame(rows)
    enough = table[table["changed"] >= AIM]
    one = (enough["outside_hu"] + enough["rest_hu"]).idxmin() if len(enough) else table["changed"].idxmax()
    return table.assign(chosen=table.index == one)


def _channel(row) -> Channel:
    return Channel(int(row["layer"]), int(row["index"]), bool(row["shift"]))
