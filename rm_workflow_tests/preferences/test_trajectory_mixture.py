"""Solutions with step labels: which labels count, what is dropped, nothing vanishes, problems whole on one side."""

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import given as given_examples
from hypothesis import strategies as st

from rm_workflow.artifacts import Built
from rm_workflow.catalog.models import Mixture, Sample, Source, Split
from rm_workflow.errors import UserError
from rm_workflow.keys import content_id
from rm_workflow.preferences.overlap import build_overlap
from rm_workflow.preferences.show import dropped_rows, kept_rows
from rm_workflow.preferences.trajectory_mixture import RULES, TrajectoryPart, build_trajectory_mixture
from rm_workflow_tests.preferences.raw_tables import RawRow, Shown, read, write_benchmark, write_raw

FILES = {"train": ["train.jsonl"], "test": ["test.jsonl"]}
# The labels of a solution's steps, of one kind; None for a step without label.
Steps = Sequence[float | None]


def solution(steps: Steps, kind: str = "hard", name: str = "s", slot: str = "0") -> Shown:
    """Return a solution whose steps are ``s0``, ``s1``, ... one a line."""
    texts = [f"{name}{number}" for number in range(len(steps))]
    ends = [len("\n".join(texts[: number + 1])) for number in range(len(texts))]
    labels = [(kind, step, value) for step, value in enumerate(steps) if value is not None]
    return Shown(slot, "\n".join(texts) or name, step_ends=ends, labels=labels)


def solved(prompt: str, *solutions: Steps, row: int = 1, file: str = "train.jsonl", kind: str = "hard") -> RawRow:
    shown = [solution(steps, kind, f"{chr(97 + n)}", str(n)) for n, steps in enumerate(solutions)]
    return RawRow(prompt, shown, row, file)


def mix(
    folder: Path,
    rows: Mapping[str, Sequence[RawRow]],
    uses: Mapping[str, Mapping] | None = None,
    benchmarks: Mapping[str, Path] | None = None,
    **fields,
) -> tuple[Built, list[dict], list[dict]]:
    uses, benchmarks = uses or {name: {} for name in rows}, benchmarks or {}
    mixture = Mixture(
        kind="trajectories",
        trajectories=[{name: dict(use)} if use else name for name, use in uses.items()],
        decontaminate_against=list(benchmarks),
        **{"split": Split(by="native"), **fields},
    )
    source = Source(path="somewhere", files=FILES, adapter="any", licence="MIT")
    out = folder / "out"
    out.mkdir(parents=True)
    parts = [
        TrajectoryPart(use, source, write_raw(folder / use.name, rows[use.name], use.name))
        for use in mixture.trajectories
    ]
    built = build_trajectory_mixture(mixture, parts, benchmarks, out)
    return built, read(out / "labelled.parquet"), read(out / "dropped.parquet")


def test_a_solution_has_one_value_a_step_and_the_least_of_them_as_its_score(tmp_path: Path):
    rows = [solved("Q", [1, 1, 1], [1, None, 0], [None, 1])]
    built, labelled, dropped = mix(tmp_path, {"one": rows})
    found = {row["slot"]: (row["step_ends"], row["values"], row["score"], row["rank"]) for row in labelled}
    assert found == {
        "0": ([2, 5, 8], [1, 1, 1], 1, 1),
        "1": ([2, 5, 8], [1, None, 0], 0, 2),
        "2": ([2, 5], [None, 1], 1, 1),
    }
    assert dropped == []
    assert built.facts["steps"] == {"train": {"right": 5, "wrong": 1, "between": 0, "unlabelled": 2}}
    assert all(check.passed for check in built.checks)


def test_pairs_are_solutions_of_one_problem_one_of_which_has_a_worse_step(tmp_path: Path):
    built, _, _ = mix(tmp_path, {"one": [solved("Q", [1, 1], [1, 0], [1, 1, 1]), solved("R", [0], row=2)]})
    pairs = read(tmp_path / "out" / "pairs.parquet")
    assert [(pair["chosen_score"], pair["rejected_score"]) for pair in pairs] == [(1, 0), (1, 0)]
    assert (built.facts["train_pairs"], built.facts["test_pairs"]) == (2, 0)


def test_a_solution_without_steps_or_without_labels_is_dropped_and_counted(tmp_path: Path):
    rows = [
        RawRow("Q", [Shown("0", "no marks in here"), Shown("1", "nor here", step_ends=[])], 1),
        solved("Q", [None, None], [1], row=2),
    ]
    built, labelled, dropped = mix(tmp_path, {"one": rows})
    assert [(drop["row"], drop["slots"], drop["rule"], drop["detail"]) for drop in dropped] == [
        (1, ["0"], "no_step", "one"),
        (1, ["1"], "no_step", "one"),
        (2, ["0"], "no_label", "2 steps"),
    ]
    assert len(labelled) == 1
    assert list(built.facts["dropped"]) == list(RULES)


