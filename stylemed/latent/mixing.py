"""Style mixing: the layers of a level from one source, all others from another (figure 1 of the paper)."""

from __future__ import annotations

import torch

from stylemed.errors import BadInput
from stylemed.networks import levels

LEVELS = ("coarse", "middle", "fine")  # 4²-8², 16²-32², 64²-R²: the paper's words


def layers_of(level, num_layers: int) -> list[int]:
    """Layer numbers of "coarse", "middle", "fine", of "all", of one resolution ("8" or "8²"), or of a list of layers; may be empty.

    A model of 32² or less has no layers at 64², so its fine level is empty: mixing it then changes nothing.
    """
    if isinstance(level, str):
        if level == "all":
            return list(range(num_layers))
        own = {str(2 ** (layer // 2 + 2)): [layer, layer + 1] for layer in range(0, num_layers, 2)}
        if level.removesuffix("²") in own:
            return own[level.removesuffix("²")]
        if level not in LEVELS:
            raise BadInput(
                f"unknown level {level!r}: use coarse, middle, fine, all, a resolution ({', '.join(own)}) "
                "or a list of layer numbers"
            )
        return list(range(num_layers))[levels(2 ** ((num_layers + 2) // 2))[level]]
    layers = [int(layer) for layer in level]
    outside = [layer for layer in layers if not 0 <= layer < num_layers]
    if outside:
        raise BadInput(f"layers {outside} do not exist: this model has layers 0 to {num_layers - 1}")
    return layers


def describe_level(level: str, num_layers: int) -> str:
    """The level and the grids its layers work on, such as "coarse 4²–8²", or "8²" alone; says when it has no layers."""
    layers = layers_of(level, num_layers)
    if level.removesuffix("²").isdecimal():
        return f"{level.removesuffix('²')}²"
    if not layers:
        return f"{level}: no layers at {2 ** ((num_layers + 2) // 2)}²"
    first, last = (2 ** (layer // 2 + 2) for layer in (layers[0], layers[-1]))
    return f"{level} {first}²" if first == last else f"{level} {first}²–{last}²"


def mix(a_w_plus, b_w_plus, level) -> torch.Tensor:
    """Styles of source A, with the layers of a level taken from source B.

    a_w_plus, b_w_plus: [..., L, latent] of the same or of broadcastable shape -> [..., L, latent].
    Both sources keep their values exactly. Source: Karras et al. 2019, section 3.1 and figure 3.
    """
    return blend(a_w_plus, b_w_plus, {level if isinstance(level, str) else tuple(level): 1.0})


def blend(a_w_plus, b_w_plus, weights: dict) -> torch.Tensor:
    """Styles of A moved towards B, level by level: weights {level: 0 (A) ... 1 (B)} -> [..., L, latent]."""
    a, b = torch.broadcast_tensors(torch.as_tensor(a_w_plus), torch.as_tensor(b_w_plus))
    mixed = a.clone()
    for level, weight in weights.items():
        layers = layers_of(level, a.shape[-2])
        part = b[..., layers, :] if weight == 1 else torch.lerp(a[..., layers, :], b[..., layers, :], weight)
        mixed[..., layers, :] = part
    return mixed


@torch.no_grad()
def synthesize(generator, w_plus, batch: int = 32, noise_seed: int | None = None) -> torch.Tensor:
    """Images of many codes [..., L, latent] -> [..., C, R, R] on the CPU, with the generator's fixed noise.

    noise_seed: noise of each image's own instead; of one seed, code i has the same noise whatever the codes are.
    """
    device = generator.w_avg.device
    w_plus = torch.as_tensor(w_plus)
    flat = w_plus.reshape(-1, *w_plus.shape[-2:])
    stream = None if noise_seed is None else torch.Generator(device).manual_seed(noise_seed)
    images = []
    for part in flat.split(batch):
        noise = None if stream is None else generator.noise_maps("random", len(part), stream)
        images.append(generator.synthesis(part.to(device), noise).cpu())
    return torch.cat(images).reshape(*w_plus.shape[:-2], *images[0].shape[1:])


def mixing_grid(generator, a, b, level, weight: float = 1.0) -> torch.Tensor:
    """Every A (rows) with the level taken from every B (columns), or moved there in part: `blend` with this weight.

    a [na, L, latent], b [nb, L, latent] -> images [na, nb, C, R, R] about [-1, 1].
    """
    a, b = torch.as_tensor(a), torch.as_tensor(b)
    key = level if isinstance(level, str) else tuple(level)
    return synthesize(generator, blend(a[:, None], b[None], {key: weight}))
