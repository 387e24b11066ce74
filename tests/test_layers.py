"""The plan of the house: which room may import which, and what `import siameselib` brings along.

A room imports from the rooms below it and from those to its left: feeding, learning, judging.
Besides, the core needs torch and numpy only; everything else is imported inside the function that
needs it, and Triton by the files named after it.
"""

import ast
import subprocess
import sys
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

import siameselib

ROOT = Path(siameselib.__file__).parent
FILES = sorted(ROOT.rglob("*.py"))

NOTHING = frozenset()
FLOOR = {"_check", "files"}
MATHS = {"functional", "kernels"}
FEEDING = {"data", "samplers", "backbones"}
LEARNING = {"losses", "miners", "siamese", "memory", "large_batch", "distributed"}
JUDGING = {"evaluation", "diagnostics", "plot", "report", "export"}
MAY_IMPORT = {
    **dict.fromkeys(FLOOR, NOTHING),
    "kernels": FLOOR,
    "functional": {"kernels"} | FLOOR,
    **dict.fromkeys(FEEDING, FEEDING | FLOOR),
    **dict.fromkeys(LEARNING, LEARNING | FEEDING | MATHS | FLOOR),
    **dict.fromkeys(JUDGING, JUDGING | LEARNING | FEEDING | MATHS | FLOOR),
    "__init__": JUDGING | LEARNING | FEEDING | MATHS | FLOOR,
    "cli": {"__init__"} | JUDGING | LEARNING | FEEDING | MATHS | FLOOR,
    "__main__": {"cli"},
}
CORE = {"torch", "numpy", "siameselib", *sys.stdlib_module_names}
OPTIONAL = {
    "PIL",
    "faiss",
    "matplotlib",
    "onnx",
    "onnxruntime",
    "onnxscript",
    "safetensors",
    "sklearn",
    "tqdm",
    "umap",
}
HEAVY = [*sorted(OPTIONAL), "scipy", "triton", "torchvision", "pandas"]


def module_of(path):
    parts = ("siameselib", *path.relative_to(ROOT).with_suffix("").parts)
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {module_of(path): path for path in FILES}


def room_of(module):
    return module.split(".")[1] if "." in module else "__init__"


def imports(path):
    """Yield (imported module, imported when the file is, line)."""

    def visit(node, at_import):
        for child in ast.iter_child_nodes(node):
            if isinstance(child, ast.If) and "TYPE_CHECKING" in ast.unparse(child.test):
                continue
            if isinstance(child, ast.Import):
                for name in child.names:
                    yield name.name, at_import, child.lineno
            elif isinstance(child, ast.ImportFrom):
                assert not child.level, f"{path}:{child.lineno}: relative import"
                for name in child.names:
                    whole = f"{child.module}.{name.name}"
                    yield whole if whole in MODULES else child.module, at_import, child.lineno
            inside = isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
            yield from visit(child, at_import and not inside)

    yield from visit(ast.parse(path.read_text(encoding="utf-8")), True)


every_file = pytest.mark.parametrize(
    "path", FILES, ids=[path.relative_to(ROOT).as_posix() for path in FILES]
)


@every_file
def test_rooms_import_only_what_is_below_or_to_the_left(path):
    room = room_of(module_of(path))
    assert room in MAY_IMPORT, f"{path}: give the room {room!r} its place in this test"
    for module, _, line in imports(path):
        if module.split(".")[0] == "siameselib":
            other = room_of(module)
            assert other == room or other in MAY_IMPORT[room], f"{path}:{line}: imports {module}"


@every_file
def test_the_core_imports_torch_and_numpy_only(path):
    lazily = CORE | OPTIONAL
    triton = {"triton"} if path.stem.endswith("_triton") else set()
    for module, at_import, line in imports(path):
        top = module.split(".")[0]
        allowed = (CORE if at_import else lazily) | triton
        assert top in allowed, f"{path}:{line}: imports {module}"


def test_no_import_goes_in_a_circle():
    graph = {
        module: {other for other, at_import, _ in imports(path) if at_import and other in MODULES}
        for module, path in MODULES.items()
    }
    assert list(TopologicalSorter(graph).static_order())


def test_import_is_light_and_every_room_opens_without_the_extras():
    modules = [m for m in MODULES if not m.endswith("_triton") and not m.endswith("__main__")]
    code = (
        "import importlib, sys, time, torch, numpy\n"
        "before, start = set(sys.modules), time.process_time()\n"
        "import siameselib\n"
        "print(time.process_time() - start)\n"
        "print(*{m.split('.')[0] for m in sys.modules if m not in before})\n"
        f"sys.modules.update(dict.fromkeys({HEAVY!r}))\n"
        f"for module in {modules!r}: importlib.import_module(module)\n"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert not run.returncode, run.stderr
    seconds, brought = run.stdout.splitlines()
    assert not set(brought.split()) & set(HEAVY)
    assert float(seconds) < 3  # the aim is 0.3; this much would mean a heavy import
