"""Feeding: face images, pair lists, protocols and the packed cache."""

from siameselib.data.pack import PackedImages, decode_image, pack
from siameselib.data.pairs import Pair, read_folds, read_pairs
from siameselib.data.protocols import Part, Protocol, View1, View2, refuse_leak
from siameselib.data.sources import ImageSource, identity, image_name, open_folder, open_lfw

__all__ = [
    "ImageSource",
    "PackedImages",
    "Pair",
    "Part",
    "Protocol",
    "View1",
    "View2",
    "decode_image",
    "identity",
    "image_name",
    "open_folder",
    "open_lfw",
    "pack",
    "read_folds",
    "read_pairs",
    "refuse_leak",
]
