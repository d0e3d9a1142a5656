"""``<recipe>_rollouts``: solutions of problems, and completions from each of their steps but the last.

``trajectories.parquet`` and ``completions.parquet``::

    prompt_id 09ab..  trajectory 0  text "Step 1: 2 + 3 = 5.\\nThe answer is: 5"  step_ends [18, 35]  finished true
    prompt_id 09ab..  prefix_id 5d..  prefix "Step 1: 2 + 3 = 5."  number 0  text "The answer is: 5"  finished true

Solutions that begin alike share the completions from there. Each problem is written when it is done, so that a run that
was ended goes on with the next one; a problem's texts depend on no other problem.
"""

import hashlib
import json
import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from rm_workflow.annotation.generators import Completion, Generator
from rm_workflow.artifacts import Built, Check
from rm_workflow.catalog.models import Annotation
from rm_workflow.database import connect
from rm_workflow.durable_files import write_whole
from rm_workflow.errors import UserError
from rm_workflow.keys import content_id
from rm_workflow.preferences.adapters._steps import step_ends
from rm_workflow.preferences.sql import dict_rows, keyed_hash_sql, read_table
from rm_workflow.preferences.tables import Message

logger = logging.getLogger(__name__)

Progress = Callable[[int, int], None]
PROBLEM = "{problem}"

TRAJECTORIES = pa.schema(
    [
        ("prompt_id", pa.string()),
        ("trajectory", pa.int32()),
        ("text", pa.string()),
        ("step_ends", pa.list_(pa.int32())),
        ("finished", pa.bool_()),
    ]
)
COMPLETIONS = pa.schema(
    [
        ("prompt_id", pa.string()),
        ("prefix_id", pa.string()),
        ("prefix", pa.string()),
        ("number", pa.int32()),
        ("text", pa.string()),
        ("finished", pa.bool_()),
    ]
)
PROBLEMS = """
    -- problems with a reference answer in their train files, in the order of a keyed hash; the first ones are taken
    with answered as (
        select prompt_id, any_value(json_extract_string(extra, '$.final_answer') order by file, row, slot) as gold
        from {shown}
        where file in ({files})
        group by prompt_id
    )
    select
        prompt_id, group_id, gold, messages,
        list_last([message.content for message in messages if message.role = 'user']) as problem
    from answered join {prompts} using (prompt_id)
    where gold is not null
    order by {draw}, prompt_id
    limit {limit}
"""


@dataclass(frozen=True)
class Problem:
    """A problem with its reference answer.

    Attributes:
        messages: the prompt as the source has it.
        text: its last user turn.
    """

    prompt_id: str
    group_id: str
    gold: str
    messages: list[Message]
    text: str


def read_problems(raw: Path, annotation: Annotation, files: Sequence[str]) -> list[Problem]:
    """Return the problems that a recipe annotates, in the order of their ids.

    Args:
        raw: folder of the source of problems.
        files: of its train split; test problems are never annotated.

    Raises:
        UserError: the source has no problem with a reference answer.
    """
    query = PROBLEMS.format(
        shown=read_table(raw / "occurrences.parquet"),
        prompts=read_table(raw / "prompts.parquet"),
        files=", ".join(f"'{file}'" for file in files) or "''",
        draw=keyed_hash_sql("problems", annotation.seed, "prompt_id"),
        limit=annotation.num_problems or "all",
    )
    with connect() as con:
        rows = dict_rows(con, query)
    if not rows:
        raise UserError(
            f"annotation.problems: source '{annotation.problems}' has no train problem with a reference answer; name "
            "one whose adapter is reference_answer, for instance gsm8k"
        )
    problems = [
        Problem(row["prompt_id"], row["group_id"], row["gold"], row["messages"], row["problem"]) for row in rows
    ]
    return sorted(problems, key=lambda problem: problem.prompt_id)


