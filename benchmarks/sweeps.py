"""A sweep of 100 runs: time until its definitions are loaded, against the same catalogue without it.

``python -m benchmarks.sweeps [rounds]``; each load is a process of its own, the two in turn. Seconds of
the processor, which other work on the machine does not stretch.
"""

import os
import subprocess
import sys
import tempfile
from pathlib import Path
from statistics import median

NUM_ROUNDS = 7
SWEEP = """
extends: quickstart
sweep: {learning_rate: [1e-4, 5e-4], seed: [SEEDS]}
""".replace("SEEDS", ", ".join(map(str, range(50))))
LOAD = """
import time
started = time.process_time()
import dagster as dg
imported = time.process_time()
from rm_workflow.definitions import defs
dg.Definitions.validate_loadable(defs)
print(imported - started, time.process_time() - imported)
"""


def main(num_rounds: int = NUM_ROUNDS) -> None:
    """Print the seconds with and without the sweep."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "with/recipes").mkdir(parents=True)
        (folder / "without").mkdir()
        (folder / "with/recipes/many.yaml").write_text(SWEEP)
        found: dict[str, list[float]] = {"with": [], "without": []}
        imports = []
        for _ in range(num_rounds):
            for catalog, seconds in found.items():
                imported, loaded = _load(folder / catalog, folder / "home")
                imports.append(imported)
                seconds.append(loaded)
    print(f"definitions loaded in a new process, median of {num_rounds} (least to most), processor seconds")
    print(f"importing dagster itself: {_told(imports)}")
    print(f"all recipes of the catalogue: {_told(found['without'])}")
    print(f"and a sweep of 100 runs:      {_told(found['with'])}")


def _load(catalog: Path, home: Path) -> tuple[float, float]:
    environment = {**os.environ, "RMW_CATALOG": str(catalog), "RMW_HOME": str(home)}
    ran = subprocess.run([sys.executable, "-c", LOAD], env=environment, capture_output=True, text=True, check=True)
    imported, loaded = map(float, ran.stdout.split()[-2:])
    return imported, loaded


def _told(seconds: list[float]) -> str:
    return f"{median(seconds):.2f} ({min(seconds):.2f} to {max(seconds):.2f})"


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else NUM_ROUNDS)
