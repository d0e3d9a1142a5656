"""Every source of the catalogue that gives pairs, on rows in its native schema, and real data sets as own data."""

import csv
import gzip
import hashlib
import json
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import duckdb
import pytest

from rm_workflow.artifacts import Built
from rm_workflow.catalog.loading import load_catalog
from rm_workflow.catalog.models import Catalog, PairSet, Source
from rm_workflow.hub import SourceFile, resolve_files
from rm_workflow.keys import file_sha256
from rm_workflow.preferences import adapters
from rm_workflow.preferences.pairs import build_pair_set
from rm_workflow.preferences.raw import build_raw
from rm_workflow_tests.preferences.raw_tables import read
from rm_workflow_tests.preferences.sources import hh_row, settings, write_lines

# source -> file of rows in its schema, rows used, pair sets with the pairs that they keep (None: whatever it is)
NATIVE = {
    "shp": ("shp.handmade", 2, {"shp_gt2_cap5": 2}),
    "ultrafeedback": ("ultrafeedback.handmade", 1, {"ultrafeedback_fine_grained": None}),
    "helpsteer": ("helpsteer.handmade", 2, {"helpsteer_helpfulness_correctness": 1}),
    "helpsteer2": ("helpsteer2.handmade", 4, {"helpsteer2_helpfulness_correctness": None}),
    "helpsteer2_preference": ("helpsteer2_preference.handmade", 1, {"helpsteer2_preference": 1}),
    "capybara": ("capybara_dpo.handmade", 1, {"capybara": 1}),
    "orca": ("orca_dpo_argilla.handmade", 2, {"orca": None, "orca_card_filter": 1}),
    "intel_orca": ("orca_dpo_intel.handmade", 1, {"intel_orca": 1}),
    "pku_safe_rlhf_30k_better": ("pku_safe_rlhf.real", 2, {"pku_safe_rlhf_30k_better": 2}),
    "pku_safe_rlhf_30k_safer": ("pku_safe_rlhf.real", 2, {"pku_safe_rlhf_30k_safer": 2}),
    "pku_safe_rlhf_better": ("pku_safe_rlhf.real", 2, {"pku_safe_rlhf_better": 2}),
    "pku_safe_rlhf_safer": ("pku_safe_rlhf.real", 2, {"pku_safe_rlhf_safer": 2}),
    "ultrainteract": ("ultrainteract_pair.real", 1, {"ultrainteract": 1}),
    "tulu3_8b_mixture": ("tulu3_preference.handmade", 1, {"tulu3_8b_mixture": 1}),
    "tulu3_70b_mixture": ("tulu3_preference.handmade", 1, {"tulu3_70b_mixture": 1}),
    "skywork_80k_v01": ("skywork_80k_v02.handmade", 1, {"skywork_80k_v01": 1}),
    "skywork_80k_v02": ("skywork_80k_v02.handmade", 1, {"skywork_80k_v02": 1}),
}

QUESTION = {"role": "user", "content": "Name a river."}
GOOD, BAD = {"role": "assistant", "content": "The Danube."}, {"role": "assistant", "content": "No."}
PAIR = {"chosen": [QUESTION, GOOD], "rejected": [QUESTION, BAD]}
COMPARED = {
    "orig_instruction": "Name a river.",
    "orig_response_A": "The Danube.",
    "orig_response_B": "No.",
    "orig_reference_answer": "The Rhine.",
    "orig_criteria": "Is the reply a river?",
    "orig_score_A": "5",
    "orig_score_B": "2",
    "orig_preference": "A",
    "instruction": "The whole task",
    "output": "A names one. [RESULT] A",
}
TURNED = {
    **COMPARED,
    "orig_response_A": "No.",
    "orig_response_B": "The Danube.",
    "orig_preference": "B",
    "orig_score_A": "2",
    "orig_score_B": "5",
}
RANKED = [
    *({"answer": f"Answer {rank}.", "model": f"m-{rank}", "rank": float(rank)} for rank in range(1, 7)),
    {"answer": "Answer 7.", "model": "m-7", "rank": 6.0},
]
HELPSTEER3 = {"domain": "general", "language": "english", "context": [QUESTION], "individual_preference": []}

