"""How far an image is from the slice it should be: what encoder and inversion make small."""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from stylemed.errors import BadInput
from stylemed.networks import Discriminator


@dataclass(frozen=True)
class ReconstructionLoss:
    """Weighted sum of three distances between images [B, C, R, R] in [-1, 1] -> [B], one number for each image.

    l1: mean absolute difference. structure: 1 - SSIM (Wang 2004), blind to a shift in brightness that l1 sees, strict about edges.
    features: distance in what our own discriminator makes of both, which needs no network trained on photographs; it takes the
    place of LPIPS (Zhang 2018), whose normalisation it shares.
    """

    l1: float = 1.0
    structure: float = 0.5
    features: float = 0.0
    discriminator: Discriminator | None = None

    def __post_init__(self):
        if self.features > 0 and self.discriminator is None:
            raise BadInput(
                "Distances in features need the discriminator of the generator's run (discriminator.safetensors)."
            )

    def __call__(self, images: Tensor, wanted: Tensor) -> Tensor:
        total = self.l1 * (images - wanted).abs().mean(dim=(1, 2, 3))
        if self.structure > 0:
            total = total + self.structure * (1 - structural_similarity(images, wanted))
        if self.features > 0:
            total = total + self.features * feature_distance(self.discriminator, images, wanted)
        return total


def structural_similarity(a: Tensor, b: Tensor, sigma: float = 1.5, value_range: float = 2.0) -> Tensor:
    """SSIM of images [B, C, R, R] -> [B], with the Gaussian window of 11 pixels of Wang 2004; differentiable.

    MONAI's is used where results are measured; this one is for training, which does without MONAI.
    """
    c1, c2 = (0.01 * value_range) ** 2, (0.03 * value_range) ** 2
    with torch.autocast(a.device.type, enabled=False):  # differences of squares need every digit
        mean_a, mean_b = _blurred(a, sigma), _blurred(b, sigma)
        var_a = _blurred(a * a, sigma) - mean_a * mean_a
        var_b = _blurred(b * b, sigma) - mean_b * mean_b
        covariance = _blurred(a * b, sigma) - mean_a * mean_b
    brightness = (2 * mean_a * mean_b + c1) / (mean_a**2 + mean_b**2 + c1)
    structure = (2 * covariance + c2) / (var_a + var_b + c2)
    return (brightness * structure).mean(dim=(1, 2, 3))


def _blurred(images: Tensor, sigma: float) -> Tensor:
    """Weighted local means, only where the whole window lies in the image: [B, C, R, R] -> [B, C, R - 10, R - 10]."""
    x = torch.arange(-5, 6, dtype=images.dtype, device=images.device)
    kernel = torch.exp(-0.5 * (x / sigma) ** 2)
    kernel = kernel / kernel.sum()
    channels = images.shape[1]
    rows = kernel.view(1, 1, -1, 1).expand(channels, 1, -1, 1)
    return F.conv2d(F.conv2d(images, rows, groups=channels), rows.transpose(2, 3), groups=channels)


def feature_distance(discriminator: Discriminator, a: Tensor, b: Tensor) -> Tensor:
    """Mean over the discriminator's resolutions of the squared distance of unit feature vectors, averaged over places: -> [B]."""
    distances = [
        (F.normalize(x, dim=1, eps=1e-6) - F.normalize(y, dim=1, eps=1e-6)).square().sum(dim=1).mean(dim=(1, 2))
        for x, y in zip(discriminator.features(a), discriminator.features(b), strict=True)
    ]
    return torch.stack(distances).mean(dim=0)
