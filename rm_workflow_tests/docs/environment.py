"""Environment variables: what each does, and which the code reads; makes ``docs/reference/environment.md``."""

import re
from pathlib import Path

PACKAGE = Path(__file__).parents[2] / "rm_workflow"
# A name in quotes; in an f-string or a sentence it only tells of one.
OWN = re.compile(r'"(RMW_[A-Z_]+)"')

VARIABLES = {
    "RMW_HOME": "Where everything is kept: artifacts, lineage, Dagster's own files. Default: `data/home` of the "
    "project, else the user's data folder.",
    "RMW_CATALOG": "A folder with your `sources.yaml`, `pair_sets.yaml`, `benchmarks.yaml` and `recipes/`. Default: "
    "`catalog/` beside `workspace.yaml`.",
    "RMW_DEVICE": "`auto` (default), `cpu` or `cuda`: what scores and trains.",
    "RMW_HUB_MIRROR": "A folder with hub repositories as `<org>/<name>`; what lies there is never asked of the hub.",
    "RMW_ROWS": "A folder with rows that no hub has, as solutions of problems. Default: `data/rows` of the project.",
    "RMW_LAUNCHER": "What runs the processes that train: `local` (default), `ray`, or one of your own.",
    "RMW_RAY_WAIT": "Seconds that a training waits for machines of a Ray cluster.",
    "RMW_RAY_CPUS": "Processors of each worker that tokenises or scores on a Ray cluster, 1 by default.",
    "RMW_MEMORY_LIMIT": "What DuckDB may take of the memory, as `4GB`. Default: a share of what the machine has.",
    "RMW_THREADS": "Threads of DuckDB. Default: the processors of the machine.",
    "RMW_SERVE_TOKEN": "A token that requests to `rmw serve` must bear.",
    "RMW_ENDPOINT_API_KEY": "Key for the `endpoint` of an annotation.",
    "RMW_DEBUG": "Any value: faults of rmw itself are printed with where they arose.",
}
OTHERS = {
    "HF_TOKEN": "Token for gated or private repositories of the Hugging Face hub, and for `rmw push`.",
    "HF_ENDPOINT": "Another address of the hub.",
    "HF_HUB_OFFLINE": "`1`: nothing is asked of the hub.",
    "CUDA_VISIBLE_DEVICES": "Which GPUs there are.",
    "RAY_ADDRESS": "The Ray cluster of the launcher `ray`; without it one is started on this machine.",
    "OMP_NUM_THREADS": "Threads of torch on a CPU.",
    "COLUMNS": "Width of tables; below 100 columns a table that does not fit is printed row by row.",
    "NO_COLOR": "Any value: no colour in tables, help and progress.",
}


def names_in_code() -> set[str]:
    """Return the variables of rmw that a file of the package names as one."""
    return {name for path in PACKAGE.rglob("*.py") for name in OWN.findall(path.read_text("utf-8"))}


def page(made: str) -> str:
    """Return the text of the page."""
    return (
        f"# Environment variables\n\n{made}\nWhat rmw reads from its environment beside options and YAML; none must be "
        f"set.\n\n{_table(VARIABLES)}\nOf others, as the libraries below it read them:\n\n{_table(OTHERS)}"
    )


def _table(variables: dict[str, str]) -> str:
    rows = "".join(f"| `{name}` | {told} |\n" for name, told in variables.items())
    return f"| variable | does |\n| --- | --- |\n{rows}"
