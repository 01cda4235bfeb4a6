"""How good generated slices are: distances to the training slices, and a search for copies among them."""

from stylemed.evaluation.fidelity import (
    Distances,
    Reference,
    features,
    frechet_distance,
    kernel_distance,
    read_distances,
)
from stylemed.evaluation.memorization import nearest, nearest_other_patient, thumbnails

__all__ = [
    "Distances",
    "Reference",
    "features",
    "frechet_distance",
    "kernel_distance",
    "nearest",
    "nearest_other_patient",
    "read_distances",
    "thumbnails",
]