# source -> hand-made rows in its schema, and the pairs that each of its pair sets keeps, by (chosen, rejected)
DANUBE = ("The Danube.", "No.")
HANDMADE: dict[str, tuple[list[dict[str, Any]], list[tuple[str, str]]]] = {
    "hh_harmless_base": ([hh_row("Name a river.", *DANUBE)], [DANUBE]),
    "argilla_math": (
        [
            {"instruction": "2+2?", "chosen_response": "4", "rejected_response": "5", "metadata": "{}"}
            | {"chosen_rating": 9.0, "rejected_rating": 1.0},
            {"instruction": "2+2?", "chosen_response": "4", "rejected_response": "four", "metadata": "{}"}
            | {"chosen_rating": 9.0, "rejected_rating": 9.0},
        ],
        [("4", "5")],
    ),
    "prometheus_preference": ([COMPARED, TURNED], [DANUBE]),
    "rm_mistral_7b_mixture": ([{**PAIR, "chosen_score": 4.5, "rejected_score": 1.0}], [DANUBE]),
    "preference_700k_mixture": ([{**PAIR, "chosen_score": 4.5, "rejected_score": 1.0}], [DANUBE]),
    "nectar": (
        [
            {
                "prompt": "\n\nHuman: Hi\n\nAssistant: Hello.\n\nHuman: Name a river.\n\nAssistant: ",
                "answers": RANKED[:2],
                "turns": 2,
                "num_responses": 2,
                "source": ["lmsys"],
                "good_natured": True,
            }
        ],
        [("Answer 1.", "Answer 2.")],
    ),
    "ultrafeedback_binarized": (
        [
            {"prompt": "Name a river.", "prompt_id": "p1", "messages": [QUESTION, GOOD], **PAIR}
            | {"score_chosen": 8.5, "score_rejected": 3.0},
            {"prompt": "Name a river.", "prompt_id": "p2", "messages": [QUESTION, GOOD], **PAIR}
            | {"score_chosen": 7.0, "score_rejected": 7.0},
        ],
        [DANUBE],
    ),
    "helpsteer3": (
        [
            {**HELPSTEER3, "response1": "The Danube.", "response2": "No.", "overall_preference": -2},
            {**HELPSTEER3, "response1": "A lake.", "response2": "The Rhine.", "overall_preference": 1},
            {**HELPSTEER3, "response1": "One.", "response2": "Two.", "overall_preference": 0},
        ],
        [DANUBE, ("The Rhine.", "A lake.")],
    ),
}

# Sources whose own files are read by other tests.
ELSEWHERE = {"hh_helpful_base", "hh_helpful_online", "hh_helpful_rejection_sampled", "llamafactory_dpo_demo"}


@pytest.fixture(scope="module")
def catalog(tmp_path_factory: pytest.TempPathFactory) -> Catalog:
    return load_catalog(settings(tmp_path_factory.mktemp("home")))


def build_from(name: str, source: Source, path: Path, folder: Path) -> Built:
    """Build a source of the catalogue from one file in its schema to ``folder/out``."""
    (folder / "out").mkdir(parents=True)
    files = [SourceFile("train", path.name, path, f"native/{path.name}", file_sha256(path))]
    return build_raw(name, source, files, folder / "out")


def pairs_of(name: str, pair_set: PairSet, folder: Path) -> tuple[Built, list[tuple[str, str]]]:
    """Build a pair set over ``folder/out`` and return the texts of what it keeps."""
    (folder / "pairs").mkdir(exist_ok=True)
    built = build_pair_set(name, pair_set, folder / "out", folder / "pairs")
    assert all(check.passed for check in built.checks), built.checks
    texts = duckdb.execute(
        f"""
        select c.text, r.text from '{folder}/pairs/pairs.parquet' join '{folder}/out/responses.parquet' c
        on c.response_id = chosen_id join '{folder}/out/responses.parquet' r on r.response_id = rejected_id order by all
        """
    ).fetchall()
    return built, texts


@pytest.mark.shared_rows
@pytest.mark.parametrize("name", NATIVE)
def test_native_rows_become_pairs(name: str, catalog: Catalog, shared_rows: Path, tmp_path: Path):
    file, used, pair_sets = NATIVE[name]
    path = shared_rows / "data" / "native_samples" / f"{file}.jsonl"
    built = build_from(name, catalog.sources[name], path, tmp_path)
    assert (built.facts["rows"], built.facts["used"]) == (used, used)
    for pair_set, kept in pair_sets.items():
        made, _ = pairs_of(pair_set, catalog.pair_sets[pair_set], tmp_path)
        assert kept is None or made.facts["kept"] == kept, made.facts


