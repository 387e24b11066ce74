"""What benchmarks write into pages and files: between the markers, whole or not at all."""

import json
import shutil
from pathlib import Path

import pytest

from benchmarks import judged, pages
from benchmarks.doctor import battery, cost

BEGIN, END = "<!-- x:begin -->", "<!-- x:end -->"


def test_insert_replaces_only_what_is_between_the_markers():
    page = f"above\n{BEGIN}\nold\n{END}\nbelow\n"
    once = pages.insert(page, "x", "new\n")
    assert once == f"above\n{BEGIN}\n\nnew\n\n{END}\nbelow\n"
    assert pages.insert(once, "x", "new") == once
    assert pages.insert(once, "x", "") == f"above\n{BEGIN}\n{END}\nbelow\n"


@pytest.mark.parametrize("page", ["", BEGIN, f"{END}{BEGIN}", f"{BEGIN}{END}{BEGIN}{END}"])
def test_a_page_without_its_markers_is_refused_and_kept(page, tmp_path):
    path = tmp_path / "page.md"
    path.write_text(page)
    with pytest.raises(ValueError, match=r"page\.md: the page must hold <!-- x:begin -->"):
        pages.update(path, "x", "new")
    assert path.read_text() == page


def test_update_looks_or_writes(tmp_path):
    path = tmp_path / "page.md"
    path.write_text(f"{BEGIN}\n{END}\n")
    assert pages.update(path, "x", "±", write=False)
    assert path.read_text() == f"{BEGIN}\n{END}\n"
    assert pages.update(path, "x", "±")
    assert path.read_text("utf-8") == f"{BEGIN}\n\n±\n\n{END}\n"
    assert not pages.update(path, "x", "±")


def test_a_full_disk_keeps_what_was_there(tmp_path, monkeypatch):
    path = tmp_path / "page.md"
    path.write_text(f"{BEGIN}\n{END}\n")

    def full(self, *_):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(Path, "write_text", full)
        for write in (
            lambda: pages.update(path, "x", "new"),
            lambda: pages.write_json(path, {"a": 1}),
        ):
            with pytest.raises(OSError, match="No space"):
                write()
    assert path.read_text() == f"{BEGIN}\n{END}\n"
    assert list(tmp_path.iterdir()) == [path]


def test_the_promise_is_written_again_as_it_stands(tmp_path, monkeypatch):
    page = Path(shutil.copy(judged.PAGE, tmp_path))
    monkeypatch.setattr(judged, "PAGE", page)
    assert judged.main([]) == 0
    assert page.read_text("utf-8") == (judged.ROOT / "docs" / "judging.md").read_text("utf-8")


def test_the_doctors_tables_are_written(tmp_path, monkeypatch, capsys):
    page = tmp_path / "page.md"
    parts = (f"<!-- {name}:begin -->\n<!-- {name}:end -->\n" for name in ("battery", "cost"))
    page.write_text("\n".join(parts))
    monkeypatch.setattr(cost, "NETS", cost.NETS[:1])
    monkeypatch.setattr(battery, "TRAINING", battery.TRAINING[:1])
    monkeypatch.setattr(battery, "DATA", ())
    well = "batch-hard, gaussian"
    monkeypatch.setattr(battery, "wells", lambda all_of=battery.wells: {well: all_of()[well]})
    out = ["--out", str(tmp_path / "deep" / "results"), "--page", str(page)]
    battery.main([*out, "--seeds", "1"])
    cost.main([*out, "--rounds", "1"])
    results = tmp_path / "deep" / "results"
    found = json.loads((results / "battery.json").read_text())
    rows = json.loads((results / "cost.json").read_text())["rows"]
    assert battery.table(found) in page.read_text("utf-8")
    assert cost.table(rows) in page.read_text("utf-8")
    assert cost.table(rows) in capsys.readouterr().out
