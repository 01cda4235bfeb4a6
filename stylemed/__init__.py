"""The package behind the book: every loop, model and file format of the chapters."""

__version__ = "0.1.0"
