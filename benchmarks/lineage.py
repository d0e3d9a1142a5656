"""The lineage index: writes by several processes beside a reader, and each documented question on a large store.

Every question is asked of a generated home with 400,000 pairs, 100 checkpoints and 10 million item scores, which lie in
Parquet files, through the functions that the command line calls.
"""

import json
import multiprocessing
import statistics
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from multiprocessing.synchronize import Event
from pathlib import Path
from typing import Any

from rm_workflow.artifacts import Artifact, ArtifactStore, Built, ExternalFile, Request
from rm_workflow.database import connect, write_parquet
from rm_workflow.lineage import graph, questions
from rm_workflow.lineage.store import LineageStore
from rm_workflow.preferences import trace

NUM_WRITERS, NUM_WRITES = 6, 25
READER_PAUSE_SECONDS = 0.05
NUM_ROUNDS = 3
NUM_SOURCES, NUM_PAIRS, NUM_CHECKPOINTS, NUM_ITEM_SCORES = 4, 400_000, 100, 10_000_000
# Two scores each, as many in the test split of the smallest mixture.
NUM_TEST_PAIRS = 20_000
NUM_LINES = 500
NUM_TIMES = 5
DROPPED = """
    select
        'row' as stage, source, 'train.jsonl' as file, -1 - n as row, ['a'] as slots, null::varchar as pair_id,
        null::varchar as chosen_id, null::varchar as rejected_id, '{rule}' as rule, '' as reason, '' as detail,
        '' as excerpt
    from {table} order by source, n
"""


def _record(home: Path, number: int) -> None:
    store = ArtifactStore(home)
    lineage = LineageStore(store)
    for _ in range(number):
        store.record("failed_run", "raw_toy", {"run_id": multiprocessing.current_process().name})
        lineage.catch_up()


def _read(home: Path, ended: Event, answers: "multiprocessing.Queue[int]") -> None:
    lineage = LineageStore(ArtifactStore(home))
    number = 0
    while not ended.is_set():
        lineage.query("select count(*) from run_output")
        number += 1
        time.sleep(READER_PAUSE_SECONDS)
    answers.put(number)


def _written(num_writers: int, num_writes: int, with_reader: bool) -> tuple[float, int, int]:
    """Return the seconds, the rows that are found after the last write, and how often the reader was answered."""
    context = multiprocessing.get_context("fork")
    with tempfile.TemporaryDirectory() as folder:
        home = Path(folder)
        LineageStore(ArtifactStore(home)).catch_up()
        ended, answers = context.Event(), context.Queue()
        reader = context.Process(target=_read, args=(home, ended, answers))
        writers = [context.Process(target=_record, args=(home, num_writes)) for _ in range(num_writers)]
        started = time.perf_counter()
        for process in [*([reader] if with_reader else []), *writers]:
            process.start()
        for process in writers:
            process.join()
        seconds = time.perf_counter() - started
        ended.set()
        num_answers = answers.get() if with_reader else 0
        rows = LineageStore(ArtifactStore(home)).query("select count(distinct sequence) from run_output")
        return seconds, rows[0][0], num_answers


def writes() -> None:
    """Print how long 150 writes take one process, and six processes beside a reader, and how many rows are there."""
    total = NUM_WRITERS * NUM_WRITES
    print(f"{total} lineage writes, {NUM_ROUNDS} rounds in turn: seconds, rows found, answers to the reader")
    for _ in range(NUM_ROUNDS):
        alone, rows_alone, _ = _written(1, total, with_reader=False)
        together, rows, answers = _written(NUM_WRITERS, NUM_WRITES, with_reader=True)
        print(f"  1 process                   {alone:6.2f}  {rows_alone} of {total}")
        told = f"{together:6.2f}  {rows} of {total}  {answers:3d}  ratio {together / alone:.2f}"
        print(f"  {NUM_WRITERS} processes and a reader  {told}")


@dataclass(frozen=True)
class Generated:
    """A home of full size, written by hand: four sources, two recipes, of which one has two versions of its data."""

    store: ArtifactStore
    checkpoints: list[Artifact]


