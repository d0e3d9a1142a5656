"""Solutions and completions from their steps: what is asked, what is kept, an ended run that goes on."""

from pathlib import Path

import pytest

from rm_workflow.annotation.rollouts import Problem, build_rollouts, prefixes_of, read_problems, start_after
from rm_workflow.artifacts import Built
from rm_workflow.catalog import rollout_cost
from rm_workflow.errors import UserError
from rm_workflow_tests.annotation.conftest import Scripted, annotation, sum_row
from rm_workflow_tests.preferences.raw_tables import RawRow, Shown, read, write_raw

THREE_STEPS = "Step 1: a\nStep 2: b\nThe answer is: 1"


def roll(problems: list[Problem], generator: Scripted, folder: Path, out: str = "out", **fields) -> Built:
    (folder / "work").mkdir(exist_ok=True)
    (folder / out).mkdir()
    return build_rollouts(problems, annotation(**fields), generator, folder / "work", folder / out)


def test_completions_are_drawn_from_each_step_but_the_last(problems: list[Problem], tmp_path: Path):
    def say(prompt: str, number: int) -> str:
        return THREE_STEPS if prompt.endswith("?\n") else f"The answer is: {number}"

    generator = Scripted(say)
    built = roll(problems[:1], generator, tmp_path, trajectories=1)
    prompt = f"{problems[0].text}\n"
    assert generator.asked == [prompt, f"{prompt}Step 1: a\n", f"{prompt}Step 1: a\nStep 2: b\n"]
    (trajectory,) = read(tmp_path / "out" / "trajectories.parquet")
    assert (trajectory["text"], trajectory["step_ends"]) == (THREE_STEPS, [9, 19, 36])
    completions = read(tmp_path / "out" / "completions.parquet")
    assert [(one["prefix"], one["text"]) for one in completions[:5]] == [
        *(("Step 1: a", f"The answer is: {number}") for number in range(4)),
        ("Step 1: a\nStep 2: b", "The answer is: 0"),
    ]
    assert {name: built.facts[name] for name in ("problems", "trajectories", "prefixes", "completions")} == {
        "problems": 1,
        "trajectories": 1,
        "prefixes": 2,
        "completions": 8,
    }
    assert built.checks[0].passed


def test_solutions_that_begin_alike_share_the_completions_from_there(problems: list[Problem], tmp_path: Path):
    generator = Scripted(lambda prompt, number: f"Step 1: a\nThe answer is: {number}")
    built = roll(problems[:1], generator, tmp_path, trajectories=3)
    assert len(generator.asked) == 2
    assert (built.facts["trajectories"], built.facts["prefixes"], built.facts["completions"]) == (3, 1, 4)


def test_a_solution_of_one_step_and_an_empty_one_need_no_completion(problems: list[Problem], tmp_path: Path):
    generator = Scripted(lambda prompt, number: ["The answer is: 1", " \n "][number])
    built = roll(problems[:1], generator, tmp_path)
    assert built.facts["completions"] == 0
    assert [row["step_ends"] for row in read(tmp_path / "out" / "trajectories.parquet")] == [[16], []]


@pytest.mark.parametrize(
    ("separator", "text", "starts"),
    [
        ("\n", "a\nb", ["a\n"]),
        ("\n\n", "a\nb\n\nc", ["a\nb\n\n"]),
        ("ки\n", "a ки\nb ки", ["a ки\n"]),
    ],
)
def test_a_start_ends_as_the_generator_itself_ends_a_step(separator: str, text: str, starts: list[str]):
    asked = annotation(step_separator=separator)
    assert [start_after(prefix, asked) for prefix in prefixes_of(text, asked)] == starts


def test_braces_of_a_problem_are_text(tmp_path: Path):
    row = RawRow(r"What is \frac{1}{2}?", [Shown("reference", "half")], 1, extra={"final_answer": "0.5"})
    problems = read_problems(write_raw(tmp_path / "raw", [row], "sums"), annotation(), ["train.jsonl"])
    generator = Scripted(lambda prompt, number: "The answer is: 0.5")
    roll(problems, generator, tmp_path, prompt="Q: {problem} A:")
    assert generator.asked == [r"Q: What is \frac{1}{2}? A:"]


def test_an_ended_run_goes_on_with_the_next_problem_and_gives_the_same_bytes(problems: list[Problem], tmp_path: Path):
    def say(prompt: str, number: int) -> str:
        return f"Step 1: {prompt.strip()} is easy\nThe answer is: {number}"

    def dies(prompt: str, number: int) -> str:
        if problems[2].text in prompt:
            raise KeyboardInterrupt
        return say(prompt, number)

    with pytest.raises(KeyboardInterrupt):
        roll(problems, Scripted(dies), tmp_path, "ended")
    second = Scripted(say)
    built = roll(problems, second, tmp_path)
    assert built.facts["taken_up"] == 2
    assert all(problems[2].text in prompt for prompt in second.asked)
    (tmp_path / "other").mkdir()
    roll(problems, Scripted(say), tmp_path / "other")
    for table in ("trajectories.parquet", "completions.parquet"):
        assert (tmp_path / "out" / table).read_bytes() == (tmp_path / "other" / "out" / table).read_bytes()


def test_a_damaged_file_of_an_ended_run_is_rolled_out_again(problems: list[Problem], tmp_path: Path):
    generator = Scripted(lambda prompt, number: "The answer is: 1")
    roll(problems, generator, tmp_path, "first")
    path = tmp_path / "work" / f"{problems[1].prompt_id}.json"
    path.write_text(path.read_text().replace("answer is: 1", "answer is: 2"))
    again = Scripted(lambda prompt, number: "The answer is: 1")
    built = roll(problems, again, tmp_path)
    assert again.asked == [f"{problems[1].text}\n"]
    assert built.facts["taken_up"] == 2
    assert {row["text"] for row in read(tmp_path / "out" / "trajectories.parquet")} == {"The answer is: 1"}


def test_only_train_problems_with_a_reference_answer_are_taken(tmp_path: Path):
    rows = [sum_row(1), sum_row(2, "test.jsonl"), RawRow("3 + 1?", [Shown("0", "4")], 3)]
    raw = write_raw(tmp_path / "raw", rows, "sums")
    assert [one.gold for one in read_problems(raw, annotation(), ["train.jsonl"])] == ["2"]
    with pytest.raises(UserError, match="'sums' has no train problem with a reference answer"):
        read_problems(raw, annotation(), ["other.jsonl"])


def test_some_problems_are_the_same_whatever_order_the_source_has(tmp_path: Path):
    rows = [sum_row(number) for number in range(20)]
    found = [
        read_problems(write_raw(tmp_path / name, part, "sums"), annotation(num_problems=5), ["train.jsonl"])
        for name, part in (("one", rows), ("two", rows[::-1]))
    ]
    assert found[0] == found[1]
    assert len(found[0]) == 5


def test_the_cost_counts_every_solution_and_every_completion():
    estimate = rollout_cost.estimate(annotation(trajectories=15, completions=16, max_tokens=2048), 100)
    assert (estimate["trajectories"], estimate["completions"]) == (1500, 1500 * 4 * 16)
    assert estimate["most_tokens"] == (1500 + 1500 * 64) * 2048
    assert 0 < estimate["tokens"] < estimate["most_tokens"]
    assert rollout_cost.estimate(annotation(), None)["tokens"] is None
