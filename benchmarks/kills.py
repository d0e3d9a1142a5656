"""SIGKILL before every call that changes files, for ours and for what others use: ``python -m benchmarks.kills``.

Each side has committed a first result and is killed while it writes the second one, before call k, for each k (evenly
spaced ones where there are more than ``MOST_KILLS``). Then what its documentation says is done: for training the newest
checkpoint is asked for and resumed from, for a value what is downstream is run alone, then all of it.

lost             what was committed, or a newer one, cannot be used without somebody's help
partial visible  a reader is given something that is not whole
repair needed    running the same again fails, or stays wrong, until somebody deletes something
other result     running the same again ends well with other bytes than without a kill
"""

import contextlib
import gc
import io
import json
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks import end

MOST_KILLS = 60
NUM_STEPS = 3
VALUE = {"second": "row " * 50_000, "first": "line " * 50_000}


@dataclass
class Counts:
    """What was found after each kill of one side."""

    kills: int = 0
    lost: int = 0
    partial_visible: int = 0
    repair_needed: int = 0
    other_result: int = 0


@dataclass
class Side:
    """Something that is killed while it writes.

    Attributes:
        begin: commits the first result in a folder.
        write: goes on to the second one.
        judge: looks at a folder after a kill and adds to the counts; it gets the folder of an unkilled twin.
    """

    name: str
    begin: Callable[[Path], object]
    write: Callable[[Path], object]
    judge: Callable[[Path, Path, Counts], object]


def _kill_all(side: Side, most_kills: int) -> Counts:
    from rm_workflow_tests.faults.watched import kill_at, watched

    counts = Counts()
    with tempfile.TemporaryDirectory(prefix="kills-") as name:
        folder = Path(name).resolve()
        begun, twin, counted = folder / "begun", folder / "twin", folder / "counted"
        begun.mkdir()
        side.begin(begun)
        shutil.copytree(begun, twin)
        side.write(twin)
        # What the twin has imported is there for all forks.
        gc.collect()
        gc.freeze()
        shutil.copytree(begun, counted)
        num_calls = len(watched(lambda: side.write(counted), counted).calls)
        kills = min(num_calls, most_kills)
        for number in range(kills):
            home = folder / str(number)
            shutil.copytree(begun, home)
            call = 1 + number * num_calls // kills
            if watched(lambda home=home, call=call: side.write(home), home, kill_at(call)).killed:  # type: ignore[misc]
                counts.kills += 1
                side.judge(home, twin, counts)
            shutil.rmtree(home)
    return counts


def _fails(work: Callable[[], object]) -> bool:
    from rm_workflow_tests.faults.watched import forked

    def alone() -> None:
        work()

    return forked(alone).error is not None


# --- a value -------------------------------------------------------------------------------------------------------


def _assets(which: str) -> list[Any]:
    import dagster as dg

    @dg.asset
    def rows() -> list[str]:
        return VALUE[which].split()

    @dg.asset
    def total(rows: list[str]) -> int:
        return len(rows)

    return [rows, total]


def _materialize(folder: Path, which: str, *names: str) -> Any:
    import dagster as dg

    manager = dg.FilesystemIOManager(base_dir=str(folder))
    result = dg.materialize(
        _assets(which),
        selection=[*names] if names else None,
        resources={"io_manager": manager},
        run_config={"loggers": {"console": {"config": {"log_level": "CRITICAL"}}}},
    )
    return result.output_for_node("total")


def _judge_pickle(folder: Path, twin: Path, counts: Counts) -> None:
    known = {len(text.split()) for text in VALUE.values()}

    def downstream_alone() -> None:
        if _materialize(folder, "second", "total") not in known:
            raise ValueError("a part of the rows")

    if _fails(downstream_alone):
        counts.lost += 1
        counts.partial_visible += 1
    counts.repair_needed += _fails(lambda: _materialize(folder, "second"))
    counts.other_result += (folder / "rows").read_bytes() != (twin / "rows").read_bytes()


def _publish(folder: Path, which: str) -> None:
    from rm_workflow.artifacts import ArtifactStore, Built, Request

    def build(out: Path) -> Built:
        (out / "rows.txt").write_text(VALUE[which])
        return Built({})

    store = ArtifactStore(folder)
    store.sweep()
    store.materialize(Request("rows", "pairs", "1", {"which": which}, requested="rows"), build, "benchmark")


def _judge_home(folder: Path, twin: Path, counts: Counts) -> None:
    from rm_workflow.artifacts import ArtifactStore
    from rm_workflow_tests.faults.homes import look

    found = look(folder)
    counts.partial_visible += bool(found.partial)
    counts.lost += _fails(lambda: ArtifactStore(folder).require("rows", "rows"))
    counts.repair_needed += _fails(lambda: _publish(folder, "second"))
    counts.other_result += look(folder).results() != look(twin).results()


