"""Makes Triton's interpreter quicker and quieter, and memory harmful that nobody wrote."""

from pathlib import Path

import pytest
import torch
from triton.runtime import interpreter


def pytest_collection_modifyitems(items):
    """Ignore what Triton 3.6 does itself to go through a loop."""
    ignored = pytest.mark.filterwarnings("ignore:Conversion of an array with ndim")
    for item in items:
        if item.path.parent == Path(__file__).parent:
            item.add_marker(ignored)


@pytest.fixture(autouse=True, scope="session")
def prepared_once():
    """Prepare the language once in a launch for functions of one file, not for each call of one."""
    prepare, launch, seen = interpreter._patch_lang, interpreter.GridExecutor.__call__, set()

    def once(function):
        if id(function.__globals__) in seen:
            return None
        seen.add(id(function.__globals__))
        return prepare(function)

    def launched(*args, **keywords):
        seen.clear()
        return launch(*args, **keywords)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(interpreter, "_patch_lang", once)
        patch.setattr(interpreter.GridExecutor, "__call__", launched)
        yield


@pytest.fixture
def poisoned(monkeypatch):
    """Fill memory that nobody has written yet."""
    empty = torch.empty

    def fill(*args, **keywords):
        result = empty(*args, **keywords)
        return result.fill_(torch.nan if result.is_floating_point() else -77)

    like = torch.empty_like
    monkeypatch.setattr(torch, "empty", fill)
    monkeypatch.setattr(torch, "empty_like", lambda x, **k: like(x, **k).fill_(-77))
