"""The StyleGAN generator (Karras, Laine and Aila 2019, figure 1b): z -> w -> one style per layer -> image."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from stylemed.networks.layers import (
    LEAK,
    Conv,
    ConvUpBlur,
    Dense,
    Styled,
    feature_maps,
    lerp_clip,
    num_layers,
    pixel_norm,
    resolution_log2,
    upscale,
)

TRUNCATED_LAYERS = 8  # Karras 2019, appendix B: psi acts on 4² to 32² only
MEASURED = 10_000  # z from which a normalized mapping network takes its constants


class MappingNetwork(nn.Module):
    """z [B, latent] -> w [B, latent]: pixel norm, then fully connected layers whose learning rate is 100 times lower.

    normalized: w is centred and scaled per dimension by constants measured before training. Untrained layers make all w alike (of
    eight, 39 % of the energy lies between samples), and at their learning rate they hardly part in some thousand steps.
    """

    def __init__(self, latent_size: int, layers: int, normalized: bool = False):
        super().__init__()
        self.layers = nn.ModuleList(Dense(latent_size, latent_size, lr_multiplier=0.01) for _ in range(layers))
        self.normalized = normalized
        if normalized:
            with torch.no_grad():
                w = self._layers(torch.randn(MEASURED, latent_size))
            self.register_buffer("shift", w.mean(dim=0))
            self.register_buffer("scale", w.std(dim=0).clamp(min=1e-4))

    def _layers(self, z: Tensor) -> Tensor:
        x = pixel_norm(z)
        for layer in self.layers:
            x = F.leaky_relu(layer(x), LEAK)
        return x

    def forward(self, z: Tensor) -> Tensor:
        w = self._layers(z)
        return (w - self.shift) / self.scale if self.normalized else w


class SynthesisBlock(nn.Module):
    """The two styled layers of one resolution; at 4² the first works on the learned constant."""

    def __init__(self, inputs: int, outputs: int, latent_size: int, first: bool):
        super().__init__()
        if first:
            self.const = nn.Parameter(torch.ones(1, outputs, 4, 4))
            self.const_bias = nn.Parameter(torch.zeros(outputs))
        else:
            self.up = ConvUpBlur(inputs, outputs)
        self.conv = Conv(outputs, outputs)
        self.styled = nn.ModuleList([Styled(outputs, latent_size), Styled(outputs, latent_size)])

    def forward(self, x: Tensor | None, w: Tensor, noise: list[Tensor]) -> Tensor:
        """x [B, I, H/2, W/2] or None at 4², w [B, 2, latent], two noise maps -> [B, O, H, W]."""
        if x is None:
            x = (self.const + self.const_bias[:, None, None]).expand(len(w), -1, -1, -1)
        else:
            x = self.up(x)
        x = self.styled[0](x, w[:, 0], noise[0])
        return self.styled[1](self.conv(x), w[:, 1], noise[1])


class Generator(nn.Module):
    """StyleGAN generator of square images.

    Args:
        resolution: image side in pixels, a power of two of at least 8.
        channels: 1 for CT, 3 for colour.
        latent_size: length of z and w.
        mapping_layers: depth of the mapping network.
        mapping_normalized: w centred and scaled by constants measured on the untrained mapping network; not in Karras 2019.
        fmap_base, fmap_max: widths, min(2 * fmap_base / resolution, fmap_max) channels at each resolution.

    `lod` (level of detail) counts how many doublings are still missing while the network grows: 0 is full resolution, 1 half of
    it, a fraction fades between the two. Images always come out at full size, upscaled with nearest neighbours where lod > 0.
    `generator.lod` is how far the network has grown, and what is used where no lod is given: 0 unless it was loaded from a
    training that was stopped early.
    """

    def __init__(
        self,
        resolution: int = 64,
        channels: int = 1,
        latent_size: int = 512,
        mapping_layers: int = 8,
        fmap_base: int = 8192,
        fmap_max: int = 512,
        mapping_normalized: bool = False,
    ):
        super().__init__()
        self.config = {
            "resolution": resolution,
            "channels": channels,
            "latent_size": latent_size,
            "mapping_layers": mapping_layers,
            "fmap_base": fmap_base,
            "fmap_max": fmap_max,
            "mapping_normalized": mapping_normalized,
        }
        self.resolution, self.channels, self.latent_size = resolution, channels, latent_size
        self.num_layers = num_layers(resolution)
        self.lod = 0.0
        self.resolutions = [2**k for k in range(2, resolution_log2(resolution) + 1)]
        widths = [feature_maps(r, fmap_base, fmap_max) for r in self.resolutions]

        self._mapping = MappingNetwork(latent_size, mapping_layers, mapping_normalized)
        self.blocks = nn.ModuleList(
            SynthesisBlock(widths[max(i - 1, 0)], width, latent_size, first=i == 0) for i, width in enumerate(widths)
        )
        self.to_image = nn.ModuleList(Conv(width, channels, size=1, gain=1.0) for width in widths)
        for layer in range(self.num_layers):
            side = self.resolutions[layer // 2]
            self.register_buffer(f"noise{layer}", torch.randn(1, 1, side, side))
        self.register_buffer("w_avg", torch.zeros(latent_size))

    def mapping(self, z: Tensor) -> Tensor:
        """z [B, latent] -> w [B, latent]."""
        return self._mapping(z)

    @property
    def mapping_network(self) -> MappingNetwork:
        """The network behind `mapping`."""
        return self._mapping

    def broadcast(self, w: Tensor) -> Tensor:
        """w [B, latent] -> the same style for every layer [B, L, latent]."""
        return w[:, None].expand(-1, self.num_layers, -1)

    def truncate(self, w: Tensor, psi: float = 0.7) -> Tensor:
        """Pull w [B, latent] or w+ [B, L, latent] towards the mean w by psi; of w+ only the first 8 layers (4² to 32²)."""
        pulled = torch.lerp(self.w_avg, w, psi)
        if w.ndim == 2:
            return pulled
        return torch.cat([pulled[:, :TRUNCATED_LAYERS], w[:, TRUNCATED_LAYERS:]], dim=1)

    def noise_maps(self, noise=None, batch: int = 1, generator: torch.Generator | None = None) -> list[Tensor]:
        """One map [1 or B, 1, H, W] per layer: the stored ones (None), fresh ones ("random"), or the list that was given."""
        stored = [getattr(self, f"noise{layer}") for layer in range(self.num_layers)]
        if noise is None:
            return stored
        if isinstance(noise, str):
            if noise != "random":
                raise ValueError(f'noise must be None, "random" or a list of maps, not "{noise}"')
            return [
                torch.randn(batch, 1, *n.shape[2:], device=n.device, dtype=n.dtype, generator=generator) for n in stored
            ]
        if len(noise) != self.num_layers:
            raise ValueError(f"{self.num_layers} noise maps are needed, {len(noise)} were given")
        return list(noise)

    def synthesis(self, w_plus: Tensor, noise=None, lod: float | None = None) -> Tensor:
        """w+ [B, L, latent] -> images [B, C, R, R], about [-1, 1].

        noise: None for the stored maps (the same image every time), "random" for fresh ones, or a list of L maps.
        """
        lod = self.lod if lod is None else lod
        return upscale(self.synthesis_native(w_plus, noise, lod), 2 ** int(lod))

    def synthesis_native(self, w_plus: Tensor, noise=None, lod: float = 0.0) -> Tensor:
        """As `synthesis`, at the size that lod leaves: [B, C, R / 2^floor(lod), …]; what training compares with."""
        maps = self.noise_maps(noise, len(w_plus))
        last = len(self.blocks) - 1 - int(lod)
        x = before = None
        for i in range(last + 1):
            before, x = x, self.blocks[i](x, w_plus[:, 2 * i : 2 * i + 2], maps[2 * i : 2 * i + 2])
        image, fade = self.to_image[last](x), lod - int(lod)
        if fade > 0 and last > 0:
            image = lerp_clip(image, upscale(self.to_image[last - 1](before)), fade)
        return image

    def forward(self, z: Tensor, psi: float | None = None, noise=None, lod: float | None = None) -> Tensor:
        """z [B, latent] -> images [B, C, R, R]; psi truncates (Karras 2019, appendix B), None does not."""
        w_plus = self.broadcast(self.mapping(z))
        return self.synthesis(w_plus if psi is None else self.truncate(w_plus, psi), noise, lod)
