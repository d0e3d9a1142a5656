"""The rule best_of_n: rows in their native schemas, scored rows in CONTRACT's form, and what it makes of bad ones."""

import gzip
import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import duckdb
import pyarrow.parquet as pq
import pytest

from rm_workflow.catalog.loading import load_catalog
from rm_workflow.catalog.models import Benchmark, Source, Split
from rm_workflow.errors import UserError
from rm_workflow.evaluation import stored
from rm_workflow.evaluation.analysis import of_benchmark
from rm_workflow.evaluation.benchmarks import best_of_n, build_benchmark
from rm_workflow.evaluation.compare import Comparison
from rm_workflow.evaluation.items import FieldError, RowError, scored_item
from rm_workflow.hub import SourceFile, resolve_files
from rm_workflow.keys import file_sha256
from rm_workflow.preferences.mixture import _split_sql
from rm_workflow.preferences.raw import build_raw
from rm_workflow.preferences.splits import is_test_group
from rm_workflow_tests.preferences.sources import settings

MARKED = {
    "prompt": "2 + 3?",
    "answers": ["Step 1: 2 + 3 = 5. ки\nThe answer is: 5 ки", "The answer is: 6 ки", "I give up"],
    "label": [1, 0.0, False],
}
ENTRY = Benchmark(path="x", files={"test": ["rows.jsonl"]}, scoring="best_of_n", licence="MIT")


def candidate(answer: Any, correct: Any, score: Any, **more: Any) -> dict[str, Any]:
    return {"answer": answer, "correct": correct, "score": score, **more}


def stepped(answer: Any, correct: Any, steps: Any) -> dict[str, Any]:
    return {"answer": answer, "correct": correct, "step_scores": steps}


FOUR = [
    {
        "problem": "a",
        "candidates": [
            candidate("5", True, 0.1, length=9, generator="weak"),
            candidate(" 5 ", True, 0.4, length=1, generator="strong"),
            candidate("6", False, 0.9, length=2, generator="weak2"),
            candidate(None, False, 0.2, length=3, generator="other"),
        ],
    },
    {
        "problem": "b",
        "candidates": [
            candidate("7", 0, -1, length=1, generator="weak"),
            candidate("8", 1, 2.5, length=2, generator="strong"),
            candidate("7", 0.0, 0, length=3, generator="weak2"),
            candidate("", 0, 0, length=4, generator="other"),
        ],
    },
]


def build(tmp_path: Path, rows: list[Mapping[str, Any]], entry: Benchmark = ENTRY):
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")
    out = tmp_path / "out"
    out.mkdir()
    return build_benchmark(
        "b", entry, [SourceFile("test", path.name, path, "x/rows.jsonl", file_sha256(path))], out
    ), out


def read(folder: Path, table: str) -> list[dict[str, Any]]:
    return pq.read_table(folder / f"{table}.parquet").to_pylist()


def test_figures_at_every_n_are_those_of_the_contract():
    result = best_of_n.aggregate(FOUR)

    assert list(result["n"]) == ["1", "2", "4"]
    assert list(result["n"]["1"])[:7] == [
        *("pass", "majority", "weighted_majority", "best_of_n", "best_of_n_prefix", "majority_prefix", "pass_prefix"),
    ]
    one, two, four = (result["n"][size] for size in ("1", "2", "4"))
    assert one["pass"] == one["majority"] == one["best_of_n"] == pytest.approx((2 / 4 + 1 / 4) / 2)
    assert one["best_of_n_prefix"] == one["majority_prefix"] == one["pass_prefix"] == 0.5
    assert two["pass"] == pytest.approx((5 / 6 + 3 / 6) / 2)
    assert two["best_of_n"] == pytest.approx((2 / 6 + 3 / 6) / 2)
    assert (four["majority"], four["best_of_n"], four["pass"]) == (0.5, 0.5, 1)
    # The weights of a are sigmoid(0.1) + sigmoid(0.4) against sigmoid(0.9); of b sigmoid(2.5) against two of 0 and -1.
    assert four["weighted_majority"] == 1
    assert (result["draws"], result["seed"]) == (400, 0)
    assert result["intervals"].keys() == result["n"].keys()
    assert result["intervals"]["4"]["pass"].keys() == {"ci_low", "ci_high"}
    assert result["intervals"]["2"]["best_of_n"]["ci_low"] < two["best_of_n"]
    assert result["counts"]["without_answer"] == 2
    assert (result["equivalence"], result["grader"]) == ("string", None)


