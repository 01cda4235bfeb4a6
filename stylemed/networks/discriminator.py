"""The discriminator of StyleGAN, that of progressive growing (Karras 2018) with blurred downscaling (Karras 2019)."""

import torch.nn.functional as F
from torch import Tensor, nn

from stylemed.networks.layers import (
    LEAK,
    BlurConvDown,
    Conv,
    Dense,
    downscale,
    feature_maps,
    lerp_clip,
    minibatch_stddev,
    resolution_log2,
)


class DiscriminatorBlock(nn.Module):
    """Two convolutions, the second of which halves the side: [B, I, H, W] -> [B, O, H/2, W/2]."""

    def __init__(self, inputs: int, outputs: int):
        super().__init__()
        self.conv = Conv(inputs, inputs)
        self.down = BlurConvDown(inputs, outputs)

    def forward(self, x: Tensor) -> Tensor:
        x = F.leaky_relu(self.conv(x), LEAK)
        return F.leaky_relu(self.down(x), LEAK)


class DiscriminatorTail(nn.Module):
    """4² features -> score: minibatch standard deviation, a convolution, two dense layers."""

    def __init__(self, channels: int, hidden: int, group: int):
        super().__init__()
        self.group = group
        self.conv = Conv(channels + (group > 1), channels)
        self.dense0 = Dense(channels * 16, hidden)
        self.dense1 = Dense(hidden, 1, gain=1.0)

    def forward(self, x: Tensor) -> Tensor:
        if self.group > 1:
            x = minibatch_stddev(x, self.group)
        x = F.leaky_relu(self.conv(x), LEAK)
        return self.dense1(F.leaky_relu(self.dense0(x.flatten(1)), LEAK))


class Discriminator(nn.Module):
    """Images [B, C, R, R] in [-1, 1] -> scores [B, 1]; larger means "looks real".

    Args: as for `Generator`; `stddev_group` is the group size of the minibatch standard deviation (1 turns it off).
    """

    def __init__(
        self,
        resolution: int = 64,
        channels: int = 1,
        fmap_base: int = 8192,
        fmap_max: int = 512,
        stddev_group: int = 4,
    ):
        super().__init__()
        self.config = {
            "resolution": resolution,
            "channels": channels,
            "fmap_base": fmap_base,
            "fmap_max": fmap_max,
            "stddev_group": stddev_group,
        }
        self.resolution, self.channels = resolution, channels
        self.resolutions = [2**k for k in range(2, resolution_log2(resolution) + 1)]
        widths = [feature_maps(r, fmap_base, fmap_max) for r in self.resolutions]
        # Lists are ordered from 4² upwards, as in the generator; index 0 of `blocks` takes 8² to 4².
        self.from_image = nn.ModuleList(Conv(channels, width, size=1) for width in widths)
        self.blocks = nn.ModuleList(DiscriminatorBlock(widths[i + 1], widths[i]) for i in range(len(widths) - 1))
        self.tail = DiscriminatorTail(widths[0], feature_maps(2, fmap_base, fmap_max), stddev_group)

    def forward(self, images: Tensor, lod: float = 0.0) -> Tensor:
        """images [B, C, R, R] -> scores [B, 1]. At lod > 0 they are brought down to R / 2^floor(lod) first."""
        return self.forward_native(downscale(images, 2 ** int(lod)), lod)

    def forward_native(self, images: Tensor, lod: float = 0.0) -> Tensor:
        """As `forward`, for images that already have the side R / 2^floor(lod)."""
        last, fade = len(self.resolutions) - 1 - int(lod), lod - int(lod)
        x = F.leaky_relu(self.from_image[last](images), LEAK)
        for i in range(last - 1, -1, -1):
            x = self.blocks[i](x)
            if i == last - 1 and fade > 0:
                x = lerp_clip(x, F.leaky_relu(self.from_image[i](downscale(images)), LEAK), fade)
        return self.tail(x)
