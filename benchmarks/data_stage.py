"""From raw rows to a split, decontaminated mixture.

``python -m benchmarks.data_stage [PROMPTS] [ROUNDS]``: synthetic prompts with four rated completions each, in the
schema of UltraFeedback (``synthetic.py``), against 3,000 benchmark items. The rival is the same logic row by row with
``datasets`` (``row_by_row.py``); both must drop the same numbers of pairs by rule. Each side runs in a process of its
own, in turn; one more run of ours with a single thread must write the same bytes.

``python -m benchmarks.data_stage large``: ours alone on 64,000 prompts and on 2 million candidates, with DuckDB held to
3 GB (``RMW_MEMORY_LIMIT``).
"""

import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks import end
from benchmarks.synthetic import ASPECTS, NUM_PROMPTS, rated_lists, write_rated_lists
from rm_workflow.database import connect, num_threads
from rm_workflow.keys import content_id, file_sha256

NUM_ROUNDS = 3
LARGE_PROMPTS = 333_334
NUM_ITEMS = 3_000
SIDES = ("ours", "rival")
STAGES = ("raw", "pairs", "mixture")
RULES = ("rating", "equal_score", "identical_responses", "exact_duplicate", "cap")


def main(num_prompts: int = NUM_PROMPTS, num_rounds: int = NUM_ROUNDS) -> None:
    """Print seconds by stage, peak memory and the ratio to the rival."""
    with tempfile.TemporaryDirectory() as folder:
        inputs = Path(folder)
        _write_inputs(inputs, num_prompts)
        print(f"{num_rounds} interleaved rounds: median (least to most)", flush=True)
        runs = [{side: _in_process(side, inputs) for side in SIDES} for _ in range(num_rounds)]
        one_thread = _in_process("ours", inputs, RMW_THREADS="1")
    for side in SIDES:
        _report(side, [run[side] for run in runs])
    for stage in ("pairs", "all"):
        ratios = [_seconds(run["rival"], stage) / _seconds(run["ours"], stage) for run in runs]
        print(f"  ratio {stage:8s} {_spread(ratios, 1)}")
    if any(run["ours"]["dropped"] != run["rival"]["dropped"] for run in runs):
        sys.exit(f"the sides differ: {runs[0]['ours']['dropped']} and {runs[0]['rival']['dropped']}")
    same = len({one_thread["digest"], *(run["ours"]["digest"] for run in runs)}) == 1
    if not same:
        sys.exit("the runs wrote different bytes")
    print(f"  bytes of {num_rounds} runs and of one with a single thread: the same")


def large() -> None:
    """Print seconds and memory of ours on 64,000 prompts and on 2 million candidates, and how far from linear."""
    seconds = []
    for num_prompts in (NUM_PROMPTS, LARGE_PROMPTS):
        with tempfile.TemporaryDirectory() as folder:
            _write_inputs(Path(folder), num_prompts)
            run = _in_process("ours", Path(folder), RMW_MEMORY_LIMIT="3GB")
        print(flush=True)
        _report("ours", [run])
        seconds.append(_seconds(run, "all"))
    growth = LARGE_PROMPTS / NUM_PROMPTS
    print(f"  {growth:.2f} times the rows take {seconds[1] / seconds[0]:.2f} times as long")


def _write_inputs(inputs: Path, num_prompts: int) -> None:
    write_rated_lists(inputs / "rows.jsonl", num_prompts)
    _write_items(inputs / "items.jsonl")
    size = (inputs / "rows.jsonl").stat().st_size / 1e6
    print(f"{num_prompts:,} prompts, {6 * num_prompts:,} candidates, {size:,.0f} MB, {NUM_ITEMS:,} items;", end=" ")


def _report(side: str, runs: list[dict[str, Any]]) -> None:
    for stage in (*STAGES, "all"):
        print(f"  {side:5s} {stage:8s} {_spread([_seconds(run, stage) for run in runs], 1)} s")
    print(f"  {side:5s} {'memory':8s} {_spread([run['peak_gb'] for run in runs], 2)} GB")
    if side == "ours":
        print(f"  {side:5s} {'a drop':8s} {_spread([run['asked'] for run in runs], 3)} s to ask for one by its id")


def _seconds(run: dict[str, Any], stage: str) -> float:
    return float(sum(run["seconds"].values()) if stage == "all" else run["seconds"][stage])


def _spread(values: list[float], digits: int) -> str:
    return f"{statistics.median(values):8.{digits}f} ({min(values):.{digits}f} to {max(values):.{digits}f})"


def _in_process(side: str, inputs: Path, **environment: str) -> dict[str, Any]:
    with tempfile.TemporaryDirectory(dir=inputs) as out:
        command = [sys.executable, "-m", "benchmarks.data_stage", side, str(inputs), out]
        variables = {**os.environ, **environment}
        done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, env=variables)
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def _write_items(path: Path) -> None:
    """Write benchmark items in the schema of RewardBench, from the same words with another seed."""
    with path.open("w", encoding="utf-8") as file:
        for number, row in enumerate(rated_lists(NUM_ITEMS, seed=1)):
            chosen, rejected = row["completions"][:2]
            item = {
                "prompt": row["instruction"],
                "chosen": chosen["response"],
                "chosen_model": "m",
                "rejected": rejected["response"],
                "rejected_model": "m",
                "subset": "alpacaeval-easy",
                "id": number,
            }
            file.write(json.dumps(item) + "\n")