def test_the_headline_is_the_best_of_all_with_its_ties():
    tied = [{"problem": "c", "candidates": [candidate("1", True, 2), candidate("2", False, 2)]}]
    headline = best_of_n.headline(best_of_n.aggregate([*FOUR, *tied]))
    assert headline is not None
    assert (headline["n"], headline["ties"], headline["candidates"]) == (3, 1, 2)


def test_baselines_stand_beside_the_model_with_paired_differences():
    result = best_of_n.aggregate(FOUR)
    assert {name: null["score"] for name, null in result["nulls"].items()} == {
        "majority": 0.5,
        "longest": 0.5,
        "strongest_generator: strong": 1.0,
    }
    against = {(row["method"], row["baseline"]): row["difference"] for row in result["against_nulls"]}
    assert against["best_of_n", "strongest_generator: strong"] == -0.5
    assert against["weighted_majority", "majority"] == 0.5
    assert {row["verdict"] for row in result["against_nulls"]} <= {"better", "worse", "not distinguishable"}


def test_many_problems_tell_a_model_from_the_baselines():
    rows = [{**FOUR[place % 2], "problem": place} for place in range(200)]
    found = {(one["method"], one["baseline"]): one["verdict"] for one in best_of_n.aggregate(rows)["against_nulls"]}
    assert found["weighted_majority", "majority"] == "better"
    assert found["best_of_n", "strongest_generator: strong"] == "worse"
    assert found["best_of_n", "majority"] == "not distinguishable"


def test_probabilities_weigh_as_they_are():
    rows = [
        {
            "problem": 1,
            "candidates": [candidate("a", True, 0.9), candidate("b", False, 0.4), candidate("b", False, 0.4)],
        }
    ]
    assert best_of_n.aggregate(rows)["n"]["3"]["weighted_majority"] == 0
    assert best_of_n.aggregate(rows, scores="probability")["n"]["3"]["weighted_majority"] == 1
    marked = [{**row, "scale": "probability"} for row in rows]
    assert best_of_n.aggregate(marked)["scores"] == "probability"
    assert best_of_n.aggregate(marked, scores="logit")["n"]["3"]["weighted_majority"] == 0
    with pytest.raises(RowError, match=r"row 1: candidate 1: its score -0.1 is no probability"):
        best_of_n.aggregate([{"problem": 1, "candidates": [candidate("a", 1, -0.1)]}], scores="probability")


def test_step_scores_give_a_figure_for_each_aggregator():
    rows = [
        {
            "problem": 1,
            "candidates": [stepped("a", True, [0.6, 0.6]), stepped("b", False, [0.9, 0.2]), stepped("c", False, [])],
        }
    ]
    result = best_of_n.aggregate(rows)
    whole = result["n"]["3"]
    assert whole["best_of_n"] == {"min": 1, "last": 1, "product": 1, "mean": 1}
    flipped = best_of_n.aggregate(
        [{"problem": 1, "candidates": [stepped("a", True, [0.6, 0.6]), stepped("b", False, [0.1, 0.7, 0.7, 1.0])]}]
    )
    assert flipped["n"]["2"]["best_of_n"] == {"min": 1, "last": 0, "product": 1, "mean": 0}
    assert flipped["best_of_n_score"]["aggregator"] == "mean"
    assert set(result["intervals"]["3"]["weighted_majority"]) == {"min", "last", "product", "mean"}
    assert result["counts"]["without_steps"] == 1
    assert set(result["over_optimisation"]) == {"min", "last", "product", "mean"}