def generate(home: Path) -> Generated:
    """Write 400,000 pairs a mixture, 100 checkpoints with their training figures, and 10 million item scores."""
    store = ArtifactStore(home)
    raws = [_publish(store, f"raw_s{n}", "raw", {"n": n}, (), _raw(n)) for n in range(NUM_SOURCES)]
    sets = [_publish(store, f"pairs_s{n}", "pairs", {"n": n}, (raw,), _pair_set(raw)) for n, raw in enumerate(raws)]
    tokens = []
    for recipe, share in (("first", 4), ("first", 5), ("second", 4)):
        mixture = _publish(store, f"{recipe}_mixture", "mixture", {"share": share}, tuple(sets), _mixture(sets, share))
        tokens.append(_publish(store, f"{recipe}_tokens", "tokens", {}, (mixture,), _tokens(mixture)))
    checkpoints = []
    for number in range(NUM_CHECKPOINTS):
        used = tokens[number % len(tokens)]
        recipe = used.asset.removesuffix("_tokens")
        config = {"training": {"learning_rate": 1e-5 * number, "seed": 0}}
        run_config = _publish(store, f"{recipe}_run_config", "run_config", config, (used,), lambda out: Built({}))
        trained = _publish(store, f"{recipe}_checkpoint", "checkpoint", {}, (run_config, used), _trained)
        _publish(store, f"{recipe}_scores", "scores", {}, (trained, used), _scored(used, number))
        checkpoints.append(trained)
    return Generated(store, checkpoints)


def _publish(
    store: ArtifactStore,
    asset: str,
    kind: str,
    parameters: dict[str, Any],
    inputs: tuple[Artifact, ...],
    build: Callable[[Path], Built],
) -> Artifact:
    files = (
        (ExternalFile(f"org/{asset}/train.jsonl", Path("train.jsonl"), "f" * 64, "c" * 40),) if kind == "raw" else ()
    )
    request = Request(asset, kind, "1", parameters, inputs, files)
    return store.materialize(request, build, f"run-{asset}").artifact


def _write(out: Path, **tables: str) -> None:
    with connect() as con:
        for name, query in tables.items():
            write_parquet(con, query, out / f"{name}.parquet")


def _raw(number: int) -> Callable[[Path], Built]:
    def build(out: Path) -> Built:
        rows = f"(select range as n, md5('p{number}-' || range) as prompt_id from range({NUM_PAIRS // NUM_SOURCES}))"
        shown = f"{rows}, unnest(['a', 'b']) as sides (slot)"
        prompts = f"""
            select prompt_id, prompt_id as group_id, [{{'role': 'user', 'content': 'Question ' || n}}] as messages
            from {rows} order by prompt_id
        """
        responses = f"""
            select md5(prompt_id || slot) as response_id, prompt_id, repeat('Reply ' || n || slot || ' ', 8) as text
            from {shown} order by prompt_id, slot
        """
        occurrences = f"""
            select
                md5(prompt_id || slot) as response_id, prompt_id, 's{number}' as source, 'train.jsonl' as file,
                n as row, slot
            from {shown} order by prompt_id, slot
        """
        dropped = DROPPED.format(rule="bad_field", table=f"(select 's{number}' as source, range as n from range(500))")
        _write(out, prompts=prompts, responses=responses, occurrences=occurrences, dropped=dropped)
        used = NUM_PAIRS // NUM_SOURCES
        return Built({"rows": used + 500, "used": used, "dropped": {"bad_field": 500}})

    return build


def _pair_set(raw: Artifact) -> Callable[[Path], Built]:
    def build(out: Path) -> Built:
        occurrences = f"read_parquet('{raw.file('occurrences.parquet')}')"
        pairs = f"""
            select
                md5('pair' || prompt_id) as pair_id, md5('key' || prompt_id) as pair_key, prompt_id,
                md5(prompt_id || 'a') as chosen_id, md5(prompt_id || 'b') as rejected_id, source, file, row
            from {occurrences} where slot = 'a' order by prompt_id
        """
        dropped = DROPPED.format(rule="cap", table=f"(select source, row as n from {occurrences} limit 1000)")
        _write(out, pairs=pairs, dropped=dropped)
        kept = NUM_PAIRS // NUM_SOURCES
        return Built({"candidates": kept + 1000, "kept": kept, "dropped": {"cap": 1000}})

    return build


def _mixture(sets: list[Artifact], share: int) -> Callable[[Path], Built]:
    def build(out: Path) -> Built:
        files = ", ".join(f"'{one.file('pairs.parquet')}'" for one in sets)
        split = f"if(hash(prompt_id) % 20 < {share - 3}, 'test', 'train')"
        _write(
            out,
            pairs=f"select *, {split} as split from read_parquet([{files}]) order by prompt_id",
            dropped=DROPPED.format(rule="leak", table="(select 's0' as source, range as n from range(100))"),
        )
        with connect() as con:
            counted = con.execute(f"select split, count(*) from '{out / 'pairs.parquet'}' group by split").fetchall()
        return Built({"candidates": NUM_PAIRS + 100, "kept": NUM_PAIRS, "dropped": {"leak": 100}, **dict(counted)})

    return build


