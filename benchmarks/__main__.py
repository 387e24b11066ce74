"""Measure siameselib: ``python -m benchmarks cpu``; ``--help`` behind a name says more."""

import sys

COMMANDS = {
    "cpu": "benchmarks.engine.cpu",
    "gpu": "benchmarks.gpu.command",
    "doctor": "benchmarks.doctor.battery",
    "doctor-cost": "benchmarks.doctor.cost",
    "lfw-table": "benchmarks.lfw_table",
    "coverage": "benchmarks.coverage",
    "judged": "benchmarks.judged",
}


def main() -> int:
    """Run the benchmark named first on the command line."""
    name = sys.argv[1] if len(sys.argv) > 1 else None
    if name not in COMMANDS:
        print(f"usage: python -m benchmarks {{{','.join(COMMANDS)}}} [options]", file=sys.stderr)
        return 2
    module = __import__(COMMANDS[name], fromlist=["main"])
    code: int = module.main(sys.argv[2:])
    return code


if __name__ == "__main__":
    sys.exit(main())