@pytest.mark.shared_rows
def test_a_real_row_of_ultrafeedback_is_read(catalog: Catalog, shared_rows: Path, tmp_path: Path):
    path = shared_rows / "data/native_samples/ultrafeedback.real_1_completion.jsonl"
    built = build_from("ultrafeedback", catalog.sources["ultrafeedback"], path, tmp_path)
    assert built.facts["used"] == 1
    ratings = f"read_parquet('{tmp_path}/out/occurrences.parquet')"
    assert count(path, f"select len(map_keys(ratings)) from {ratings}") == 4


@pytest.mark.parametrize("name", HANDMADE)
def test_rows_written_by_hand_in_the_native_schema_become_pairs(name: str, catalog: Catalog, tmp_path: Path):
    rows, expected = HANDMADE[name]
    write_lines(tmp_path / "train.jsonl", rows)
    built = build_from(name, catalog.sources[name], tmp_path / "train.jsonl", tmp_path)
    assert built.facts["used"] == len(rows)
    pair_sets = {own: pair_set for own, pair_set in catalog.pair_sets.items() if pair_set.source == name}
    assert pair_sets
    for own, pair_set in pair_sets.items():
        made, pairs = pairs_of(own, pair_set, tmp_path)
        assert sorted(pairs) == sorted(expected)
        if pair_set.candidates == "given":
            assert made.facts["candidates"] == len(rows)


def test_each_source_of_pairs_has_rows_here_and_a_pair_set(catalog: Catalog):
    pair_sources = {pair_set.source for pair_set in catalog.pair_sets.values()}
    seen = {*NATIVE, *HANDMADE, *ELSEWHERE}
    assert sorted(name for name in pair_sources - seen if not name.startswith("sample_")) == []
    assert sorted(seen - pair_sources) == []


def test_a_source_says_that_real_rows_prove_it_only_where_they_are_read_here(catalog: Catalog):
    real = {name for name, (file, *_) in NATIVE.items() if ".real" in file} | {*ELSEWHERE, "ultrafeedback"}
    seen = {*NATIVE, *HANDMADE, *ELSEWHERE}
    assert {name for name in seen if catalog.sources[name].proven_on_real_rows} == real


def test_seven_ranks_give_21_candidates_and_equal_ranks_are_dropped(catalog: Catalog, tmp_path: Path):
    row = {"prompt": "\n\nHuman: Hi\n\nAssistant: ", "answers": RANKED, "source": []}
    write_lines(tmp_path / "train.jsonl", [row])
    build_from("nectar", catalog.sources["nectar"], tmp_path / "train.jsonl", tmp_path)
    built, pairs = pairs_of("nectar", catalog.pair_sets["nectar"], tmp_path)
    assert (built.facts["candidates"], built.facts["dropped"]["equal_score"]) == (21, 1)
    assert ("Answer 1.", "Answer 7.") in pairs
    assert all(chosen < rejected for chosen, rejected in pairs)


def test_a_rubric_stands_in_the_system_turn(catalog: Catalog):
    source = catalog.sources["prometheus_preference"]
    example = adapters.get(source.adapter).read(COMPARED, source)
    assert example.messages == [{"role": "system", "content": "Is the reply a river?"}, QUESTION]
    assert [dict(response.ratings)["score"] for response in example.responses] == [5.0, 2.0]


@pytest.mark.shared_rows
def test_a_row_of_pku_whose_text_is_not_that_of_its_hash_is_dropped(
    catalog: Catalog, shared_rows: Path, tmp_path: Path
):
    lines = (shared_rows / "data/native_samples/pku_safe_rlhf.real.jsonl").read_text("utf-8").split("\n")
    real = [json.loads(line) for line in lines if line]
    write_lines(tmp_path / "train.jsonl", [real[0], {**real[1], "response_1": real[1]["response_1"] + " Or not."}])
    built = build_from(
        "pku_safe_rlhf_safer", catalog.sources["pku_safe_rlhf_safer"], tmp_path / "train.jsonl", tmp_path
    )
    assert (built.facts["used"], built.facts["dropped"]["bad_field"]) == (1, 1)
    stated = hashlib.sha256((real[0]["prompt"] + real[0]["response_0"]).encode()).hexdigest()
    assert real[0]["response_0_sha256"] == stated


# Real data sets at hand as a user's own data: only an entry, no adapter of their own ---------------------------------

