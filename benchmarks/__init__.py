"""Benchmarks: each prints a ratio against a named rival, over interleaved runs, with median and spread."""

import os
import sys


def end() -> None:
    """End the process without Python's own shutdown, where DuckDB's bindings print pages once torch is loaded."""
    sys.stdout.flush()
    os._exit(0)
