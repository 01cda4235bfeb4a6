"""CT volumes on disk become slices in [-1, 1]: `volumes` reads, `preparing` cuts, `store` keeps.

Importing this package loads neither torch nor MONAI.
"""

from stylemed.data.layouts import Case, find_cases
from stylemed.data.preparing import PrepareReport, prepare
from stylemed.data.store import SliceDataset, SliceStore, Window
from stylemed.data.volumes import Volume, read_case, read_some

__all__ = [
    "Case",
    "PrepareReport",
    "SliceDataset",
    "SliceStore",
    "Volume",
    "Window",
    "find_cases",
    "prepare",
    "read_case",
    "read_some",
]
