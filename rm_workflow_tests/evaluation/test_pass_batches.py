"""Passes that are sent away have the scores that the scorer itself gives; on a cluster: ``test_ray_data.py``."""

import json
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from rm_workflow.evaluation.batching import Layout
from rm_workflow.evaluation.parts import Parts
from rm_workflow.evaluation.pass_batches import elsewhere
from rm_workflow.evaluation.scorer import Scorer
from rm_workflow.map_batches import Work, made
from rm_workflow_tests.evaluation.checkpoints import write_checkpoint


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_checkpoint(tmp_path_factory.mktemp("model"))


def last_first(work: Work, batches: Iterable[pa.RecordBatch], folder: Path) -> Iterator[tuple[int, pa.Table]]:
    """Map batches by a second worker, which knows what may be written as JSON alone, in an order of its own."""
    worker = made(work.worker, json.loads(json.dumps(dict(work.arguments))))
    yield from reversed([(number, worker(batch)) for number, batch in enumerate(batches)])


def sequences() -> list[list[int]]:
    """Three prompts with four replies of ragged lengths, two of which begin alike, one sequence twice."""
    drawn = np.random.default_rng(0)
    made = []
    for _ in range(3):
        prompt = drawn.integers(10, 250, 20).tolist()
        steps = [*prompt, *drawn.integers(10, 250, 12).tolist()]
        made += [[*steps, 5], [*steps, 6, 7], [*prompt, 8], [*prompt, *drawn.integers(10, 250, 9).tolist()]]
    return [*made, made[0]]


@pytest.mark.parametrize("layout", ["shared", "padded", "alone"])
def test_passes_that_are_computed_elsewhere_have_the_same_bits(model: Path, tmp_path: Path, layout: Layout):
    scorer = Scorer.load(model, batch_tokens=80, layout=layout)
    asked = sequences()
    reads = [[3, len(one) - 1] for one in asked]
    here = scorer.score_reads(asked, reads)
    answered: list[int] = []
    there = scorer.score_reads(
        asked, reads, lambda done, total: answered.append(done), None, elsewhere(last_first, scorer, tmp_path)
    )
    assert len(answered) > 2
    assert [one.tolist() for one in there] == [one.tolist() for one in here]


def test_scores_that_are_there_are_not_asked_for_again(model: Path, tmp_path: Path):
    scorer, asked = Scorer.load(model, layout="alone"), sequences()
    reads = [[len(one) - 1] for one in asked]
    scorer.score_reads(asked[:4], reads[:4], parts=Parts(tmp_path))
    numbers: list[int] = []

    def counting(work: Work, batches: Iterable[pa.RecordBatch], folder: Path) -> Iterator[tuple[int, pa.Table]]:
        for number, table in last_first(work, batches, folder):
            numbers.append(number)
            yield number, table

    scorer.score_reads(asked, reads, parts=Parts(tmp_path), compute=elsewhere(counting, scorer, tmp_path))
    assert sorted(numbers) == list(range(8))
    assert Parts(tmp_path).num_found == 12
