"""How good generated slices are: distances to the training slices, and a search for copies among them."""

from stylemed.evaluation.fidelity import Distances, read_distances, verdict
from stylemed.evaluation.fixed_features import features
from stylemed.evaluation.memorization import nearest, nearest_other_patient, thumbnails
from stylemed.evaluation.reference import Reference, frechet_distance, kernel_distance
from stylemed.evaluation.variety import corrected_share, covered, pairwise_dice, spread, survey_samples

__all__ = [
    "Distances",
    "Reference",
    "corrected_share",
    "covered",
    "features",
    "frechet_distance",
    "kernel_distance",
    "nearest",
    "nearest_other_patient",
    "pairwise_dice",
    "read_distances",
    "spread",
    "survey_samples",
    "thumbnails",
    "verdict",
]
