"""A training is over: what others build on is rounded once, and never changes again."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path

import pandas as pd
import torch

from stylemed.display.pixels import sample_history, strip
from stylemed.errors import BadInput
from stylemed.latent.mixing import synthesize
from stylemed.networks import Discriminator, Encoder, Generator
from stylemed.networks.reader import ReaderNetwork
from stylemed.training.run import Run, export, load_network

NETWORKS = {  # file of a run folder -> its class, and how it is stored
    "generator": (Generator, "float16"),
    "discriminator": (Discriminator, "int8"),
    "encoder": (Encoder, "int8"),
    "judge": (ReaderNetwork, "float16"),
    "labeller": (ReaderNetwork, "float16"),
}
KEPT = ("config.yaml", "distances.csv", "log.csv", "curve.csv")
COMPARED = 64  # images
MOMENTS = 40  # of a training, in its strip


def freeze(
    run: str | Path, out: str | Path, storage: str | None = None, before: Sequence[str | Path] = ()
) -> pd.DataFrame:
    """Write the networks of a run folder into the folder `out`, rounded, with its configuration, distances, curve and log.

    A generator's sample grids become `strip.png`: four latents at 40 moments of the training. before: the runs it began from,
    oldest first, for that strip.

    storage: "float32", "float16" or "int8" (see `networks.packing`); None: eight bits for an encoder and a discriminator, half
    precision for others. A row for each network: megabytes, and `change`, the root mean square change that the rounding made (a
    generator: of 64 images, in units of [-1, 1]; an encoder: of its answers to 64 images of noise, in standard deviations of w;
    others: NaN). BadInput for a folder without networks.
    """
    run, out = Path(run), Path(out)
    found = [noun for noun in NETWORKS if (run / f"{noun}.safetensors").is_file()]
    if not found:
        raise BadInput(f"{run} holds no {', '.join(NETWORKS)}; name the run folder of a training.")
    if out.resolve() == run.resolve():
        raise BadInput(f"{out} is the run itself, whose weights would be rounded; name another folder.")
    out.mkdir(parents=True, exist_ok=True)
    rows = []
    for noun in found:
        kind, usual = NETWORKS[noun]
        network, metadata = load_network(run, noun, kind)
        file = out / f"{noun}.safetensors"
        export(file, network, metadata, storage or usual)
        change = _change(network, load_network(file, noun, kind)[0])
        rows.append({"network": noun, "MB": file.stat().st_size / 1e6, "change": change})
    for name in KEPT:
        if (run / name).is_file():
            shutil.copyfile(run / name, out / name)
    if "generator" in found and Run(run).samples():
        history = sample_history(Run(run), MOMENTS, columns=4, before=[Run(one) for one in before])
        (out / "strip.png").write_bytes(strip(history))
    return pd.DataFrame(rows)


def _change(before, after) -> float:
    stream = torch.Generator().manual_seed(0)
    with torch.no_grad():
        if isinstance(before, Generator):
            z = torch.randn(COMPARED, before.latent_size, generator=stream)
            one, other = (synthesize(network, network.broadcast(network.mapping(z))) for network in (before, after))
        elif isinstance(before, Encoder):
            images = (
                torch.rand(COMPARED, before.channels, before.resolution, before.resolution, generator=stream) * 2 - 1
            )
            one, other = ((network(images) - before.w_avg) / before.w_std for network in (before, after))
        else:
            return float("nan")
    return (one - other).square().mean().sqrt().item()
