"""What the library reaches on a GPU: ``python -m benchmarks gpu``."""
