"""What tests of several folders share: a made-up data set and the smallest networks."""

import numpy as np
import pandas as pd
import torch

from stylemed.provenance import Provenance
from stylemed.training.reader import Findings

TINY = {"latent_size": 16, "mapping_layers": 2, "fmap_base": 64, "fmap_max": 8, "batch_default": 4}
TIMES = ["minutes", "images_per_second", "reading_share"]  # columns of the log that no two runs share


class Blobs:
    """A data set of bright discs, 16²; with three channels the discs are red."""

    resolution = 16
    metadata = {"window": {"lo": -100, "hi": 250}}

    def __init__(self, n: int = 20, channels: int = 1):
        self.channels = channels
        stream = torch.Generator().manual_seed(0)
        y, x = torch.meshgrid(torch.arange(16), torch.arange(16), indexing="ij")
        centre = torch.rand(n, 2, generator=stream) * 6 + 5
        away = (y[None] - centre[:, :1, None]) ** 2 + (x[None] - centre[:, 1:, None]) ** 2
        discs = (1 - away / 8).clamp(-1, 1)[:, None].float()
        self.all = torch.cat([discs, *[torch.full_like(discs, -1.0)] * (channels - 1)], dim=1)

    def __len__(self):
        return len(self.all)

    def images(self, positions):
        return self.all[positions]


class Painted(torch.nn.Module):
    """A generator whose tumor is axis 0 of the coarse styles, the size of its liver axis 1, its body's grey axis 2 of the others.

    16², 6 layers. Among its samples large livers have tumors more often than small ones.
    """

    resolution, channels, num_layers, latent_size = 16, 1, 6, 24

    def __init__(self):
        super().__init__()
        self.register_buffer("w_avg", torch.zeros(self.latent_size))
        y, x = torch.meshgrid(torch.arange(16.0), torch.arange(16.0), indexing="ij")
        self.body, self.away = (x - 7.5) ** 2 + (y - 7.5) ** 2 < 56, ((x - 6) ** 2 + (y - 7) ** 2).sqrt()

    def mapping(self, z):
        return torch.cat([0.8 * z[:, :1] + 0.6 * z[:, 1:2], z[:, 1:]], dim=1)

    def broadcast(self, w):
        return w[:, None].expand(-1, self.num_layers, -1)

    def synthesis(self, w_plus, noise=None):
        coarse, others = w_plus[:, :4].mean(dim=1)[..., None, None], w_plus[:, 4:].mean(dim=1)[..., None, None]
        image = torch.where(self.body, -0.2 + 0.05 * others[:, 2], torch.tensor(-1.0))
        image = torch.where(self.away < 4 + coarse[:, 1].clamp(-1.5, 1.5), torch.tensor(0.4), image)
        return torch.where(self.away < 1.6, 0.4 + 0.5 * torch.sigmoid(6 * coarse[:, 0]), image)[:, None]


class Eye:
    """A reader of `Painted` images: what is bright is liver, what is very bright a tumor."""

    def __init__(self, kind: str = "labeller"):
        self.kind, self.network, self.provenance = kind, torch.nn.Linear(1, 1), Provenance(kind=kind)

    def findings(self, images):
        image = torch.as_tensor(images)[:, 0].numpy()
        masks = (image > -0.6).astype(np.uint8) + (image > 0.2) + (image > 0.65)
        count = (masks == 3).sum(axis=(1, 2))
        table = pd.DataFrame({"tumor": (count > 0).astype(int), "tumor_px": count})
        table["tumor_score"] = count - 0.5
        table["liver_px"], table["height"] = (masks >= 2).sum(axis=(1, 2)), image[:, 14, 7]
        return Findings(masks, table.assign(phase="portal", modality_mr=0.1))
