"""The README keeps its promises: it is short, its code runs, what it names exists."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

import siameselib

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")


def test_is_short():
    assert len(README.splitlines()) <= 150


def test_quick_start_runs_as_printed(tmp_path):
    (code,) = re.findall(r"^```python\n(.*?)^```$", README, re.M | re.S)
    assert len(code.splitlines()) <= 12
    run = subprocess.run(
        [sys.executable, "-W", "error", "-c", code],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert run.returncode == 0, run.stderr
    assert run.stdout.strip()
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "command",
    [
        'python -m pip install -c constraints.txt ".[lfw]" '
        "&& python examples/lfw/train.py --data synthetic",
        'python -m pip install -c constraints.txt -e ".[test]" && python -m pytest',
    ],
)
def test_prints_each_command_once_on_a_line_of_its_own(command):
    assert README.splitlines().count(command) == 1


def test_files_it_points_to_exist():
    targets = re.findall(r"\]\((?!https?:)([^)#]+)[^)]*\)", README)
    assert targets
    assert [target for target in targets if not (ROOT / target).exists()] == []


def test_names_it_mentions_exist():
    names = set(re.findall(r"`([A-Z]\w*(?:Loss|Miner|Head|Sampler|Network))`", README))
    assert names
    assert [name for name in sorted(names) if not hasattr(siameselib, name)] == []
