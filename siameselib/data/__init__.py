"""Feeding: face images, pair lists, protocols and the packed cache."""

from siameselib.data.augment import Augment, prepare
from siameselib.data.download import download_lfw
from siameselib.data.faces import SyntheticFaces, synthetic_faces, synthetic_view
from siameselib.data.images import Images
from siameselib.data.packed import PackedImages, bad_images, decode_image, pack
from siameselib.data.pairs import Pair, read_folds, read_pairs
from siameselib.data.photo import read_photo
from siameselib.data.protocols import Part, Protocol, View1, View2, refuse_leak
from siameselib.data.report import describe
from siameselib.data.sources import ImageSource, identity, image_name, open_folder, open_lfw
from siameselib.data.splits import Fold, identity_folds, pair_protocol

__all__ = [
    "Augment",
    "Fold",
    "ImageSource",
    "Images",
    "PackedImages",
    "Pair",
    "Part",
    "Protocol",
    "SyntheticFaces",
    "View1",
    "View2",
    "bad_images",
    "decode_image",
    "describe",
    "download_lfw",
    "identity",
    "identity_folds",
    "image_name",
    "open_folder",
    "open_lfw",
    "pack",
    "pair_protocol",
    "prepare",
    "read_folds",
    "read_pairs",
    "read_photo",
    "refuse_leak",
    "synthetic_faces",
    "synthetic_view",
]