def test_over_optimisation_shows_gold_against_proxy_over_kl():
    # The highest score is wrong, the second one right: gold peaks before all candidates are there.
    row = {"problem": 1, "candidates": [candidate(str(place), place == 2, place) for place in range(4)]}
    found = best_of_n.aggregate([row])["over_optimisation"]["score"]
    assert found["gold"] == pytest.approx([1 / 4, 2 / 6, 0])
    assert found["proxy"] == pytest.approx([1.5, (1 + 2 * 2 + 3 * 3) / 6, 3])
    assert found["kl"] == pytest.approx([0, 0.1931472, 0.6362944])
    assert (found["peak_n"], found["drop"]["score"]) == (2, pytest.approx(1 / 3))
    risen = best_of_n.aggregate([{"problem": 1, "candidates": [candidate("a", 0, 0), candidate("b", 1, 1)]}])
    assert risen["over_optimisation"]["score"]["drop"] is None


def test_problems_of_unequal_number_are_compared_up_to_the_least_and_all_their_candidates_count():
    more = {"problem": "c", "candidates": [candidate(str(place), place == 0, place) for place in range(6)]}
    result = best_of_n.aggregate([*FOUR, more])
    assert list(result["n"]) == ["1", "2", "4"]
    assert result["warnings"] == ["problems have 4 to 6 candidates, so n goes up to 4"]
    assert result["n"]["4"]["pass"] == pytest.approx((1 + 1 + 10 / 15) / 3)


def test_math_verify_joins_answers_that_are_equal_and_says_what_it_could_not_tell():
    row = {
        "problem": 1,
        "candidates": [
            candidate("0.5", True, 0),
            candidate("2", False, 0),
            candidate("2", False, 0),
            candidate(r"\frac{1}{2}", True, 0),
            candidate("1/2", True, 0),
        ],
    }
    assert best_of_n.aggregate([row])["n"]["5"]["majority"] == 0
    result = best_of_n.aggregate([row], equivalence="math-verify")
    assert result["n"]["5"]["majority"] == 1
    assert (result["grader"]["name"], result["grader"]["timeouts"]) == ("math-verify", 0)


def test_an_answer_that_is_right_and_wrong_is_told():
    row = {"problem": 1, "candidates": [candidate("a", True, 0), candidate("a", False, 0)]}
    result = best_of_n.aggregate([row])
    assert result["warnings"] == [
        "1 answers are marked right in one candidate and wrong in another; the first one counts"
    ]
    assert result["n"]["2"]["majority"] == 1


@pytest.mark.parametrize(
    ("candidates", "sentence"),
    [
        ([], "field candidates must be a list of at least one object"),
        (["a"], "must hold objects"),
        ([candidate("a", 1, 0), {"answer": "a", "score": 1}], "candidate 2: field correct is missing"),
        ([{"correct": True, "score": 1}], "candidate 1: field answer is missing"),
        ([{"correct": True, "answer": "a"}], "candidate 1: field score is missing"),
        ([candidate("a", 0.5, 0)], "candidate 1: field correct is 0.5; a label is true or false, or 1 or 0"),
        ([candidate("a", "true", 0)], "candidate 1: field correct is 'true'"),
        ([candidate(["a"], 1, 0)], "candidate 1: field answer is"),
        ([candidate("a", 1, 0), candidate("a", 1, float("nan"))], "candidate 2: field score is nan"),
        ([candidate("a", 1, None)], "candidate 1: field score is None"),
        ([candidate("a", 1, "1")], "candidate 1: field score is '1'"),
        ([stepped("a", 1, [0.5]), candidate("a", 1, 0)], "candidate 2: step_scores must stand in all"),
        ([stepped("a", 1, 0.5)], "candidate 1: field step_scores is 0.5; it must be a list"),
        ([stepped("a", 1, [0.5, None])], "candidate 1: field step_scores is None"),
    ],
)
def test_a_bad_candidate_is_refused_with_its_place(candidates: Any, sentence: str):
    with pytest.raises(RowError, match=r"^row 2: ") as caught:
        best_of_n.aggregate([FOUR[0], {"problem": "x", "candidates": candidates}])
    assert sentence in str(caught.value)


