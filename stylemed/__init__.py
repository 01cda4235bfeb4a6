"""The package behind the book: every loop, model and file format of the chapters."""

__version__ = "0.1.0"

import os

# Before torch is loaded: OpenMP's threads then sleep while they wait. Two trainings side by side on two cores stall each other to a
# tenth of their speed when they spin instead. Whoever has set it keeps what they set.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")


def load(name):
    """A released model by name, such as "phantom-64": its generator, encoder, codes, directions, readers and card (`Bundle`)."""
    from stylemed.pretrained import load  # torch is imported when it is needed

    return load(name)
