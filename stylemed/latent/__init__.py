"""Work in latent space: encode slices, mix styles, find a direction and walk along it."""

from stylemed.latent.codes import Codes, encode_store
from stylemed.latent.direction import Direction, find_direction, random_direction, steps_to, traverse, walk
from stylemed.latent.effects import (
    change_of_level,
    follows,
    footprint_width,
    mixing_effect,
    noise_footprints,
    region_change,
)
from stylemed.latent.geometry import components_for
from stylemed.latent.guided import Guided, guided_edit, local_edit
from stylemed.latent.mixing import blend, mix, mixing_grid
from stylemed.latent.samples import label_samples, matched

__all__ = [
    "Codes",
    "Direction",
    "Guided",
    "blend",
    "change_of_level",
    "components_for",
    "encode_store",
    "find_direction",
    "follows",
    "footprint_width",
    "guided_edit",
    "label_samples",
    "local_edit",
    "matched",
    "mix",
    "mixing_effect",
    "mixing_grid",
    "noise_footprints",
    "random_direction",
    "region_change",
    "steps_to",
    "traverse",
    "walk",
]