def test_rows_of_two_kinds_and_repeated_rows_are_refused():
    steps = {"problem": "x", "candidates": [stepped("a", 1, [0.5])]}
    with pytest.raises(RowError, match="row 3: step_scores must stand in the candidates of all problems or of none"):
        best_of_n.aggregate([*FOUR, steps])
    with pytest.raises(RowError, match="row 3: field scale is 'probability', and None before"):
        best_of_n.aggregate([*FOUR, {**FOUR[0], "problem": "c", "scale": "probability"}])
    with pytest.raises(RowError, match="row 1: field scale is 'odds'"):
        best_of_n.aggregate([{**FOUR[0], "scale": "odds"}])
    with pytest.raises(RowError, match="row 3: problem 'a' stands in row 1 already"):
        best_of_n.aggregate([*FOUR, FOUR[0]])
    with pytest.raises(UserError, match="no row"):
        best_of_n.aggregate([])


def test_marks_between_steps_are_cut_out_of_what_is_scored(tmp_path: Path):
    built, out = build(tmp_path, [MARKED], ENTRY.model_copy(update={"step_separator": "ки"}))

    assert built.facts["items"] == 1
    responses = {row["text"]: row["step_ends"] for row in read(out, "responses")}
    assert responses == {"Step 1: 2 + 3 = 5.\nThe answer is: 5": [18, 35], "The answer is: 6": [16], "I give up": [9]}
    (item,) = read(out, "items")
    meta = json.loads(item["meta"])
    assert (meta["answers"], meta["correct"]) == (["5", "6", None], [True, False, False])
    assert (item["num_correct"], len(item["response_ids"])) == (1, 3)


def test_an_equal_text_is_stored_once_and_stays_a_candidate_of_its_own(tmp_path: Path):
    _, out = build(tmp_path, [{"prompt": "2?", "answers": ["A: 2", "A: 2", ""], "label": [1, 1, 0]}])
    (item,) = read(out, "items")
    assert len(read(out, "responses")) == 2
    assert item["response_ids"][0] == item["response_ids"][1]
    assert json.loads(item["meta"])["answers"] == ["2", "2", None]


@pytest.mark.parametrize(
    ("row", "sentence"),
    [
        ({**MARKED, "label": [1]}, "field label must be a list with one label for each of 3 answers"),
        ({**MARKED, "label": [1, 0, 0.3]}, r"field label\[2\] is 0.3"),
        ({**MARKED, "answers": []}, "field answers is"),
        ({"question": "2?"}, "neither answers nor a field that ends in _finetuning or _verification is there"),
        ({"question": "2?", "6b_finetuning": "A: 2"}, "field 6b_finetuning must be an object"),
    ],
)
def test_a_row_in_no_known_schema_is_refused(row: Mapping[str, Any], sentence: str):
    with pytest.raises(FieldError, match=sentence):
        best_of_n.read_item_of(row, ENTRY)


