"""The pieces that generator and discriminator share, after Karras et al. 2019 (StyleGAN) and 2018 (progressive growing).

Where two forms compute the same function, the cheaper one is used: nearest-neighbour upscaling followed by a 3x3 convolution is
one transposed convolution with a 4x4 kernel, a 3x3 convolution followed by a 2x2 mean is one strided convolution.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

LEAK = 0.2  # slope of the leaky ReLU everywhere


def feature_maps(resolution: int, fmap_base: int, fmap_max: int) -> int:
    """Channels of the layers that work at `resolution`: min(2 * fmap_base / resolution, fmap_max)."""
    return min(2 * fmap_base // resolution, fmap_max)


def num_layers(resolution: int) -> int:
    """Styled layers of a generator of this resolution: two at every resolution from 4 on."""
    return 2 * resolution_log2(resolution) - 2


def resolution_log2(resolution: int) -> int:
    """log2 of an image side; ValueError unless it is a power of two of at least 4."""
    log2 = int(resolution).bit_length() - 1
    if log2 < 2 or 2**log2 != resolution:
        raise ValueError(f"resolution must be a power of two of at least 4, not {resolution}")
    return log2


def levels(resolution: int) -> dict[str, slice]:
    """The layers of each level of the paper's figure 1: coarse 4²-8², middle 16²-32², fine 64² and above.

    A level that a small generator does not have is an empty slice.
    """
    count = num_layers(resolution)
    bounds = {"coarse": (0, 4), "middle": (4, 8), "fine": (8, count)}
    return {name: slice(min(start, count), min(max(start, stop), count)) for name, (start, stop) in bounds.items()}


def pixel_norm(x: Tensor, eps: float = 1e-8) -> Tensor:
    """Scale every vector along dim 1 to unit mean square (Karras 2018, section 4.2)."""
    return x * torch.rsqrt(x.square().mean(dim=1, keepdim=True) + eps)


def lerp_clip(a: Tensor, b: Tensor, t: float) -> Tensor:
    """a + (b - a) * t with t held in [0, 1]."""
    if t <= 0:
        return a
    return b if t >= 1 else a + (b - a) * t


def upscale(x: Tensor, factor: int = 2) -> Tensor:
    """Nearest-neighbour upscaling [B, C, H, W] -> [B, C, H * factor, W * factor]."""
    return x if factor == 1 else F.interpolate(x, scale_factor=factor, mode="nearest")


def downscale(x: Tensor, factor: int = 2) -> Tensor:
    """Mean over factor x factor pixels [B, C, H, W] -> [B, C, H / factor, W / factor]."""
    return x if factor == 1 else F.avg_pool2d(x, factor)


def blur(x: Tensor, bias: Tensor | None = None) -> Tensor:
    """Smooth with [1, 2, 1] x [1, 2, 1] / 16, zeros outside; `bias` [C] is added after it."""
    tap = torch.tensor([1.0, 2.0, 1.0], device=x.device, dtype=x.dtype) / 4
    kernel = (tap[:, None] * tap[None, :]).expand(x.shape[1], 1, 3, 3)
    return F.conv2d(x, kernel, bias, padding=1, groups=x.shape[1])


def _sum_of_shifts(weight: Tensor) -> Tensor:
    """A [.., 3, 3] kernel convolved with a 2x2 box: [.., 4, 4]."""
    w = F.pad(weight, (1, 1, 1, 1))
    return w[..., 1:, 1:] + w[..., :-1, 1:] + w[..., 1:, :-1] + w[..., :-1, :-1]


def conv_up(x: Tensor, weight: Tensor) -> Tensor:
    """Nearest upscaling, then a zero-padded 3x3 convolution, as one step: [B, I, H, W] -> [B, O, 2H, 2W]."""
    kernel = _sum_of_shifts(weight.flip(2, 3)).transpose(0, 1)
    return F.conv_transpose2d(x, kernel, stride=2, padding=1)


def conv_down(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """A zero-padded 3x3 convolution, then the mean of 2x2 pixels, as one step: [B, I, 2H, 2W] -> [B, O, H, W]."""
    return F.conv2d(x, _sum_of_shifts(weight) / 4, bias, stride=2, padding=1)


def stddev_group_size(group: int, batch: int) -> int:
    """Samples to a group of `minibatch_stddev`: `group`, or the largest divisor of the batch below it."""
    return next(g for g in range(min(group, batch), 0, -1) if batch % g == 0)


def minibatch_stddev(x: Tensor, group: int = 4) -> Tensor:
    """Append one map with the mean standard deviation over groups of samples (Karras 2018, section 3).

    Groups are strided: with G samples to a group and M groups, sample n belongs to group n mod M. A batch that the group size
    does not divide uses the largest divisor below it.
    """
    b, _, h, w = x.shape
    size = stddev_group_size(group, b)
    y = x.reshape(size, b // size, *x.shape[1:])  # (G, M, C, H, W)
    y = (y - y.mean(dim=0, keepdim=True)).square().mean(dim=0)  # (M, C, H, W)
    y = (y + 1e-8).sqrt().mean(dim=(1, 2, 3))  # (M,)
    return torch.cat([x, y.repeat(size)[:, None, None, None].expand(b, 1, h, w)], dim=1)


class EqualWeight(nn.Module):
    """Equalised learning rate: stored as N(0, 1) / lr_multiplier, used times gain / sqrt(fan_in) * lr_multiplier."""

    def __init__(self, *shape: int, gain: float = math.sqrt(2), lr_multiplier: float = 1.0):
        super().__init__()
        self.weight = nn.Parameter(torch.randn(*shape) / lr_multiplier)
        self.bias = nn.Parameter(torch.zeros(shape[0]))
        self.lr_multiplier = lr_multiplier
        self.coefficient = gain / math.sqrt(math.prod(shape[1:])) * lr_multiplier

    def scaled_weight(self) -> Tensor:
        return self.weight * self.coefficient

    def scaled_bias(self) -> Tensor:
        return self.bias if self.lr_multiplier == 1 else self.bias * self.lr_multiplier


class Dense(EqualWeight):
    """Fully connected layer [B, I] -> [B, O]."""

    def __init__(self, inputs: int, outputs: int, gain: float = math.sqrt(2), lr_multiplier: float = 1.0):
        super().__init__(outputs, inputs, gain=gain, lr_multiplier=lr_multiplier)

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x, self.scaled_weight(), self.scaled_bias())


class Conv(EqualWeight):
    """Zero-padded convolution of size 1 or 3, [B, I, H, W] -> [B, O, H, W]."""

    def __init__(self, inputs: int, outputs: int, size: int = 3, gain: float = math.sqrt(2)):
        super().__init__(outputs, inputs, size, size, gain=gain)
        self.padding = size // 2

    def forward(self, x: Tensor) -> Tensor:
        return F.conv2d(x, self.scaled_weight(), self.scaled_bias(), padding=self.padding)


class ConvUpBlur(Conv):
    """Upscale, convolve, blur, then add the bias (the blur's zero border must not see it)."""

    def forward(self, x: Tensor) -> Tensor:
        return blur(conv_up(x, self.scaled_weight()), self.scaled_bias())


class BlurConvDown(Conv):
    """Blur, convolve, downscale, then add the bias."""

    def forward(self, x: Tensor) -> Tensor:
        return conv_down(blur(x), self.scaled_weight(), self.scaled_bias())


class Styled(nn.Module):
    """What follows every convolution of the generator: noise, leaky ReLU, instance normalisation, style (Karras 2019, figure 1b).

    The bias has been added before: adding it before or after the noise is the same. The noise is one map per sample and layer,
    with a strength per channel that starts at 0. The style is an affine function of w: x * (scale + 1) + shift.
    """

    def __init__(self, channels: int, latent_size: int):
        super().__init__()
        self.noise_strength = nn.Parameter(torch.zeros(channels))
        self.style = Dense(latent_size, 2 * channels, gain=1.0)

    def forward(self, x: Tensor, w: Tensor, noise: Tensor) -> Tensor:
        """x [B, C, H, W], w [B, latent], noise [1 or B, 1, H, W] -> [B, C, H, W]."""
        b, c, h, wd = x.shape
        strength = self.noise_strength[:, None, None].to(x.dtype)
        x = F.leaky_relu(torch.addcmul(x, noise.to(x.dtype), strength), LEAK)
        style = self.style(w).to(torch.promote_types(x.dtype, torch.float32))  # never applied in half precision
        scale, shift = style.chunk(2, dim=1)  # (B, C) each
        # Instance normalisation with a scale and shift per sample is batch normalisation of one row of B * C channels.
        x = F.batch_norm(
            x.reshape(1, b * c, h, wd), None, None, (scale + 1).reshape(-1), shift.reshape(-1), training=True, eps=1e-8
        )
        return x.reshape(b, c, h, wd)