# --- a training ----------------------------------------------------------------------------------------------------


def _stock_trainer(out: Path, steps: int) -> Any:
    """Return transformers' Trainer of a tiny reward model, a checkpoint after each step."""
    import torch
    from transformers import AutoModelForSequenceClassification, Trainer, TrainingArguments

    from rm_workflow_tests.models.tiny import tiny_config

    torch.manual_seed(0)
    config = tiny_config("llama")
    config.num_labels = 1
    model = AutoModelForSequenceClassification.from_config(config)  # type: ignore[no-untyped-call]
    rows = [{"input_ids": [5 + n, 6, 7, 8], "attention_mask": [1] * 4, "labels": float(n % 2)} for n in range(8)]
    arguments = TrainingArguments(
        output_dir=str(out),
        max_steps=steps,
        save_steps=1,
        save_total_limit=2,
        per_device_train_batch_size=4,
        use_cpu=True,
        report_to=[],
        disable_tqdm=True,
        logging_strategy="no",
    )
    return Trainer(model=model, args=arguments, train_dataset=rows)


def _train_stock(out: Path, steps: int = NUM_STEPS) -> None:
    """Train, from the newest checkpoint if there is one, as transformers' own examples do."""
    from transformers.trainer_utils import get_last_checkpoint

    newest = get_last_checkpoint(str(out))  # type: ignore[no-untyped-call]
    _stock_trainer(out, steps).train(resume_from_checkpoint=newest)


def _sizes(checkpoint: Path) -> dict[str, int]:
    """Return the size of each file; that of the Trainer's own record, which holds times, only where it can be read."""
    sizes = {path.name: path.stat().st_size for path in checkpoint.iterdir()}
    with contextlib.suppress(OSError, ValueError):
        sizes["trainer_state.json"] = len(json.loads((checkpoint / "trainer_state.json").read_text("utf-8")))
    return sizes


def _judge_stock(folder: Path, twin: Path, counts: Counts) -> None:
    from transformers.trainer_utils import get_last_checkpoint

    newest = get_last_checkpoint(str(folder))  # type: ignore[no-untyped-call]
    found = Path(newest or folder)
    whole = twin / (found.name if (twin / found.name).is_dir() else f"checkpoint-{NUM_STEPS}")
    is_partial = _sizes(found) != _sizes(whole)
    counts.partial_visible += is_partial
    fails = _fails(lambda: _train_stock(folder))
    counts.lost += fails
    counts.repair_needed += fails
    weights = f"checkpoint-{NUM_STEPS}/model.safetensors"
    counts.other_result += not fails and (folder / weights).read_bytes() != (twin / weights).read_bytes()


@dataclass
class _Ours:
    """Our training of a toy task, which takes a state after every two steps."""

    start: Callable[[Path], object]

    def judge(self, folder: Path, twin: Path, counts: Counts) -> None:
        from rm_workflow_tests.faults.homes import look
        from rm_workflow_tests.faults.kill_loop import steps_lost
        from rm_workflow_tests.faults.pipeline import INTERVAL

        counts.partial_visible += bool(look(folder).partial)
        counts.lost += steps_lost(folder) > INTERVAL
        counts.repair_needed += _fails(lambda: self.start(folder))
        counts.other_result += look(folder).results() != look(twin).results()


@contextlib.contextmanager
def _sides() -> Iterator[list[Side]]:
    from rm_workflow_tests.faults.pipeline import Pipeline

    with tempfile.TemporaryDirectory(prefix="kills-project-") as project:
        ours = _Ours(Pipeline(Path(project)).prepare_training())
        yield [
            Side(
                "artifact of this project",
                lambda folder: _publish(folder, "first"),
                lambda folder: _publish(folder, "second"),
                _judge_home,
            ),
            Side(
                "Dagster's default I/O manager",
                lambda folder: _materialize(folder, "first"),
                lambda folder: _materialize(folder, "second"),
                _judge_pickle,
            ),
            Side("training of this project", lambda folder: None, ours.start, ours.judge),
            Side(
                "transformers' Trainer",
                lambda folder: _train_stock(folder, 1),
                _train_stock,
                _judge_stock,
            ),
        ]


def main(most_kills: int = MOST_KILLS) -> None:
    """Print a line of counts for each side."""
    columns = ("kills", "lost", "partial_visible", "repair_needed", "other_result")
    rows = []
    with _sides() as sides:
        for side in sides:
            print(f"killing: {side.name}", file=sys.stderr)
            with contextlib.redirect_stdout(io.StringIO()):
                rows.append((side.name, _kill_all(side, most_kills)))
    print(f"{'':32s}" + "".join(f"{name.replace('_', ' '):>17s}" for name in columns))
    for name, counts in rows:
        print(f"{name:32s}" + "".join(f"{getattr(counts, column):17,}" for column in columns))


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
    end()