# One side, in its own process -----------------------------------------------------------------------------------------


def _run_side(side: str, inputs: Path, out: Path) -> None:
    seconds: dict[str, float] = {}

    def timed(stage: str, work: Callable[[], Any]) -> Any:
        started = time.perf_counter()
        found = work()
        seconds[stage] = time.perf_counter() - started
        return found

    found = (_ours if side == "ours" else _rival)(inputs, out, timed)
    own, largest_child = (
        resource.getrusage(who).ru_maxrss / 1e6 for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)
    )
    # As if all processes had their peak at once.
    peak = own + (num_threads() * largest_child if side == "ours" else 0)
    print(json.dumps({"seconds": seconds, "peak_gb": peak, **found}))


def _ours(inputs: Path, out: Path, timed: Callable[[str, Callable[[], Any]], Any]) -> dict[str, Any]:
    from rm_workflow.catalog.models import Benchmark, Mixture, PairSet, Source
    from rm_workflow.evaluation.benchmarks import build_benchmark
    from rm_workflow.hub import SourceFile
    from rm_workflow.preferences.mixture import Member, build_mixture
    from rm_workflow.preferences.pairs import build_pair_set
    from rm_workflow.preferences.raw import build_raw

    folders = {name: out / name for name in (*STAGES, "benchmark")}
    for folder in folders.values():
        folder.mkdir()
    columns = {"prompt": "instruction", "text": "response", "ratings": "annotations"}
    files = {"train": ["rows.jsonl"]}
    source = Source(path=str(inputs), files=files, adapter="scored_completions", columns=columns, licence="none")
    rules = [
        "rating",
        "equal_score",
        "identical_responses",
        "exact_duplicate",
        {"cap": {"max_pairs": 5, "per": "prompt"}},
    ]
    pair_set = PairSet.model_validate(
        {"source": "synthetic", "candidates": "rated", "score": list(ASPECTS), "rules": rules}
    )
    mixture = Mixture.model_validate(
        {"pair_sets": ["synthetic"], "split": {"by": "hash"}, "decontaminate_against": ["items"]}
    )
    benchmark = Benchmark(path=str(inputs), files={"test": ["items.jsonl"]}, scoring="rewardbench", licence="none")

    def file(name: str) -> SourceFile:
        return SourceFile("train", name, inputs / name, f"synthetic/{name}", "")

    build_benchmark("items", benchmark, [file("items.jsonl")], folders["benchmark"])
    timed("raw", lambda: build_raw("synthetic", source, [file("rows.jsonl")], folders["raw"]))
    built = timed("pairs", lambda: build_pair_set("synthetic", pair_set, folders["raw"], folders["pairs"]))
    member = Member("synthetic", "synthetic", source, folders["pairs"], folders["raw"])
    timed("mixture", lambda: build_mixture(mixture, [member], {"items": folders["benchmark"]}, folders["mixture"]))
    written = sorted(path for stage in STAGES for path in folders[stage].glob("*.parquet"))
    return {
        "dropped": {rule: built.facts["dropped"][rule] for rule in RULES},
        "digest": content_id([file_sha256(path) for path in written]),
        "asked": _ask(folders),
    }


def _ask(folders: dict[str, Path]) -> float:
    """Return the seconds that one query takes for rule, reason and twin of a dropped pair."""
    drops = f"read_parquet([{', '.join(repr(str(folders[stage] / 'dropped.parquet')) for stage in STAGES)}])"
    with connect() as con:
        (pair_id,) = con.execute(f"select max(pair_id) from {drops}").fetchone() or ("",)
        started = time.perf_counter()
        con.execute(f"select rule, reason, detail from {drops} where pair_id = ?", [pair_id]).fetchall()
        return time.perf_counter() - started


def _rival(inputs: Path, out: Path, timed: Callable[[str, Callable[[], Any]], Any]) -> dict[str, Any]:
    os.environ["HF_HOME"] = str(out)
    import datasets

    from benchmarks import row_by_row

    datasets.disable_progress_bars()
    items = [json.loads(line) for line in (inputs / "items.jsonl").open(encoding="utf-8")]
    rows = timed("raw", lambda: row_by_row.read_rows(inputs / "rows.jsonl", out))
    pairs, dropped = timed("pairs", lambda: row_by_row.build_pairs(rows))
    timed("mixture", lambda: row_by_row.build_mixture(pairs, items, out / "mixture.parquet"))
    return {"dropped": {rule: dropped[rule] for rule in RULES}}


if __name__ == "__main__":
    if sys.argv[1:2] in (["ours"], ["rival"]):
        _run_side(sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3]))
    elif sys.argv[1:] == ["large"]:
        large()
    else:
        main(*map(int, sys.argv[1:]))
    end()
