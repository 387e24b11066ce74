"""Atomic replacement: all or nothing."""

import pytest

from siameselib.files import replacing


def test_new_file_and_folder(tmp_path):
    with replacing(tmp_path / "deep" / "a.json") as temporary:
        temporary.write_text("1")
        assert temporary.suffix == ".json"
    assert (tmp_path / "deep" / "a.json").read_text() == "1"
    assert [p.name for p in (tmp_path / "deep").iterdir()] == ["a.json"]


@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), KeyboardInterrupt()])
def test_a_failure_keeps_the_old_file_and_leaves_no_litter(tmp_path, error):
    target = tmp_path / "a.txt"
    target.write_text("old")
    with pytest.raises(type(error)), replacing(target) as temporary:
        temporary.write_text("ne")
        raise error
    assert target.read_text() == "old"
    assert list(tmp_path.iterdir()) == [target]


def test_permissions_are_those_of_an_ordinary_file(tmp_path):
    plain, ours = tmp_path / "plain", tmp_path / "ours"
    plain.write_text("x")
    with replacing(ours) as temporary:
        temporary.write_text("x")
    assert ours.stat().st_mode == plain.stat().st_mode
