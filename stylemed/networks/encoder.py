"""The encoder of the paper: a ResNet-50 (He et al. 2016) that reads an image and answers with its styles."""

from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.models import resnet50

from stylemed.errors import BadInput

# Equalised learning rate for the head: Adam moves each of its 2048 weights alike, and unscaled they would throw the styles about.
HEAD = 2048**-0.5


class Encoder(nn.Module):
    """Images [B, C, R, R] in [-1, 1] -> w+ [B, L, latent].

    Args:
        resolution: side of the images it is made for.
        channels: of the images.
        latent_size: length of w.
        num_layers: L, the styled layers of the generator it belongs to.
        space: "w" (one style for all layers, as the generator was trained) or "w+" (one for each layer).
        shortcut: side of a small copy of the image that a linear layer reads beside the ResNet; 0, as in the paper, for none.
        radius: largest root mean square of an answer, in standard deviations of w from the mean; 0 for no limit. A generated
            image lies at about 1: farther out the generator has no experience, and a slice unlike its own would end there.
        weights: file with a ResNet-50 state dict (such as torchvision's ImageNet weights) to start from; None starts at random.

    The head's output is scaled by `w_std` and shifted by `w_avg` [latent], so that it begins at the mean image of the generator
    and every component is of order one; both are buffers, set from the generator before training.
    """

    def __init__(
        self,
        resolution: int,
        channels: int = 1,
        latent_size: int = 512,
        num_layers: int = 10,
        space: str = "w+",
        shortcut: int = 0,
        radius: float = 0.0,
        weights: str | Path | None = None,
    ):
        super().__init__()
        if space not in ("w", "w+"):
            raise ValueError(f'space must be "w" or "w+", not "{space}"')
        self.config = {
            "resolution": resolution,
            "channels": channels,
            "latent_size": latent_size,
            "num_layers": num_layers,
            "space": space,
            "shortcut": shortcut,
            "radius": radius,
        }
        self.resolution, self.channels, self.latent_size = resolution, channels, latent_size
        self.num_layers, self.space, self.shortcut, self.radius = num_layers, space, shortcut, radius
        self.backbone = resnet50(weights=None)
        if weights is not None:
            load_state(self.backbone, weights, "ResNet-50")
        first = self.backbone.conv1
        if channels != 3:  # a grey image is the sum of its three equal colours
            grey = first.weight.detach().sum(dim=1, keepdim=True).repeat(1, channels, 1, 1) / channels
            self.backbone.conv1 = nn.Conv2d(channels, 64, 7, stride=2, padding=3, bias=False)
            self.backbone.conv1.weight.data.copy_(grey)
        outputs = latent_size * (num_layers if space == "w+" else 1)
        self.backbone.fc = nn.Linear(2048, outputs)
        self.linear = nn.Linear(channels * shortcut**2, outputs) if shortcut else None
        for layer in (self.backbone.fc, self.linear):
            if layer is not None:
                nn.init.zeros_(layer.weight)
                nn.init.zeros_(layer.bias)
        self.register_buffer("w_avg", torch.zeros(latent_size))
        self.register_buffer("w_std", torch.ones(latent_size))

    def forward(self, images: Tensor) -> Tensor:
        """images [B, C, R, R] -> w+ [B, L, latent]; in space "w" all L rows are the same."""
        rows = HEAD * self.backbone(images)
        if self.linear is not None:
            rows = rows + self.linear(self.small(images))
        rows = rows.reshape(len(images), -1, self.latent_size)
        if self.radius > 0:
            distance = rows.square().mean(dim=(1, 2), keepdim=True).add(1e-8).sqrt()
            rows = rows * (self.radius / distance).clamp(max=1.0)
        return (rows * self.w_std + self.w_avg).expand(-1, self.num_layers, -1)

    def small(self, images: Tensor) -> Tensor:
        """What the shortcut reads: images [B, C, R, R] averaged down, as rows [B, C * shortcut²]."""
        return F.adaptive_avg_pool2d(images, self.shortcut).flatten(1)


def load_state(network: nn.Module, path: str | Path, name: str) -> None:
    """Fill a network with a state dict from a file, such as torchvision's; BadInput, which calls it `name`, when that fails."""
    try:
        network.load_state_dict(torch.load(path, map_location="cpu", weights_only=True))
    except FileNotFoundError:
        raise BadInput(f"{path}: no such file; give the path of a {name} state dict, or none.") from None
    except Exception as error:
        raise BadInput(
            f"{path}: is not a {name} state dict ({type(error).__name__}); save one with torch.save."
        ) from None
