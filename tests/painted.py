"""A made-up generator, encoder and reader whose answers are known: tumor and size of the liver are one axis of w each."""

import numpy as np
import pandas as pd
import torch

from stylemed.provenance import Provenance
from stylemed.training.reader import Findings

SIDE, LATENT, LAYERS = 16, 48, 6
AIR, BODY, LIVER, TUMOR = -1.0, 0.0, 0.4, -0.5  # grey; 175 HU in a step of 1


def painted(tumor, size) -> torch.Tensor:
    """Images [N, 1, 16, 16]: a square liver of `size` pixels in a square body, with a tumor of 3 x 3 where `tumor` says so."""
    images = torch.full((len(tumor), 1, SIDE, SIDE), AIR)
    images[:, :, 1:15, 1:15] = BODY
    for image, has, side in zip(images, tumor, size, strict=True):
        image[:, 3 : 3 + int(side), 3 : 3 + int(side)] = LIVER
        if has:
            image[:, 4:7, 4:7] = TUMOR
    return images


class Painter(torch.nn.Module):
    """Axis 0 of the coarse styles decides on the tumor (above 0.5), axis 1 on the liver's size; among samples both go together."""

    resolution, channels, num_layers, latent_size = SIDE, 1, LAYERS, LATENT

    def __init__(self):
        super().__init__()
        self.register_buffer("w_avg", torch.zeros(LATENT))

    def mapping(self, z):
        return torch.cat([0.7 * z[:, :1] + 0.7 * z[:, 1:2], z[:, 1:]], dim=1)

    def broadcast(self, w):
        return w[:, None].expand(-1, LAYERS, -1)

    def truncate(self, w, psi=0.7):
        return psi * w

    def synthesis(self, w_plus, noise=None):
        coarse = w_plus[:, :4].mean(dim=1)
        return painted(coarse[:, 0] > 0.5, (8 + coarse[:, 1]).round().clamp(6, 11))


class Finder(torch.nn.Module):
    """The encoder of `Painter`: reads the two axes off the image, and answers 0 for all others."""

    resolution = SIDE

    def __init__(self):
        super().__init__()
        self.nothing = torch.nn.Parameter(torch.zeros(1))

    def forward(self, images):
        found = Eye().findings(images)
        w = torch.zeros(len(images), LATENT)
        w[:, 0] = torch.tensor(np.where(found.table["tumor"] == 1, 1.0, -1.0))
        w[:, 1] = torch.tensor(np.sqrt(found.table["liver_px"].to_numpy())) - 8
        return w[:, None].expand(-1, LAYERS, -1)


class Eye:
    """Stands in for judge and labeller: tells body, liver and tumor by their grey values."""

    def __init__(self, kind: str = "judge"):
        self.kind, self.network = kind, torch.nn.Linear(1, 1)
        self.provenance = Provenance(kind=kind)

    def findings(self, images) -> Findings:
        grey = torch.as_tensor(images)[:, 0].numpy()
        tumor = np.abs(grey - TUMOR) < 0.2
        masks = ((grey > -0.7).astype(np.uint8) + (grey > 0.2)).astype(np.uint8)
        masks[tumor] = 3
        table = pd.DataFrame({"tumor": tumor.any(axis=(1, 2)).astype(int), "tumor_px": tumor.sum(axis=(1, 2))})
        return Findings(masks, table.assign(liver_px=(masks >= 2).sum(axis=(1, 2)), height=0.5))
