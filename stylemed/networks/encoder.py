"""The encoder of the paper: a ResNet-50 (He et al. 2016) that reads an image and answers with its styles."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from stylemed.networks.layers import levels

TRUNKS = ("resnet18", "resnet34", "resnet50")
# What each level's head reads: its styles decide about small things where the stage still sees small things.
STAGES = {"coarse": ("layer4",), "middle": ("layer3", "layer4"), "fine": ("layer2", "layer3", "layer4")}


class Encoder(nn.Module):
    """Images [B, C, R, R] in [-1, 1] -> w+ [B, L, latent].

    The trunk's last three stages are averaged over the image. A head reads all three and answers with w, one style for all layers,
    as the generator was trained. In space "w+" three more heads answer with what the layers of their level add to it: the coarse
    one reads the last stage, the middle one the last two, the fine one all three (the levels' heads of pSp, Richardson 2021; an
    offset from w as in e4e, Tov 2021).

    Args:
        resolution: side of the images it is made for.
        channels: of the images.
        latent_size: length of w.
        num_layers: L, the styled layers of the generator it belongs to.
        space: "w" or "w+", what it answers with; an encoder for w+ can be asked for its w too.
        trunk: resnet50 as in the paper, resnet34 or resnet18.
        shortcut: side of a small copy of the image that a linear layer reads beside the ResNet; 0, as in the paper, for none.
        radius: largest root mean square of an answer, in standard deviations of w from the mean; 0 for no limit. A generated
            image lies at about 1: farther out the generator has no experience, and a slice unlike its own would end there.

    The trunk begins at random, or with `begin_from`. The heads' output is scaled by `w_std` and shifted by `w_avg` [latent], so
    that it begins at the mean image of the generator and every component is of order one; both are buffers, set from the generator
    before training.
    """

    def __init__(
        self,
        resolution: int,
        channels: int = 1,
        latent_size: int = 512,
        num_layers: int = 10,
        space: str = "w+",
        trunk: str = "resnet50",
        shortcut: int = 0,
        radius: float = 0.0,
    ):
        super().__init__()
        if space not in ("w", "w+"):
            raise ValueError(f'space must be "w" or "w+", not "{space}"')
        if trunk not in TRUNKS:
            raise ValueError(f'trunk must be one of {", ".join(TRUNKS)}, not "{trunk}"')
        self.config = {
            "resolution": resolution,
            "channels": channels,
            "latent_size": latent_size,
            "num_layers": num_layers,
            "space": space,
            "trunk": trunk,
            "shortcut": shortcut,
            "radius": radius,
        }
        from torchvision import models  # seconds to import, and most networks are generators

        self.resolution, self.channels, self.latent_size = resolution, channels, latent_size
        self.num_layers, self.space, self.shortcut, self.radius = num_layers, space, shortcut, radius
        self.trunk = getattr(models, trunk)(weights=None)
        widths = {f"layer{i}": 2**i * self.trunk.fc.in_features // 16 for i in (2, 3, 4)}
        self.trunk.fc = nn.Identity()
        if channels != 3:
            self.trunk.conv1 = nn.Conv2d(channels, 64, 7, stride=2, padding=3, bias=False)
            nn.init.kaiming_normal_(self.trunk.conv1.weight, mode="fan_out", nonlinearity="relu")
        self.layers = levels(resolution)  # of each level
        self.head = Head(sum(widths.values()), latent_size)
        self.offsets = nn.ModuleDict()
        if space == "w+":
            for level, stages in STAGES.items():
                count = len(range(num_layers)[self.layers[level]])
                if count:
                    self.offsets[level] = Head(sum(widths[stage] for stage in stages), latent_size * count)
        self.linear = None
        if shortcut:
            self.linear = nn.Linear(channels * shortcut**2, latent_size)
            nn.init.zeros_(self.linear.weight)
            nn.init.zeros_(self.linear.bias)
        self.register_buffer("w_avg", torch.zeros(latent_size))
        self.register_buffer("w_std", torch.ones(latent_size))

    @torch.no_grad()
    def begin_from(self, trunk: nn.Module) -> None:
        """Take the weights of a trained trunk, torchvision's network of the same name for colour images, but for its last layer."""
        state = {name: value for name, value in trunk.state_dict().items() if not name.startswith("fc.")}
        if self.channels != 3:  # a grey image is the sum of its three equal colours
            grey = state["conv1.weight"].sum(dim=1, keepdim=True)
            state["conv1.weight"] = grey.repeat(1, self.channels, 1, 1) / self.channels
        self.trunk.load_state_dict(state)

    def forward(self, images: Tensor, space: str | None = None) -> Tensor:
        """images [B, C, R, R] -> w+ [B, L, latent]; in space "w" all L rows are the same. space: other than its own, "w" only."""
        w, offsets = self.answers(images)
        if space == "w":
            offsets = None
        return self.styles(w, offsets)

    def answers(self, images: Tensor) -> tuple[Tensor, Tensor | None]:
        """images [B, C, R, R] -> w [B, 1, latent] and what w+ adds to it [B, L, latent] (None in space "w").

        In standard deviations from the mean w, without a limit.
        """
        stages = self.stages(images)
        w = self.head(torch.cat(list(stages.values()), dim=1))
        if self.linear is not None:
            w = w + self.linear(self.small(images))
        w = w[:, None]
        if self.space == "w":
            return w, None
        offsets = []
        for level, head in self.offsets.items():
            rows = head(torch.cat([stages[stage] for stage in STAGES[level]], dim=1))
            offsets.append(rows.reshape(len(images), -1, self.latent_size))
        return w, torch.cat(offsets, dim=1)

    def styles(self, w: Tensor, offsets: Tensor | None) -> Tensor:
        """`answers`, held within the radius, as styles w+ [B, L, latent] of the generator."""
        rows = w if offsets is None else w + offsets
        if self.radius > 0:
            distance = rows.square().mean(dim=(1, 2), keepdim=True).add(1e-8).sqrt()
            rows = rows * (self.radius / distance).clamp(max=1.0)
        return (rows * self.w_std + self.w_avg).expand(-1, self.num_layers, -1)

    def stages(self, images: Tensor) -> dict[str, Tensor]:
        """images [B, C, R, R] -> the trunk's last three stages, averaged over the image: {"layer2": [B, width], …}."""
        trunk = self.trunk
        x = trunk.layer1(trunk.maxpool(trunk.relu(trunk.bn1(trunk.conv1(images)))))
        found = {}
        for name in STAGES["fine"]:
            x = getattr(trunk, name)(x)
            found[name] = x.mean(dim=(2, 3))
        return found

    def small(self, images: Tensor) -> Tensor:
        """What the shortcut reads: images [B, C, R, R] averaged down, as rows [B, C * shortcut²]."""
        return F.adaptive_avg_pool2d(images, self.shortcut).flatten(1)


class Head(nn.Linear):
    """A linear layer that begins at 0, with an equalised learning rate: Adam moves each weight alike, and unscaled a thousand of
    them would throw the styles about."""

    def __init__(self, inputs: int, outputs: int):
        super().__init__(inputs, outputs)
        nn.init.zeros_(self.weight)
        nn.init.zeros_(self.bias)

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) * self.in_features**-0.5
