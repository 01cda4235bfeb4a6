"""Work in latent space: encode slices, mix styles, find a direction and walk along it."""

from stylemed.latent.codes import Codes, encode_store
from stylemed.latent.direction import Direction, find_direction, random_direction, traverse, walk
from stylemed.latent.effects import mixing_effect, region_change
from stylemed.latent.mixing import blend, mix, mixing_grid

__all__ = [
    "Codes",
    "Direction",
    "blend",
    "encode_store",
    "find_direction",
    "mix",
    "mixing_effect",
    "mixing_grid",
    "random_direction",
    "region_change",
    "traverse",
    "walk",
]