OWN: dict[str, tuple[dict[str, Any], dict[str, Any] | None]] = {
    "fine_grained_rlhf_qa": (
        {
            "files": {"train": ["train.jsonl.gz"]},
            "adapter": "labelled_list",
            "columns": {
                "prompt": "question",
                "labels": "preference",
                **{f"response_{number}": f"prediction {number}" for number in (1, 2, 3, 4)},
            },
            "winner": {"a": [1], "b": [2], "tie": [0]},
        },
        {"candidates": "labelled", "score": ["preference"], "rules": ["equal_score", "identical_responses"]},
    ),
    "llmfao": (
        {
            "files": {"train": ["crowd-comparisons.csv.gz"], "texts": ["pairs-crowd.jsonl.gz"]},
            "lookup": {"split": "texts", "key": "id"},
            "adapter": "labelled_pair",
            "columns": {"prompt": "text", "response_a": "result_x", "response_b": "result_y", "label": "winner"},
            "winner": {"a": ["left"], "b": ["right"], "tie": ["tie"]},
        },
        {"candidates": "voted", "score": ["preference"], "rules": ["equal_score", "identical_responses"]},
    ),
    "just_eval_scores": (
        {
            "files": {"train": ["multi_attribute_scores.lima.jsonl.gz"]},
            "adapter": "rated_response",
            "columns": {
                "prompt": "input",
                "response": "output_cand",
                "model": "generator_cand",
                "rating_helpfulness": "parsed_result.helpfulness.score",
                "rating_factuality": "parsed_result.factuality.score",
            },
        },
        None,  # one response a prompt: ratings, no pairs
    ),
    "llamafactory_dpo_demo": (
        {
            "files": {"train": ["dpo_en_demo.jsonl.gz", "dpo_zh_demo.jsonl.gz"]},
            "adapter": "chosen_rejected",
            "columns": {"prompt": "conversations"},
        },
        {"candidates": "given", "rules": ["identical_responses", "exact_duplicate"]},
    ),
    "orca_dpo_azure_sample": (
        {
            "files": {"train": ["validation.jsonl.gz"]},
            "adapter": "chosen_rejected",
            "columns": {"prompt": "input", "chosen": "preferred_output", "rejected": "non_preferred_output"},
        },
        {"candidates": "given", "rules": ["identical_responses", "exact_duplicate"]},
    ),
    "rasbt_politeness_pairs": (
        {
            "files": {"train": ["instruction-data-with-preference.jsonl.gz"]},
            "adapter": "chosen_rejected",
            "columns": {"prompt": "instruction", "prompt_input": "input"},
        },
        {"candidates": "given", "rules": ["identical_responses", "exact_duplicate"]},
    ),
}


def build_own(name: str, shared_rows: Path, folder: Path) -> tuple[Built, Built | None]:
    entry, pair_set = OWN[name]
    source = Source(path=str(shared_rows / "data" / name), licence="see its README", **entry)
    adapters.check_source(name, source)
    (folder / "out").mkdir()
    raw = build_raw(name, source, resolve_files(source, settings(folder)), folder / "out")
    made = pairs_of(name, PairSet(source=name, **pair_set), folder)[0] if pair_set else None
    return raw, made


def count(path: Path, query: str) -> Any:
    (number,) = duckdb.execute(query.replace("ROWS", f"read_json('{path}', format='newline_delimited')")).fetchone()
    return number


@pytest.mark.shared_rows
def test_labels_of_all_pairs_of_four_responses_become_pairs(shared_rows: Path, tmp_path: Path):
    raw, pairs = build_own("fine_grained_rlhf_qa", shared_rows, tmp_path)
    path = shared_rows / "data/fine_grained_rlhf_qa/train.jsonl.gz"
    ties = count(path, "select count(*) from (select unnest(preference) as label from ROWS) where label = 0")
    assert (raw.facts["rows"], raw.facts["used"]) == (399, 399)
    assert pairs is not None
    assert pairs.facts["candidates"] == 6 * 399
    assert pairs.facts["dropped"]["equal_score"] == ties > 0


@pytest.mark.shared_rows
def test_votes_of_several_workers_are_one_candidate_a_pair(shared_rows: Path, tmp_path: Path):
    raw, pairs = build_own("llmfao", shared_rows, tmp_path)
    with gzip.open(shared_rows / "data/llmfao/crowd-comparisons.csv.gz", "rt") as file:
        votes: dict[str, Counter[str]] = {}
        for row in csv.DictReader(file):
            votes.setdefault(row["id"], Counter())[row["winner"]] += 1
    texts = {}
    with gzip.open(shared_rows / "data/llmfao/pairs-crowd.jsonl.gz", "rt") as file:
        for line in file:
            row = json.loads(line)
            texts[str(row["id"])] = (row["text"], row["result_x"], row["result_y"])
    # Two models may give the same two replies: their votes are on one pair.
    summed: dict[tuple[str, frozenset[str]], Counter[str]] = {}
    num_empty = 0
    for key, counted in votes.items():
        prompt, *replies = texts[key]
        if not all(reply.strip() for reply in replies):
            num_empty += counted.total()
            continue
        named = {"left": replies[0], "right": replies[1]}
        sides = summed.setdefault((prompt, frozenset(replies)), Counter())
        for side, number in counted.items():
            sides[named.get(side, "tie")] += number
    undecided = sum(
        len(replies) == 1 or len({sides[reply] for reply in replies}) == 1 for (_, replies), sides in summed.items()
    )
    assert raw.facts["rows"] == 6860
    assert raw.facts["dropped"]["empty_message"] == num_empty == 6860 - raw.facts["used"]
    assert pairs is not None
    assert pairs.facts["candidates"] == len(summed)
    assert sum(pairs.facts["dropped"].values()) == undecided > 0


