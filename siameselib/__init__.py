"""siameselib: metric learning and verification."""

__version__ = "0.1.0"
