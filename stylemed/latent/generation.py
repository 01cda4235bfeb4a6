"""Images of a class: styles to begin with, drawn at random or found by the encoder, and the walk from each of them."""

from __future__ import annotations

import numpy as np
import pandas as pd
import torch

from stylemed.errors import BadInput
from stylemed.latent.codes import Codes
from stylemed.latent.direction import Direction, traverse
from stylemed.provenance import belong_together


@torch.no_grad()
def random_styles(generator, count: int, psi: float = 0.7, seed: int = 0) -> torch.Tensor:
    """Styles [count, L, latent] of latents drawn from `seed`, truncated by psi (1: not at all, 0: the mean image)."""
    z = torch.randn(count, generator.latent_size, generator=torch.Generator().manual_seed(seed))
    return generator.truncate(generator.broadcast(generator.mapping(z)), psi)


def some_codes(
    codes: Codes,
    count: int,
    generator,
    *,
    split: str | None = None,
    seed: int = 0,
    names: tuple[str, str] = ("the generator", "the codes"),
) -> Codes:
    """Codes of `count` slices of different patients, then of any, that belong to the generator.

    BadInput, with `names` for generator and codes, where they belong to another one or are too few.
    """
    if codes.w_plus.shape[1:] != (generator.num_layers, generator.latent_size):
        raise BadInput(f"{names[1]} was made for another generator: its codes are {codes.w_plus.shape[1:]}.")
    belong_together(
        generator.provenance,
        codes.provenance,
        names=names,
        same_store=False,  # slices of new patients are what codes are for
        cure="encode the slices with an encoder that was trained for this generator",
    )
    chosen = codes.pick(count, split, seed=seed)
    if len(chosen) < count:
        rest = np.setdiff1d(codes.find(split), chosen)
        more = np.random.default_rng(seed).permutation(rest)[: count - len(chosen)]
        chosen = np.concatenate([chosen, more])
    if len(chosen) < count:
        raise BadInput(f"{names[1]} holds {len(chosen)} slices of the split {split or 'all'}; {count} are asked for.")
    return codes.select(chosen)


def images_of_class(
    generator,
    direction: Direction,
    steps,
    count: int,
    *,
    codes: Codes | None = None,
    split: str | None = None,
    psi: float = 0.7,
    seed: int = 0,
    names: tuple[str, str, str] = ("the generator", "the direction", "the codes"),
) -> tuple[torch.Tensor, pd.DataFrame]:
    """Walk along a direction from `count` random styles, or from as many codes where there are any.

    steps: S lengths in standard deviations of the codes that the direction was found on. -> images [count, S, C, R, R] about
    [-1, 1] on the CPU, and a table with a row for each of them, in the same order: file (a name for it), source (the seed, or case
    and z of the slice), step, score (`Direction.score`, after the walk). BadInput, with `names`, for parts that do not belong
    together.
    """
    if len(direction.vector) != generator.latent_size:
        raise BadInput(f"{names[1]} was found in another latent space than that of {names[0]}.")
    if len({f"{length:+g}" for length in steps}) < len(steps):
        raise BadInput(
            f"The steps {', '.join(f'{length:g}' for length in steps)} are not all different; give each once."
        )
    fits = dict(same_store=False, cure="find the direction on codes of this generator (stylemed encode, direction)")
    belong_together(generator.provenance, direction.provenance, names=names[:2], **fits)
    if codes is None:
        styles = random_styles(generator, count, psi, seed)
        sources = [f"random {seed}/{i}" for i in range(count)]
    else:
        few = some_codes(codes, count, generator, split=split, seed=seed, names=(names[0], names[2]))
        belong_together(few.provenance, direction.provenance, names=(names[2], names[1]), **fits)
        styles = few.w_plus
        sources = [f"{case} z {z}" for case, z in zip(few.table["case"], few.table["z"], strict=True)]
    rows = [
        {"file": f"{i:04d}_step{length:+g}.png", "source": source, "step": length, "score": float(score) + length}
        for i, (source, score) in enumerate(zip(sources, direction.score(styles), strict=True))
        for length in steps
    ]
    return traverse(generator, styles, direction, steps), pd.DataFrame(rows)