@pytest.mark.shared_rows
def test_ratings_written_as_text_inside_objects_are_numbers(shared_rows: Path, tmp_path: Path):
    raw, _ = build_own("just_eval_scores", shared_rows, tmp_path)
    path = shared_rows / "data/just_eval_scores/multi_attribute_scores.lima.jsonl.gz"
    expected = count(path, "select sum(try_cast(parsed_result.helpfulness.score as double)) from ROWS")
    unrated = count(path, "select count(*) from ROWS where parsed_result.factuality.score = 'N/A'")
    occurrences = f"read_parquet('{tmp_path}/out/occurrences.parquet')"
    assert (raw.facts["rows"], raw.facts["used"]) == (261, 261)
    assert count(path, f"select sum(ratings['helpfulness']) from {occurrences}") == expected
    assert count(path, f"select count_if(ratings['factuality'] is null) from {occurrences}") == unrated > 0


@pytest.mark.shared_rows
@pytest.mark.parametrize(
    ("name", "rows"),
    [("llamafactory_dpo_demo", 600), ("orca_dpo_azure_sample", 284), ("rasbt_politeness_pairs", 1099)],
)
def test_pairs_of_other_formats_need_an_entry_only(name: str, rows: int, shared_rows: Path, tmp_path: Path):
    raw, pairs = build_own(name, shared_rows, tmp_path)
    assert raw.facts["rows"] == rows
    assert pairs is not None
    assert pairs.facts["candidates"] == raw.facts["used"] >= 0.98 * rows, raw.facts
    assert pairs.facts["kept"] >= 0.95 * raw.facts["used"], pairs.facts


@pytest.mark.shared_rows
def test_messages_whose_text_is_a_list_of_one_part_are_read(shared_rows: Path, tmp_path: Path):
    columns = {"chosen": "chosen_messages", "rejected": "rejected_messages"}
    entry: Mapping[str, Any] = {"files": {"train": ["v1_dpo_demo.jsonl.gz"]}, "adapter": "chosen_rejected"}
    source = Source(
        path=str(shared_rows / "data/llamafactory_dpo_demo"), columns=columns, licence="Apache-2.0", **entry
    )
    (tmp_path / "out").mkdir()
    built = build_raw("parts", source, resolve_files(source, settings(tmp_path)), tmp_path / "out")
    assert built.facts["used"] == 10


def test_the_filter_of_orcas_card_keeps_good_untied_pairs_that_gsm8k_does_not_hold(tmp_path: Path):
    def row(number: int, score: float | None, status: str = "unchanged", in_gsm8k: bool = False) -> dict:
        sides = {"system": "", "input": f"Question {number}", "chosen": "Yes.", "rejected": "No."}
        return {**sides, "chosen_score": score, "status": status, "in_gsm8k_train": in_gsm8k}

    rows = [row(1, 8), row(2, 7.5), row(3, 9, "tie"), row(4, 9, in_gsm8k=True), row(5, None), row(6, 10, "swapped")]
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps(one) + "\n" for one in rows), "utf-8")
    catalog = load_catalog(settings(tmp_path))
    raw, out = tmp_path / "raw", tmp_path / "out"
    for folder in (raw, out):
        folder.mkdir()
    build_raw("orca", catalog.sources["orca"], [SourceFile("train", path.name, path, "x/rows.jsonl", "0")], raw)
    made = build_pair_set("orca_card_filter", catalog.pair_sets["orca_card_filter"], raw, out)
    dropped = {"rating": 2, "status": 1, "in_gsm8k_train": 1, "identical_responses": 0, "exact_duplicate": 0}
    assert made.facts["dropped"] == dropped
    assert [pair["row"] for pair in sorted(read(out / "pairs.parquet"), key=lambda pair: pair["row"])] == [1, 6]
