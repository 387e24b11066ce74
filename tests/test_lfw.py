"""Sources of face images: names, folders, tars, and what is wrong with them."""

import gc
import hashlib
import io
import shutil
import tarfile
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from siameselib.data import identity, image_name, open_folder, open_lfw

PARTS = st.text(st.sampled_from("ab_01-. é"), min_size=1, max_size=6).filter(
    lambda text: text.strip(". ") == text
)


@pytest.mark.parametrize(
    ("path", "name", "person"),
    [
        ("lfw-deepfunneled/Al_Gore/Al_Gore_0001.jpg", "Al_Gore_0001", "Al_Gore"),
        ("Al_Gore_0001.jpg", "Al_Gore_0001", "Al_Gore"),
        (r"C:\lfw\Al_Gore\Al_Gore_0001.jpg", "Al_Gore_0001", "Al_Gore"),
        ("/data/lfw/Al_Gore/Al_Gore_0001", "Al_Gore_0001", "Al_Gore"),
        ("anna/holiday.PNG", "anna/holiday", "anna"),
        ("anna/anna_b_1.png", "anna/anna_b_1", "anna"),
        ("anna_b/anna_b_1.png", "anna_b_1", "anna_b"),
        ("anna/v1.2", "anna/v1.2", "anna"),
        ("1/2.jpeg", "1/2", "1"),
    ],
)
def test_names(path, name, person):
    assert image_name(path) == name
    assert identity(name) == person


@given(PARTS, PARTS)
def test_the_person_is_in_the_name(person, stem):
    assert identity(image_name(f"faces/{person}/{stem}.jpg")) == person


@given(PARTS, PARTS, PARTS, PARTS)
def test_names_tell_files_apart(person, stem, other, other_stem):
    equal = image_name(f"{person}/{stem}.jpg") == image_name(f"{other}/{other_stem}.jpg")
    assert equal == ((person, stem) == (other, other_stem))


@pytest.mark.parametrize(
    "path",
    [
        "images/lfw-deepfunneled",
        "images",
        "tar",
        "tar/lfw-deepfunneled.tar",
        "tgz",
        "tgz/lfw-deepfunneled.tgz",
    ],
)
def test_every_layout_is_the_same_source(small_lfw, path):
    source = open_lfw(small_lfw / path)
    images = small_lfw / "images" / "lfw-deepfunneled"
    files = {file.stem: file.read_bytes() for file in images.rglob("*.jpg")}
    assert source.names == sorted(files)
    assert {name: source.read(name) for name in source.names} == files
    assert source.people == sorted(folder.name for folder in images.iterdir())
    assert source.protocol_dir == small_lfw / path.split("/")[0]
    assert source.frame == (250, 250)
    assert source.missing == source.strays == []
    assert source.label == "lfw-deepfunneled"
    content = b"".join(
        f"{name}\0{len(files[name])}\0".encode() + files[name] for name in sorted(files)
    )
    assert source.fingerprint == hashlib.sha256(content).hexdigest()


def test_two_levels_up(small_lfw, tmp_path):
    shutil.copytree(small_lfw / "images", tmp_path / "a" / "b")
    assert len(open_lfw(tmp_path / "a").names) == 24
    with pytest.raises(FileNotFoundError, match="hold LFW's images"):
        open_lfw(tmp_path)


def test_a_compressed_tar_leaves_nothing_behind(small_lfw):
    source = open_lfw(small_lfw / "tgz")
    inflated = Path(source.entries["Bea_0001"].file)
    assert inflated.exists()
    del source
    gc.collect()
    assert not inflated.exists()


def test_unknown_image(small_lfw):
    with pytest.raises(KeyError, match="no image named 'Bea_0002'"):
        open_lfw(small_lfw / "tar").read("Bea_0002")


def test_one_changed_byte_changes_the_fingerprint(small_lfw, tmp_path):
    copy = shutil.copytree(small_lfw / "images", tmp_path / "copy")
    file = copy / "lfw-deepfunneled" / "Bea" / "Bea_0001.jpg"
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 1
    file.write_bytes(data)
    assert open_lfw(copy).fingerprint != open_lfw(small_lfw / "images").fingerprint


def test_missing_path(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"open_lfw: path must exist, got .*nowhere"):
        open_lfw(tmp_path / "nowhere")
    with pytest.raises(FileNotFoundError, match="open_folder: path must exist"):
        open_folder(tmp_path / "nowhere")


def test_empty_folder(tmp_path):
    with pytest.raises(FileNotFoundError, match="hold LFW's images"):
        open_lfw(tmp_path)
    with pytest.raises(ValueError, match="hold a folder of images for each person"):
        open_folder(tmp_path)


@pytest.mark.parametrize("data", [b"", b"PK\3\4 a zip", b"just text\n" * 100, bytes(10)])
def test_unknown_file_type(tmp_path, data):
    file = tmp_path / "lfw.zip"
    file.write_bytes(data)
    with pytest.raises(
        ValueError, match=r"path must be a \.tar or \.tgz of images, got .*lfw\.zip"
    ):
        open_lfw(file)


def test_tar_without_faces(tmp_path):
    with tarfile.open(tmp_path / "notes.tar", "w") as archive:
        archive.addfile(tarfile.TarInfo("notes/readme.txt"), io.BytesIO())
    with pytest.raises(ValueError, match="hold face images in a folder per person, got none"):
        open_lfw(tmp_path / "notes.tar")