def _tokens(mixture: Artifact) -> Callable[[Path], Built]:
    def build(out: Path) -> Built:
        pairs = f"select * exclude (file, row) from '{mixture.file('pairs.parquet')}' order by prompt_id"
        _write(out, pairs=pairs, dropped=DROPPED.format(rule="", table="(select '' as source, 0 as n limit 0)"))
        return Built({"pairs": NUM_PAIRS, "kept": NUM_PAIRS, "dropped": {"too_long": 0}})

    return build


def _trained(out: Path) -> Built:
    lines = [{"step": 10 * step, "loss": 0.7, "accuracy": 0.5, "margin": 0.1, "pairs": 80} for step in range(NUM_LINES)]
    (out / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines), "utf-8")
    facts = {"base": "tiny", "objective": "bradley_terry", "num_train_pairs": NUM_PAIRS, "num_steps": 10 * NUM_LINES}
    return Built({**facts, "seconds": 1.0})


def _scored(tokens: Artifact, number: int) -> Callable[[Path], Built]:
    def build(out: Path) -> Built:
        score = f"(hash(pair_id || '{number}') % 1000)::double / 100"
        pairs = f"from '{tokens.file('pairs.parquet')}' where split = 'test'"
        test = f"""
            select pair_id, source, prompt_id as group_id, {score} as score_chosen, 5.0::double as score_rejected
            {pairs} order by pair_id limit {NUM_TEST_PAIRS}
        """
        items = f"""
            select
                'large' as benchmark, md5('item' || range // 4) as item_id, md5('reply' || range) as response_id,
                (hash(range || '{number}') % 1000)::double / 100 as score
            from range({NUM_ITEM_SCORES // NUM_CHECKPOINTS - 2 * NUM_TEST_PAIRS}) order by range
        """
        _write(out, test_pairs=test, item_scores=items)
        score_object = {"score": 0.5, "n": NUM_TEST_PAIRS, "ci_low": 0.49, "ci_high": 0.51}
        per_source = {f"s{n}": score_object for n in range(NUM_SOURCES)}
        return Built({"scores": {"test": {**score_object, "per_source": per_source}, "large": score_object}})

    return build


def answers(generated: Generated) -> None:
    """Print how long each documented question takes, the first time and in the median of five."""
    store, lineage = generated.store, LineageStore(generated.store)
    first, last = generated.checkpoints[0], generated.checkpoints[-1]
    scores = store.require("first_scores")
    mixtures = [store.require(f"{recipe}_mixture") for recipe in ("first", "second")]
    started = time.perf_counter()
    num_events = lineage.rebuild()
    print(f"\n{num_events} events indexed anew in {time.perf_counter() - started:.1f} s")
    latest = [artifact for artifact in map(store.latest, (path.name for path in store.artifacts.iterdir())) if artifact]
    by_kind = {kind: [artifact for artifact in latest if artifact.kind == kind] for kind in trace.KINDS}
    traced = trace.trace("s1:train.jsonl:777", by_kind)["pairs"]
    asked: dict[str, Callable[[], object]] = {
        "lineage SCORES": lambda: graph.upstream(lineage, scores),
        "lineage SCORES --files": lambda: questions.raw_revisions(lineage, scores),
        "trace FILE:ROW, the row": lambda: trace.trace("s1:train.jsonl:777", by_kind),
        "trace FILE:ROW, the checkpoints": lambda: questions.checkpoints_trained_on(lineage, store, traced),
        "funnel RECIPE": lambda: questions.funnel(lineage, "first_mixture"),
        "diff A B": lambda: (questions.changes(lineage, first, last), questions.train_pairs(store, first, last)),
        "shared A B": lambda: questions.shared(*mixtures),
        "worst CHECKPOINT --source S": lambda: questions.worst_pairs(lineage, store, last, "s2"),
        "history": lambda: questions.counts_over_runs(lineage),
    }
    print(f"question (ms): first, median of {NUM_TIMES} more, and of their time on all cores")
    for name, ask in asked.items():
        seconds = [_seconds(ask) for _ in range(NUM_TIMES + 1)]
        wall, cores = (statistics.median(times) for times in zip(*seconds[1:], strict=True))
        print(f"  rmw {name:36s} {1000 * seconds[0][0]:7.0f} {1000 * wall:7.0f} {1000 * cores:7.0f}")


def _seconds(ask: Callable[[], object]) -> tuple[float, float]:
    """Return the seconds that passed, and those of all cores, which other programs on the machine change less."""
    started, worked = time.perf_counter(), time.process_time()
    ask()
    return time.perf_counter() - started, time.process_time() - worked


def main() -> None:
    """Print both parts."""
    writes()
    with tempfile.TemporaryDirectory() as folder:
        started = time.perf_counter()
        generated = generate(Path(folder))
        print(f"\ngenerated in {time.perf_counter() - started:.0f} s")
        answers(generated)


if __name__ == "__main__":
    main()