@pytest.mark.parametrize(
    ("neutral", "values"), [("drop_step", [1, None, 0]), ("positive", [1, 1, 0]), ("negative", [1, 0, 0])]
)
def test_a_neutral_rating_becomes_what_the_recipe_says(tmp_path: Path, neutral: str, values: Steps):
    rows = {"one": [solved("Q", [1, 0, -1], kind="rating")]}
    _, labelled, _ = mix(tmp_path, rows, {"one": {"neutral": neutral}})
    assert labelled[0]["values"] == values


def test_neutral_ratings_that_the_recipe_does_not_mention_are_refused(tmp_path: Path):
    with pytest.raises(UserError, match=r"'one' has 1 neutral ratings; say .* one: \{neutral: drop_step\}"):
        mix(tmp_path, {"one": [solved("Q", [1, 0, -1], kind="rating")]})


def test_a_solution_of_neutral_steps_alone_has_no_label_left(tmp_path: Path):
    rows = {"one": [solved("Q", [0, 0], [1, -1], kind="rating")]}
    built, labelled, _ = mix(tmp_path, rows, {"one": {"neutral": "drop_step"}})
    assert (len(labelled), built.facts["dropped"]["no_label"]) == (1, 1)


def test_soft_labels_stay_numbers_or_become_right_where_any_completion_is(tmp_path: Path):
    rows = {"one": [solved("Q", [1, 0.25, 0], kind="soft")]}
    _, soft, _ = mix(tmp_path / "soft", rows, {"one": {"labels": "soft"}})
    _, hard, _ = mix(tmp_path / "hard", rows)
    assert (soft[0]["values"], soft[0]["score"]) == ([1, 0.25, 0], 0)
    assert hard[0]["values"] == [1, 1, 0]


def test_of_hard_and_soft_labels_of_one_solution_those_count_that_are_asked_for(tmp_path: Path):
    both = Shown("0", "a0\na1", step_ends=[2, 5], labels=[("hard", 0, 1), ("soft", 0, 0.5), ("hard", 1, 0)])
    rows = {"one": [RawRow("Q", [both], 1)]}
    _, soft, _ = mix(tmp_path / "soft", rows, {"one": {"labels": "soft"}})
    _, hard, _ = mix(tmp_path / "hard", rows)
    assert (soft[0]["values"], hard[0]["values"]) == ([0.5, None], [1, 0])


@pytest.mark.parametrize(
    ("kind", "use", "words"),
    [
        ("hard", {"labels": "soft"}, "source 'one' has no soft labels of steps; it has hard ones"),
        ("outcome", {}, "source 'one' has no hard labels of steps; take it into a mixture of kind responses"),
    ],
)
def test_labels_that_a_source_does_not_have_are_refused(tmp_path: Path, kind: str, use: Mapping, words: str):
    shown = Shown("0", "a0", step_ends=[2], labels=[(kind, None if kind == "outcome" else 0, 1)])
    with pytest.raises(UserError, match=words):
        mix(tmp_path, {"one": [RawRow("Q", [shown], 1)]}, {"one": use})


def test_a_repeated_solution_stays_once_with_the_labels_of_all_its_showings(tmp_path: Path):
    rows = [solved("Q", [1, None]), solved("Q", [None, 0], row=2), solved("Q", [1, 0], row=3)]
    _, labelled, dropped = mix(tmp_path, {"one": rows})
    assert [(row["row"], row["values"]) for row in labelled] == [(1, [1, 0])]
    assert [(drop["row"], drop["rule"]) for drop in dropped] == [(2, "exact_duplicate"), (3, "exact_duplicate")]
    assert {drop["detail"] for drop in dropped} == {labelled[0]["label_id"]}


def test_a_solution_with_two_labels_for_one_step_is_not_taken_at_all(tmp_path: Path):
    rows = [solved("Q", [1, 1], [1]), solved("Q", [1, 0], row=2)]
    _, labelled, dropped = mix(tmp_path, {"one": rows})
    assert [row["slot"] for row in labelled] == ["1"]
    assert [(drop["row"], drop["rule"], drop["detail"]) for drop in dropped] == [
        (1, "contradictory", "values[1]: 0 and 1"),
        (2, "contradictory", "values[1]: 0 and 1"),
    ]


def test_a_solution_that_two_sources_label_is_kept_by_the_first(tmp_path: Path):
    rows = {"b": [solved("Q", [1, 0])], "a": [solved("Q", [1, 1], [1])]}
    _, labelled, dropped = mix(tmp_path, rows)
    assert {row["source"]: row["values"] for row in labelled} == {"b": [1, 0], "a": [1]}
    assert [(drop["source"], drop["rule"]) for drop in dropped] == [("a", "duplicate_across_sources")]


def test_all_solutions_of_a_problem_stand_on_one_side_of_a_split_by_hash(tmp_path: Path):
    rows = [RawRow(f"Q{n % 40}", [solution([1, 0], name=f"{n}")], n) for n in range(80)]
    built, labelled, _ = mix(tmp_path, {"one": rows}, split=Split(by="hash", test_share=0.3))
    sides = {row["prompt_id"]: set() for row in labelled}
    for row in labelled:
        sides[row["prompt_id"]].add(row["split"])
    assert {len(side) for side in sides.values()} == {1}
    assert built.facts["test"] == 2 * sum(side == {"test"} for side in sides.values()) > 0