def build_rollouts(
    problems: Sequence[Problem],
    annotation: Annotation,
    generator: Generator,
    work: Path,
    out: Path,
    progress: Progress | None = None,
) -> Built:
    """Write the two tables, going on with what stands in ``work``.

    Args:
        work: a folder that stays when the build is ended; it belongs to these problems, settings and generator.
        progress: told (problems done, all).

    Returns:
        facts ``problems``, ``trajectories``, ``prefixes``, ``completions``, ``unfinished`` (texts cut at the most
        tokens) and ``taken_up`` (problems that an earlier, ended run had done).
    """
    taken_up = 0
    started = time.monotonic()
    for done, problem in enumerate(problems, start=1):
        path = work / f"{problem.prompt_id}.json"
        if _read_whole(path) is not None:
            taken_up += 1
        else:
            write_whole(path, _sealed(_roll_out(problem, annotation, generator)))
            if done == taken_up + 1 < len(problems):
                left = len(problems) - done
                hours = (time.monotonic() - started) * left / 3600
                logger.info("after one problem: about %.2g hours more for %d problems", hours, left)
        if progress:
            progress(done, len(problems))
    rolled_out = [(problem, _read_whole(work / f"{problem.prompt_id}.json") or {}) for problem in problems]
    trajectories = [row for problem, found in rolled_out for row in _trajectory_rows(problem, found, annotation)]
    completions = [row for problem, found in rolled_out for row in _completion_rows(problem, found)]
    _write(trajectories, TRAJECTORIES, out / "trajectories.parquet")
    _write(completions, COMPLETIONS, out / "completions.parquet")
    prefixes = len({row["prefix_id"] for row in completions})
    facts = {
        "problems": len(problems),
        "trajectories": len(trajectories),
        "prefixes": prefixes,
        "completions": len(completions),
        "unfinished": sum(not row["finished"] for row in (*trajectories, *completions)),
        "taken_up": taken_up,
    }
    whole = Check(
        "every_problem_is_rolled_out",
        len(trajectories) == len(problems) * annotation.trajectories
        and len(completions) == prefixes * annotation.completions,
        "Every problem has all its solutions, every start all its completions.",
        {name: facts[name] for name in ("problems", "trajectories", "prefixes", "completions")},
    )
    return Built(facts, (whole,))


def steps_of(text: str, annotation: Annotation) -> list[int]:
    """Return where the steps of a solution end; one without a separator is one step."""
    return step_ends(text, annotation.step_separator) or []


def prefixes_of(text: str, annotation: Annotation) -> list[str]:
    """Return the starts of a solution from which completions are drawn: up to each step but the last."""
    return [text[:end] for end in steps_of(text, annotation)[:-1]]


def start_after(prefix: str, annotation: Annotation) -> str:
    """Return a start of a solution with what stands before the next step; a mark belongs to the step before it."""
    separator = annotation.step_separator
    return prefix + separator.removeprefix(separator.rstrip())


def prefix_id(prompt_id: str, prefix: str) -> str:
    """Return the id of a start of a solution."""
    return content_id([prompt_id, prefix])


def _roll_out(problem: Problem, annotation: Annotation, generator: Generator) -> dict[str, Any]:
    # Not str.format: a problem in LaTeX is full of braces.
    prompt = annotation.prompt.replace(PROBLEM, problem.text)
    (trajectories,) = generator.complete([prompt], annotation.trajectories, annotation.seed)
    trajectories = [Completion(one.text.rstrip(), one.finished) for one in trajectories]
    prefixes = list(dict.fromkeys(prefix for one in trajectories for prefix in prefixes_of(one.text, annotation)))
    asked = [f"{prompt}{start_after(prefix, annotation)}" for prefix in prefixes]
    completed = generator.complete(asked, annotation.completions, annotation.seed) if asked else []
    return {
        "trajectories": [asdict(one) for one in trajectories],
        "prefixes": [
            {"prefix": prefix, "completions": [asdict(one) for one in found]}
            for prefix, found in zip(prefixes, completed, strict=True)
        ],
    }


def _sealed(found: dict[str, Any]) -> str:
    """Return a text whose first line is the hash of the rest, so that a damaged file is told."""
    text = json.dumps(found, ensure_ascii=True)
    return f"{hashlib.sha256(text.encode()).hexdigest()}\n{text}"


def _read_whole(path: Path) -> dict[str, Any] | None:
    """Return what a file holds, None where it is not there or damaged."""
    if not path.is_file():
        return None
    sha256, _, text = path.read_text("utf-8", errors="replace").partition("\n")
    if hashlib.sha256(text.encode()).hexdigest() != sha256:
        logger.warning("%s is damaged, by its sha256; its problem is rolled out again", path)
        return None
    found: dict[str, Any] = json.loads(text)
    return found


def _trajectory_rows(problem: Problem, found: dict[str, Any], annotation: Annotation) -> list[dict[str, Any]]:
    return [
        {"prompt_id": problem.prompt_id, "trajectory": number, "step_ends": steps_of(one["text"], annotation), **one}
        for number, one in enumerate(found["trajectories"])
    ]


def _completion_rows(problem: Problem, found: dict[str, Any]) -> list[dict[str, Any]]:
    return [
        {
            "prompt_id": problem.prompt_id,
            "prefix_id": prefix_id(problem.prompt_id, start["prefix"]),
            "prefix": start["prefix"],
            "number": number,
            **one,
        }
        for start in found["prefixes"]
        for number, one in enumerate(start["completions"])
    ]


def _write(rows: list[dict[str, Any]], schema: pa.Schema, path: Path) -> None:
    pq.write_table(pa.Table.from_pylist(rows, schema), path, compression="zstd")
