"""What tests of several folders share: a made-up data set and the smallest networks."""

import torch

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