def test_a_sample_takes_whole_problems_of_train_and_leaves_the_test_problems(tmp_path: Path):
    rows = [solved(f"Q{n}", [1], [0, 1], row=n) for n in range(6)] + [solved("T", [1], file="test.jsonl")]
    built, labelled, _ = mix(tmp_path, {"one": rows}, sample=Sample(train_prompts=2))
    train = {row["prompt_id"] for row in labelled if row["split"] == "train"}
    draws = sorted((content_id(["sample", 0, row.prompt_id]), row.prompt_id) for row in rows[:6])
    assert train == {prompt_id for _, prompt_id in draws[:2]}
    assert (built.facts["train"], built.facts["test"], built.facts["dropped"]["sample"]) == (4, 1, 8)


@pytest.mark.parametrize("policy", ["drop", "mark"])
def test_solutions_of_a_benchmark_problem_are_dropped_or_marked_and_the_verdict_says_so(tmp_path: Path, policy: str):
    question = "How many apples has Tom got after he buys three more of them at the market in town today?"
    benchmark = write_benchmark(tmp_path / "exam", {"1": question})
    rows = [solved(question, [1, 1], [1]), solved("2+2?", [1], row=2)]
    built, labelled, _ = mix(tmp_path, {"one": rows}, benchmarks={"exam": benchmark}, leak_policy=policy)
    marked = [row for row in labelled if row["leak"]]
    assert (built.facts["dropped"]["leak"], len(marked)) == ((2, 0) if policy == "drop" else (0, 2))
    assert built.facts["leaks"]["exam"]["prompts"] == 1
    assert all(check.passed for check in built.checks)
    mixture = Mixture(kind="trajectories", trajectories=["one"], split=Split(by="native"))
    (tmp_path / "overlap").mkdir()
    told = build_overlap(
        mixture, tmp_path / "out", [tmp_path / "one"], {"exam": benchmark}, False, tmp_path / "overlap"
    )
    assert told.facts["benchmarks"]["exam"]["verdict"] == ("clean" if policy == "drop" else "leaky")


def test_solutions_are_shown_step_by_step_with_their_labels(tmp_path: Path):
    mix(tmp_path, {"one": [RawRow("Q", [solution([1, None, 0])], 1), RawRow("Q", [Shown("0", "no step")], 2)]})
    (kept,) = kept_rows(tmp_path / "out", [tmp_path / "one"], 5)
    assert (kept["response"], kept["labels"]) == ("[1] s0\n[-] s1\n[0] s2", "0")
    (dropped,) = dropped_rows(tmp_path / "out", [tmp_path / "one"], 5)
    assert (dropped["rule"], dropped["response"]) == ("no_step", "no step")


VALUE = st.none() | st.sampled_from([0, 1])
SOLUTIONS = st.lists(st.lists(VALUE, max_size=3), min_size=1, max_size=4)


@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given_examples(st.lists(st.tuples(st.sampled_from(["P", "Q", "R"]), SOLUTIONS, st.booleans()), max_size=5))
def test_whatever_the_labels_nothing_vanishes_and_no_label_is_made_up(tmp_path_factory, made):
    rows = [solved("anchor", [1, 0], row=99)]
    given: dict[tuple[str, str], list[Steps]] = {}
    for number, (prompt, solutions, is_test) in enumerate(made):
        row = solved(prompt, *solutions, row=number, file="test.jsonl" if is_test else "train.jsonl")
        rows.append(row)
        for shown, steps in zip(row.responses, solutions, strict=True):
            given.setdefault((row.prompt_id, content_id([row.prompt_id, shown.text])), []).append(steps)
    built, labelled, dropped = mix(tmp_path_factory.mktemp("mix"), {"one": rows})
    assert all(check.passed for check in built.checks)
    assert len(labelled) + len(dropped) == sum(len(row.responses) for row in rows)
    assert len({row["response_id"] for row in labelled}) == len(labelled)
    for row in labelled:
        showings = given.get((row["prompt_id"], row["response_id"]), [[1, 0]])
        for step, value in enumerate(row["values"]):
            assert {steps[step] for steps in showings} - {None} == ({value} - {None})


def test_a_rerun_gives_the_same_bytes(tmp_path: Path):
    rows = [solved(f"Q{n % 9}", [1, n % 2], [n % 3 == 0, None, 1], row=n) for n in range(30)]
    rows.append(solved("T", [1], file="test.jsonl"))
    hashes = []
    for name, order in (("first", 1), ("second", -1)):
        mix(tmp_path / name, {"one": rows[::order]}, sample=Sample(train_prompts=5))
        files = sorted((tmp_path / name / "out").iterdir())
        hashes.append({file.name: hashlib.sha256(file.read_bytes()).hexdigest() for file in files})
    assert hashes[0] == hashes[1]
