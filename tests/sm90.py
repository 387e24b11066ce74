"""Compile a Triton kernel for an H100 or H200 where there is none, and look at what came out.

The wheel of Triton brings its own assembler and disassembler.
"""

import re
import subprocess
import tempfile
from pathlib import Path
from typing import NamedTuple

SHARED = 227 * 1024
REGISTERS = 255


class Built(NamedTuple):
    """What became of a kernel."""

    registers: int
    """of a thread."""
    spilled: int
    """bytes of a thread that did not fit into them."""
    shared: int
    """bytes of shared memory."""
    loops: list[list[str]]
    """the names of the instructions of each innermost loop, in order."""

    def fits(self) -> bool:
        return self.registers <= REGISTERS and not self.spilled and self.shared <= SHARED

    def with_products(self) -> list[list[str]]:
        """The innermost loops with products on the tensor cores, the leanest first."""
        return sorted((body for body in self.loops if any(map(_multiplies, body))), key=len)

    def hottest(self) -> list[str]:
        """The longest of them."""
        return self.with_products()[-1]


def _multiplies(instruction: str) -> bool:
    return instruction.startswith(("HGMMA", "HMMA"))


def build(kernel, arguments, constants, options):
    """Compile.

    Args:
        kernel: a function under @triton.jit.
        arguments: its run-time arguments and their types, such as "*bf16" or "i32", or "i32 16"
            for a multiple of 16; memory starts at a multiple of 16 bytes.
        constants: its tl.constexpr arguments.
        options: what the launch says to the compiler.
    """
    import triton
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    names = kernel.arg_names
    assert {*arguments, *constants} == set(names), {*arguments, *constants} ^ set(names)
    signature = {name: arguments.get(name, "constexpr").split()[0] for name in names}
    aligned = {
        (names.index(name),): [["tt.divisibility", 16]]
        for name, kind in arguments.items()
        if kind.startswith("*") or kind.endswith(" 16")
    }
    compiled = triton.compile(
        ASTSource(kernel, signature, constants, aligned),
        target=GPUTarget("cuda", 90, 32),
        options=options,
    )
    return look_at(compiled.asm["cubin"], compiled.metadata.shared)


def look_at(cubin: bytes, shared: int) -> Built:
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "kernel.cubin"
        file.write_bytes(cubin)
        usage = _tool("cuobjdump", "-res-usage", file)
        code = _tool("nvdisasm", "-c", file)
    found = re.search(r"REG:(\d+) STACK:(\d+) .*?LOCAL:(\d+)", usage)
    assert found, usage
    registers, stack, local = map(int, found.groups())
    return Built(registers, stack + local, shared, _innermost_loops(code))


def _tool(name: str, *arguments: object) -> str:
    import triton

    tool = Path(triton.__file__).parent / "backends" / "nvidia" / "bin" / name
    command = [tool, *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


def _innermost_loops(code: str) -> list[list[str]]:
    """Find the bodies of the loops that hold no other loop: a label, and a branch back to it."""
    labels: dict[str, int] = {}
    names: list[str] = []
    loops: list[tuple[int, int]] = []
    for line in code.splitlines():
        if label := re.match(r"\s*\.?([\w.$]+):\s*$", line):
            labels[label[1]] = len(names)
        elif found := re.search(r"/\*[0-9a-f]{4,}\*/\s+(?:@!?U?P\w+\s+)?([A-Z][\w.]*)(.*?);", line):
            names.append(found[1])
            target = re.search(r"`\(\.?([\w.$]+)\)", found[2])
            if found[1].startswith("BRA") and target and target[1] in labels:
                loops.append((labels[target[1]], len(names)))
    innermost = [
        a for a in loops if not any(a != b and a[0] <= b[0] and b[1] <= a[1] for b in loops)
    ]
    return [names[first:last] for first, last in innermost]
