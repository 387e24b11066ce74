"""What several test files share: a small LFW, drawn, and where the real one lies."""

import io
import os
import tarfile
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import settings
from PIL import Image
from torch.utils._python_dispatch import TorchDispatchMode

from siameselib.data import open_lfw

# A busy machine is no failure: examples may take as long as they need.
settings.register_profile("siameselib", deadline=None)
settings.load_profile("siameselib")

# Triton's interpreter is chosen when a kernel is defined: tests/test_triton.py starts these.
collect_ignore = [] if os.environ.get("TRITON_INTERPRET") == "1" else ["interpreted"]

# person -> number of images; the first six train in view 1
PEOPLE = {
    "Ada_Byron": 3,
    "Alan_Kay": 2,
    "Bea": 1,
    "Grace_Hopper": 4,
    "Ivan_Sutherland": 1,
    "Jo_March-Smith": 2,
    "Kay_McNulty": 3,
    "Lin_Bo": 1,
    "Mary_Ward": 2,
    "Noor_Khan": 5,
}
TRAIN = list(PEOPLE)[:6]


def photo(seed: int, side: int = 250) -> bytes:
    """A smooth random picture as JPEG bytes."""
    rough = np.random.default_rng(seed).integers(0, 256, (8, 8, 3), np.uint8)
    data = io.BytesIO()
    Image.fromarray(rough).resize((side, side), Image.Resampling.BICUBIC).save(data, "JPEG")
    return data.getvalue()


def _pairs(people, n):
    several = [person for person in people if PEOPLE[person] > 1]
    same = [f"{p}\t1\t{k}" for p in several for k in range(2, PEOPLE[p] + 1)][:n]
    different = [f"{a}\t1\t{b}\t1" for k, a in enumerate(people) for b in people[k + 1 :]][:n]
    assert len(same) == len(different) == n
    return same + different


def _write(file: Path, *lines: object) -> None:
    file.write_text("".join(f"{line}\n" for line in lines))


def _listed(people):
    return [f"{person}\t{PEOPLE[person]}" for person in people]


@pytest.fixture(autouse=True)
def seeded():
    """Start every test from the same random state, whichever tests ran before it."""
    torch.manual_seed(0)


@pytest.fixture(scope="session")
def small_lfw(tmp_path_factory):
    """A folder like LFW's: images unpacked, as tar and as tgz, and all protocol files."""
    root = tmp_path_factory.mktemp("lfw")
    images = root / "images" / "lfw-deepfunneled"
    for number, (person, count) in enumerate(PEOPLE.items()):
        (images / person).mkdir(parents=True)
        for k in range(1, count + 1):
            (images / person / f"{person}_{k:04d}.jpg").write_bytes(photo(100 * number + k))
    for folder, suffix, mode in (("tar", "tar", "w"), ("tgz", "tgz", "w:gz")):
        (root / folder).mkdir()
        with tarfile.open(root / folder / f"lfw-deepfunneled.{suffix}", mode) as archive:
            archive.add(images, "lfw-deepfunneled")
    test = [person for person in PEOPLE if person not in TRAIN]
    for folder in (root / "images", root / "tar", root / "tgz"):
        _write(folder / "lfw-names.txt", *_listed(PEOPLE))
        _write(folder / "peopleDevTrain.txt", len(TRAIN), *_listed(TRAIN))
        _write(folder / "peopleDevTest.txt", len(test), *_listed(test))
        _write(folder / "pairsDevTrain.txt", 5, *_pairs(TRAIN, 5))
        _write(folder / "pairsDevTest.txt", 4, *_pairs(test, 4))
        folds = [list(PEOPLE)[0::2], list(PEOPLE)[1::2]]
        blocks = [line for fold in folds for line in (len(fold), *_listed(fold))]
        _write(folder / "people.txt", 2, *blocks)
        _write(folder / "pairs.txt", "2\t3", *_pairs(folds[0], 3), *_pairs(folds[1], 3))
    return root


@pytest.fixture(scope="session")
def make_photo():
    """The function that makes picture bytes from a seed."""
    return photo


@pytest.fixture(scope="session")
def real_lfw():
    """The folder of the real LFW."""
    folder = os.environ.get("SIAMESELIB_LFW")
    if not folder:
        pytest.skip("SIAMESELIB_LFW is not set")
    return Path(folder)


@pytest.fixture(scope="session")
def real_source(real_lfw):
    """The images of the real LFW."""
    return open_lfw(real_lfw)


class Largest(TorchDispatchMode):
    """Keeps the number of entries of the largest tensor that any operation returned."""

    entries = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        result = function(*args, **(kwargs or {}))
        for each in result if isinstance(result, tuple | list) else [result]:
            if isinstance(each, torch.Tensor):
                self.entries = max(self.entries, each.untyped_storage().nbytes() // 4)
        return result


@pytest.fixture
def largest_tensor():
    """A context that keeps the number of entries of the largest tensor made within."""
    return Largest


@pytest.fixture
def small_disk():
    """Make this process fail when it writes a file beyond a size, as on a full disk."""
    resource = pytest.importorskip("resource")
    before = resource.getrlimit(resource.RLIMIT_FSIZE)

    def limit(size: int) -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))

    yield limit
    resource.setrlimit(resource.RLIMIT_FSIZE, before)
