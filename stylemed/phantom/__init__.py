"""Synthetic patients in the LiTS layout, truth on record: `anatomy` places, `organs` paints, `scanner` sees, `patients` writes.

Importing this package loads neither torch nor MONAI.
"""

from stylemed.phantom.patients import make_phantom

__all__ = ["make_phantom"]
