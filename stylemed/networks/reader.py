"""The network of the readers (judge and labeller): a U-Net that outlines body, liver and tumor, and heads on its features."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from stylemed.errors import BadInput

CLASSES = ("air", "body", "liver", "tumor")
HEADS = {"present": 1, "modality": 1, "phase": 3, "kernel": 1, "noise": 1, "height": 1}
TRUNKS = ("unet", "residual")
CENTRES, HALF_WIDTH = (-0.6, -0.3, 0.0, 0.3, 0.6), 0.3  # of the narrow windows, where images are in [-1, 1]


class ReaderNetwork(nn.Module):
    """Images [B, 1, R, R] in [-1, 1] -> logits of CLASSES [B, 4, R, R], and of the heads {name: [B, n]}.

    trunk: unet (MONAI's BasicUNet), or residual (its SegResNet, Myronenko 2018: residual blocks, sums in the place of skip
    channels), for a second reader of another architecture. The image comes in narrow windows too, one beside the other: tumors
    differ from liver by little. From 128² on the trunk works at R/fold, squares of fold x fold pixels in as many channels: no
    pixel is lost, and a step takes a fraction of the time.
    """

    def __init__(self, width: int = 16, fold: int = 1, trunk: str = "unet"):
        super().__init__()
        from monai.networks.nets import BasicUNet, SegResNet

        if trunk not in TRUNKS:
            raise BadInput(f"There is no trunk {trunk} of a reader; there are: {', '.join(TRUNKS)}.")
        self.config = {"width": width, "fold": fold, "trunk": trunk}
        self.fold = fold
        seen, told = (1 + len(CENTRES)) * fold**2, len(CLASSES) * fold**2
        norm = ("group", {"num_groups": 4})
        if trunk == "unet":
            widths = (width, width, 2 * width, 4 * width, 8 * width, width)
            self.unet = BasicUNet(2, seen, told, widths, norm=norm)
        else:
            widths = (width, 2 * width, 4 * width, 8 * width, width)
            self.residual = SegResNet(2, width, seen, told, norm=norm, blocks_down=(1, 2, 2, 2))
        # All depths, since the shallow ones know intensities; and where the outlines see a tumor, how surely.
        self.heads = nn.Linear(2 * sum(widths) + 1, sum(HEADS.values()))

    def forward(self, images: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        windows = [((images - centre) / HALF_WIDTH).clamp(-1, 1) for centre in CENTRES]
        x = F.pixel_unshuffle(torch.cat([images, *windows], dim=1), self.fold)
        maps, logits = self._unet(x) if self.config["trunk"] == "unet" else self._residual(x)
        logits = F.pixel_shuffle(logits, self.fold)
        tumor = logits[:, 3:] - logits[:, :3].logsumexp(dim=1, keepdim=True)
        surest = _largest(F.avg_pool2d(tumor, 3, stride=1))
        pooled = [pool(x) for x in maps for pool in (_mean, _largest)]
        parts = self.heads(torch.cat([*pooled, surest], dim=1)).split(list(HEADS.values()), dim=1)
        return logits, dict(zip(HEADS, parts, strict=True))

    def _unet(self, x: Tensor) -> tuple[list[Tensor], Tensor]:
        """Feature maps of all depths, and the logits."""
        net = self.unet
        x0 = net.conv_0(x)
        x1 = net.down_1(x0)
        x2 = net.down_2(x1)
        x3 = net.down_3(x2)
        x4 = net.down_4(x3)
        up = net.upcat_1(net.upcat_2(net.upcat_3(net.upcat_4(x4, x3), x2), x1), x0)
        return [x0, x1, x2, x3, x4, up], net.final_conv(up)

    def _residual(self, x: Tensor) -> tuple[list[Tensor], Tensor]:
        net = self.residual
        up, down = net.encode(x)
        *shallow, _ = down
        for rise, block, beside in zip(net.up_samples, net.up_layers, reversed(shallow), strict=True):
            up = block(rise(up) + beside)
        return [*down, up], net.conv_final(up)


def _mean(x: Tensor) -> Tensor:
    return x.mean(dim=(2, 3))


def _largest(x: Tensor) -> Tensor:
    return x.amax(dim=(2, 3))
