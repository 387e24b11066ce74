"""The docs keep their promises: every python block runs, every command line is understood."""

import importlib
import re
import shlex
import sys
from pathlib import Path

import pytest

from siameselib import cli

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
BLOCK = re.compile(r"^```python\n(.*?)^```$", re.M | re.S)
PAGES = {page.relative_to(DOCS).as_posix(): page.read_text("utf-8") for page in DOCS.rglob("*.md")}
RUNNING = [
    pytest.param(name, marks=pytest.mark.lfw if "SIAMESELIB_LFW" in text else (), id=name)
    for name, text in sorted(PAGES.items())
    if BLOCK.search(text)
]
BASH = re.compile(r"^```bash\n(.*?)^```$", re.M | re.S)
LINES = sorted(
    {
        command.strip()
        for text in [*PAGES.values(), (ROOT / "README.md").read_text("utf-8")]
        for block in BASH.findall(text)
        for line in block.splitlines()
        for command in line.split("&&")
    }
)


def commands(start):
    found = [line.removeprefix(start) for line in LINES if line.startswith(start)]
    assert found
    return found


def test_there_are_pages():
    assert {"quickstart.md", "which_loss.md", "judging.md"} <= set(PAGES)


@pytest.mark.parametrize("name", RUNNING)
def test_blocks_run_from_top_to_bottom(name, tmp_path, monkeypatch, request):
    if request.node.get_closest_marker("lfw"):
        request.getfixturevalue("real_lfw")
    monkeypatch.chdir(tmp_path)
    namespace = {"__name__": "__main__"}
    for match in BLOCK.finditer(PAGES[name]):
        line = PAGES[name][: match.start(1)].count("\n")
        exec(compile("\n" * line + match[1], str(DOCS / name), "exec"), namespace)


@pytest.mark.parametrize("line", commands("siameselib "))
def test_the_command_line_understands(line):
    cli._parser().parse_args(shlex.split(line))


@pytest.mark.parametrize("line", commands("python examples/lfw/train.py"))
def test_the_trainer_understands(line, monkeypatch):
    monkeypatch.syspath_prepend(ROOT / "examples" / "lfw")
    monkeypatch.setattr(sys, "argv", ["train.py", *shlex.split(line)])
    assert importlib.import_module("options").read_options("").seed == 0
