"""The LFW table says what the result files say, and the committed pages are up to date."""

import json

import pytest

from benchmarks import lfw_table

RUN = {
    "protocol": "lfw-view-1",
    "train_on": "pairs",
    "loss": "bce",
    "head": "concat",
    "backbone": "c19",
    "image_size": 64,
    "seed": 0,
    "n_pairs": 1000,
    "accuracy": 0.5,
    "accuracy_se": 0.0158,
    "auc": 0.51,
    "eer": 0.49,
    "seconds": 120.0,
    "device": "cpu",
    "command": "python train.py --seed 0 --loss bce --epochs 2 --out runs/a",
}


@pytest.fixture
def results(tmp_path):
    def write(name, **changes):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(RUN | changes))

    second = "python train.py --epochs 2 --loss bce --out runs/b --seed 1"  # in another order
    write("a/result.json", command=second, seed=1, accuracy=0.6, auc=0.61, eer=0.39, seconds=240.0)
    write("b.json")
    write("best.json", train_on="people", loss="batch-hard", head="distance", accuracy=0.9)
    write("notes.txt", accuracy=1.0)
    return tmp_path


def test_groups_seeds_and_averages(results):
    lines = lfw_table.table(lfw_table.read(results)).splitlines()
    rows = [line for line in lines if line.startswith("| p")]
    assert rows == [
        "| pairs | bce | concat | c19, 64 px | 0.500 0.600 | 0.550 | 0.560 | 0.440 | 2 4 |",
        "| people | batch-hard | distance | c19, 64 px | 0.900 | 0.900 | 0.510 | 0.490 | 2 |",
    ]
    assert (
        len({row.count("|") for row in rows} | {lfw_table.HEADER.splitlines()[1].count("|")}) == 1
    )
    assert "1,000 test pairs; standard error of one run's accuracy at most 0.016" in lines[0]
    start = lines.index("```bash")
    assert lines[start + 1] == RUN["command"]
    assert lines[start + 3 :] == ["```"]


@pytest.mark.parametrize("key", ["image_size", "loss", "backbone", "command"])
def test_different_recipes_are_never_averaged(results, key):
    other = RUN | {key: "other", "accuracy": 0.99}
    text = lfw_table.table([RUN, other])
    assert "| 0.500 | 0.500 |" in text
    assert "| 0.990 | 0.990 |" in text


def test_options_that_change_the_loss_stand_beside_it():
    command = "python train.py --loss bce --margin 1 --no-augment --normalize-not 3 --out x"
    assert "| bce `--margin 1` `--no-augment` |" in lfw_table.table([RUN | {"command": command}])
    command = "python train.py --zooms 0.9 1 1.1 --seed 1"
    assert "| bce `--zooms 0.9 1 1.1` |" in lfw_table.table([RUN | {"command": command}])


def test_one_table_a_protocol():
    text = lfw_table.table([RUN | {"protocol": "lfw-view-2"}, RUN])
    assert text.count(lfw_table.HEADER) == 2
    assert text.index("`lfw-view-1`") < text.index("`lfw-view-2`")


def test_names_the_file_and_what_it_lacks(tmp_path):
    (tmp_path / "x.json").write_text('{"protocol": "lfw-view-1"}')
    with pytest.raises(ValueError, match=r"x\.json: lacks seed, command, train_on"):
        lfw_table.read(tmp_path)
    (tmp_path / "x.json").write_text("{")
    with pytest.raises(ValueError, match=r"x\.json: not a JSON file"):
        lfw_table.read(tmp_path)


def test_writes_then_finds_nothing_to_do(results, tmp_path, monkeypatch, capsys):
    empty = "<!-- lfw-table:begin -->\n<!-- lfw-table:end -->"
    pages = [tmp_path / "README.md", tmp_path / "lfw.md"]
    for page in pages:
        page.write_text(f"# Title\n\n{empty}\n")
    monkeypatch.setattr(lfw_table, "PAGES", pages)
    monkeypatch.setattr(lfw_table, "RESULTS", results)
    assert lfw_table.main(["--check"]) == 1
    assert "out of date" in capsys.readouterr().out
    assert empty in pages[0].read_text()
    assert lfw_table.main([]) == 0
    assert "| people |" in pages[1].read_text()
    assert lfw_table.main(["--check"]) == 0


def test_the_committed_pages_are_up_to_date():
    assert lfw_table.main(["--check"]) == 0