def _cuts(tar: Path) -> dict[str, int]:
    with tarfile.open(tar) as archive:
        members = [member for member in archive if member.isfile()]
    middle, last = members[len(members) // 2], members[-1]
    return {
        "inside a file": middle.offset_data + middle.size // 2,
        "inside a header": middle.offset + 100,
        "at a file's border": middle.offset,
        "inside the last file": last.offset_data + last.size - 1,
        "before the end mark": last.offset_data + -(-last.size // 512) * 512,
    }


@pytest.mark.parametrize(
    "where",
    [
        "inside a file",
        "inside a header",
        "at a file's border",
        "inside the last file",
        "before the end mark",
    ],
)
def test_truncated_tar(small_lfw, tmp_path, where):
    whole = small_lfw / "tar" / "lfw-deepfunneled.tar"
    cut = tmp_path / "lfw-deepfunneled.tar"
    cut.write_bytes(whole.read_bytes()[: _cuts(whole)[where]])
    with pytest.raises(ValueError, match=r"complete archive .* it ends after [\d,]+ bytes"):
        open_lfw(tmp_path)


@pytest.mark.parametrize("damage", ["cut", "flipped"])
def test_damaged_tgz(small_lfw, tmp_path, damage, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "tmp"))
    (tmp_path / "tmp").mkdir()
    data = bytearray((small_lfw / "tgz" / "lfw-deepfunneled.tgz").read_bytes())
    if damage == "cut":
        del data[len(data) // 2 :]
    else:
        data[len(data) // 2] ^= 0xFF
    (tmp_path / "lfw.tgz").write_bytes(data)
    with pytest.raises(ValueError, match=r"complete archive .*lfw\.tgz"):
        open_lfw(tmp_path / "lfw.tgz")
    assert not list((tmp_path / "tmp").iterdir())


def test_half_extracted_folder_knows_what_is_missing(small_lfw, tmp_path):
    copy = shutil.copytree(small_lfw / "images", tmp_path / "copy")
    shutil.rmtree(copy / "lfw-deepfunneled" / "Noor_Khan")
    (copy / "lfw-deepfunneled" / "Bea" / "Bea_0001.jpg").unlink()
    source = open_lfw(copy)
    assert source.missing == ["Bea_0001", *(f"Noor_Khan_000{k}" for k in range(1, 6))]


def test_bad_names_file(small_lfw, tmp_path):
    copy = shutil.copytree(small_lfw / "images", tmp_path / "copy")
    (copy / "lfw-names.txt").write_text("Bea\t1\nJust a line\n")
    with pytest.raises(ValueError, match=r"lfw-names\.txt .*line 2: 'Just a line'"):
        open_lfw(copy)


def test_strays_and_hidden_files(small_lfw, tmp_path):
    copy = shutil.copytree(small_lfw / "images", tmp_path / "copy") / "lfw-deepfunneled"
    (copy / "Bea" / "notes.txt").write_text("hello")
    (copy / "Bea" / ".DS_Store").write_bytes(b"x")
    (copy / "Bea" / "._Bea_0001.jpg").write_bytes(b"x")
    (copy / "readme.md").write_text("hello")
    source = open_lfw(copy)
    assert source.strays == ["Bea/notes.txt"]
    assert len(source.names) == 24


def test_two_files_of_one_name(tmp_path, make_photo):
    (tmp_path / "anna").mkdir()
    for file in ("1.jpg", "1.png"):
        (tmp_path / "anna" / file).write_bytes(make_photo(0))
    with pytest.raises(
        ValueError, match=r"one image of the name 'anna/1', got anna/1\..* and anna"
    ):
        open_folder(tmp_path)


def test_two_tars(small_lfw, tmp_path):
    for name in ("a.tar", "b.tar"):
        shutil.copy(small_lfw / "tar" / "lfw-deepfunneled.tar", tmp_path / name)
    with pytest.raises(ValueError, match=r"name one of the sources in .*, got a\.tar, b\.tar"):
        open_lfw(tmp_path)


def test_own_faces(tmp_path, make_photo):
    for file in ("anna/1.jpg", "ben/1.jpg", "ben/holiday in june.jpg", "ben/ben_7.jpg"):
        (tmp_path / file).parent.mkdir(exist_ok=True)
        (tmp_path / file).write_bytes(make_photo(1, side=40))
    source = open_folder(tmp_path)
    assert source.names == ["anna/1", "ben/1", "ben/holiday in june", "ben_7"]
    assert source.people == ["anna", "ben"]
    assert source.frame is None
    with pytest.raises(ValueError, match="open_folder: path must be a folder"):
        open_folder(tmp_path / "anna" / "1.jpg")


@pytest.mark.lfw
def test_the_real_lfw(real_source):
    source = real_source
    images = Counter(map(identity, source.names))
    assert len(source.names) == 13233
    assert len(source.people) == len(images) == 5749
    assert sum(count > 1 for count in images.values()) == 1680
    assert sum(count == 1 for count in images.values()) == 4069
    assert images.most_common(1) == [("George_W_Bush", 530)]
    assert source.missing == source.strays == []