@pytest.mark.shared_rows
def test_real_rollouts_are_written_as_the_rows_that_models_are_trained_on(shared_rows: Path, tmp_path: Path):
    folder = shared_rows / "data" / "gsm8k_rollouts"
    source = Source(
        path=str(folder),
        files={"train": ["derived_rlhflow_orm_schema.train.jsonl.gz"]},
        adapter="outcome_turn",
        solution_starts="Step 1:",
        step_separator="\n",
        licence="MIT",
    )
    path = folder / source.files["train"][0]
    raw = tmp_path / "raw"
    raw.mkdir()
    build_raw("rollouts", source, [SourceFile("train", path.name, path, f"x/{path.name}", file_sha256(path))], raw)
    native = folder / "openai_example_model_solutions.train.jsonl.gz"
    entry = ENTRY.model_copy(update={"step_separator": "\n", "only_test_of": Split(by="hash", test_share=0.3, seed=4)})
    out = tmp_path / "out"
    out.mkdir()
    file = SourceFile("test", native.name, native, f"x/{native.name}", file_sha256(native))
    built = build_benchmark("b", entry, [file], out)

    trained = {row["response_id"]: row for row in read(raw, "responses")}
    candidates = {row["response_id"]: row for row in read(out, "responses")}
    with_answer = {key: row for key, row in candidates.items() if "The answer is: " in row["text"]}
    # Texts, ids and ends of steps are the same, so that one solution is one response for training and for scoring.
    assert len(with_answer) > 1_200
    assert all(trained[key] == row for key, row in with_answer.items())
    groups = {row["prompt_id"]: row["group_id"] for row in read(raw, "prompts")}
    problems = {row["prompt_id"]: row["group_id"] for row in read(out, "prompts")}
    assert problems.items() <= groups.items()
    assert built.facts["passed_over"] == 1_078 - len(problems)
    outcomes = {row["response_id"]: row["value"] for row in read(raw, "labels")}
    for item in read(out, "items"):
        for key, correct in zip(item["response_ids"], json.loads(item["meta"])["correct"], strict=True):
            assert key not in outcomes or outcomes[key] == correct


def test_capped_problems_and_candidates_are_chosen_by_content_whatever_their_order(tmp_path: Path):
    answers = [f"It is {number % 5}." for number in range(9)]
    labels = [answer == "It is 1." for answer in answers]
    rows = [{"prompt": f"{number} + 3?", "answers": answers, "label": labels} for number in range(30)]
    capped = ENTRY.model_copy(update={"max_problems": 7, "max_candidates": 4})
    kept = []
    for folder, given in (("there", rows), ("back", rows[::-1])):
        (tmp_path / folder).mkdir()
        built, out = build(tmp_path / folder, given, capped)
        assert (built.facts["items"], built.facts["passed_over"], built.checks[0].passed) == (7, 23, True)
        kept.append({name: (out / f"{name}.parquet").read_bytes() for name in ("prompts", "responses", "items")})
    assert kept[0] == kept[1]
    items = read(out, "items")
    assert [len(item["response_ids"]) for item in items] == [4] * 7
    texts = {row["response_id"]: row["text"] for row in read(out, "responses")}
    for item in items:
        meta = json.loads(item["meta"])
        assert meta["correct"] == [texts[key] == "It is 1." for key in item["response_ids"]]
    # Other problems keep other candidates.
    assert len({tuple(texts[key] for key in item["response_ids"]) for item in items}) > 1

    whole = tmp_path / "whole"
    whole.mkdir()
    built, out = build(whole, rows, ENTRY.model_copy(update={"max_problems": 30, "max_candidates": 9}))
    assert (built.facts["items"], len(read(out, "items")[0]["response_ids"])) == (30, 9)


def test_only_candidates_to_choose_among_are_capped():
    with pytest.raises(ValueError, match=r"'max_problems' is for candidates .* the items of rewardbench2 are"):
        Benchmark(path="x", files={"test": ["a"]}, scoring="rewardbench2", licence="MIT", max_problems=5)


def test_generators_stay_beside_their_candidates(tmp_path: Path):
    names = ["6b_finetuning", "6b_verification", "175b_finetuning", "175b_verification"]
    row = {"question": "2 + 3?", **{name: {"is_correct": True, "solution": f"{name}\nA: 5"} for name in names}}
    item = best_of_n.read_item_of(row, ENTRY.model_copy(update={"max_candidates": 2}))
    assert [text.split()[2] for text in item.responses] == item.meta["generators"]
    assert len(item.responses) == 2


@pytest.mark.parametrize("split", [Split(by="hash", test_share=0.35), Split(by="hash", test_share=0.02, seed=3)])
def test_the_split_outside_sql_is_that_of_mixtures(split: Split):
    con = duckdb.connect()
    con.execute("create table remaining as select md5(range::varchar) as group_id from range(2000)")
    sides = con.execute(f"select group_id, {_split_sql(split)} from remaining").fetchall()
    assert [side == "test" for _, side in sides] == [is_test_group(group, split) for group, _ in sides]
    assert {side for _, side in sides} == {"test", "train"}


@pytest.mark.shared_rows
def test_the_rows_of_the_catalogue_are_test_problems_alone(shared_rows: Path, tmp_path: Path):
    known = replace(settings(tmp_path), rows=shared_rows / "data")
    entry = load_catalog(known).benchmarks["gsm8k_rollouts_best_of_4"]
    assert entry.only_test_of is not None
    (found,) = resolve_files(entry, known)
    with gzip.open(found.path, "rt", encoding="utf-8") as file:
        rows = [json.loads(line) for line in file]
    assert len(rows) == 1_078
    assert all(len(best_of_n.read_item_of(row, entry).responses) == 4 for row in rows[:50])


def test_a_split_by_files_has_no_test_problems_of_its_own():
    with pytest.raises(ValueError, match="needs by: hash"):
        Benchmark(path="x", files={"test": ["a"]}, scoring="best_of_n", licence="MIT", only_test_of=Split(by="native"))


def test_stored_steps_are_read_back_in_order(tmp_path: Path):
    _, out = build(tmp_path, [MARKED], ENTRY.model_copy(update={"step_separator": "ки"}))
    (item,) = read(out, "items")
    ids = item["response_ids"]
    rows = [(ids[0], 1, 0.25), (ids[0], 0, 0.75), (ids[1], 0, 0.5), (ids[2], 0, 0.1)]
    values = ", ".join(f"('b', '{item['item_id']}', '{key}', {step}, {score})" for key, step, score in rows)
    target = tmp_path / "item_scores.parquet"
    table = f"(values {values}) t(benchmark, item_id, response_id, step, score)"
    duckdb.sql(f"copy (select * replace (score::double as score) from {table}) to '{target}' (format parquet)")
    (tmp_path / "scores.json").write_text(json.dumps({"b": {"scores": "probability"}}))

    found = stored.scored_items(tmp_path, "b", out)[item["item_id"]]
    assert found.step_scores == [[0.75, 0.25], [0.5], [0.1]]
    assert (found.scores, found.scale) == ([0.5, 0.5, 0.1], "probability")
    row = best_of_n.scored_row(found)
    assert [candidate["step_scores"] for candidate in row["candidates"]] == found.step_scores
    assert best_of_n.aggregate([row])["scores"] == "probability"


def test_two_candidates_are_no_pair_of_a_chosen_and_a_rejected_reply():
    meta = {"id": "a", "answers": ["1", "2"], "correct": [False, True], "lengths": [3, 1]}
    scored = {"x": scored_item("problems", [0.1, 0.9], 1, meta)}
    lengths = {"x": scored_item("problems", [3, 1], 1, meta)}
    found = of_benchmark("best_of_n", scored, lengths)
    assert set(found["length"]) == {"spearman_reward_length"}
    assert (found["nulls"]["pick_longer"]["score"], found["nulls"]["pick_shorter"]["score"]) == (0, 1)


def test_two_checkpoints_are_compared_problem_by_problem():
    better = [
        {**row, "candidates": [{**one, "score": float(one["correct"])} for one in row["candidates"]]} for row in FOUR
    ]
    found = Comparison(best_of_n.parts(better), best_of_n.parts(FOUR)).figures()
    assert (found["score_a"], found["score_b"], found["difference"]) == (1, 0.5, 0.5)
    assert list(stored.file_rows("best_of_n", FOUR).rows) == [
        '["problem","a",null,null,null]',
        '["problem","b",null,null,null]',
    ]
