import json
from pathlib import Path

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from rm_workflow import samples
from rm_workflow.catalog.models import Source
from rm_workflow.errors import UserError
from rm_workflow.hub import resolve_files
from rm_workflow.keys import content_id
from rm_workflow.preferences import raw
from rm_workflow.preferences.preview import preview
from rm_workflow.preferences.tables import ROW_RULES
from rm_workflow.preferences.understanding import dropped_row
from rm_workflow_tests.preferences import sources
from rm_workflow_tests.preferences.sources import build, build_rows, hh_row, table, transcript, write_lines

GOOD = [hh_row(f"Question {number}?", f"Good {number}.", f"Bad {number}.") for number in range(200)]
TABLE_FILES = ("dropped.parquet", "labels.parquet", "occurrences.parquet", "prompts.parquet", "responses.parquet")


def test_ids_are_hashes_of_exact_content(tmp_path: Path) -> None:
    build_rows([hh_row("Name a river.", "The Danube.", "No.")], tmp_path)
    messages = [{"role": "user", "content": "Name a river."}]
    prompt_id = content_id(messages)
    assert table(tmp_path, "prompts") == [
        {"prompt_id": prompt_id, "group_id": content_id(["group", "name a river."]), "messages": messages}
    ]
    assert {row["text"]: row["response_id"] for row in table(tmp_path, "responses")} == {
        text: content_id([prompt_id, text]) for text in ("The Danube.", "No.")
    }
    assert table(tmp_path, "occurrences")[0] == {
        "response_id": content_id([prompt_id, "The Danube."]),
        "prompt_id": prompt_id,
        "source": "tiny",
        "file": "train.jsonl",
        "row": 1,
        "slot": "chosen",
        "model": None,
        "ratings": {},
        "extra": "{}",
    }


def test_repeated_prompts_and_responses_are_stored_once_and_every_showing_is_kept(tmp_path: Path) -> None:
    built = build_rows([hh_row("A?", "x", "y"), hh_row("A?", "x", "z"), hh_row("B?", "x", "x")], tmp_path)
    assert (built.facts["num_prompts"], built.facts["num_responses"]) == (2, 4)
    assert len(table(tmp_path, "occurrences")) == 6


def test_every_row_is_used_or_dropped_under_a_named_rule(tmp_path: Path) -> None:
    question = ("Human", "A?")
    rows = [
        *GOOD,
        "{broken",
        {"chosen": None, "rejected": "x"},
        {**GOOD[0], "rejected": GOOD[1]["rejected"]},
        hh_row("A?", "x", " "),
        {side: transcript(question, question, ("Assistant", side)) for side in ("chosen", "rejected")},
    ]
    built = build_rows(rows, tmp_path)
    assert built.facts["rows"] == 205
    assert built.facts["used"] == 200
    assert built.facts["dropped"] == dict.fromkeys(ROW_RULES, 1)
    assert built.facts["files"] == {"train.jsonl": 205}
    assert [check.passed for check in built.checks if check.name == "rows_accounted_for"] == [True]
    assert [(row["row"], row["rule"], row["stage"]) for row in table(tmp_path, "dropped")] == [
        (201 + position, rule, "row") for position, rule in enumerate(ROW_RULES)
    ]


def test_every_rule_is_counted_also_where_it_drops_nothing(tmp_path: Path) -> None:
    assert build_rows(GOOD[:2], tmp_path).facts["dropped"] == dict.fromkeys(ROW_RULES, 0)
    assert table(tmp_path, "dropped") == []


def test_a_row_that_vanishes_fails_the_check(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    add = raw._add_example

    def lose_row_two(understood: tuple, place: dict, tables: object) -> None:
        if place["row"] != 2:
            add(understood, place, tables)

    monkeypatch.setattr(raw, "_add_example", lose_row_two)
    (check,) = build_rows(GOOD[:5], tmp_path).checks
    assert not check.passed
    assert check.metadata == {"rows": 5, "used": 4, "dropped": 0}


def test_a_row_that_is_used_and_dropped_fails_the_check(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    add = raw._add_example

    def use_and_drop(understood: tuple, place: dict, tables: raw._Tables) -> None:
        add(understood, place, tables)
        tables.add("dropped", dropped_row(place, {}, raw.RowDropped("bad_field", "too late")))

    monkeypatch.setattr(raw, "_add_example", use_and_drop)
    (check,) = build_rows(GOOD[:5], tmp_path).checks
    assert not check.passed


def test_rows_keep_their_physical_lines_around_broken_ones(tmp_path: Path) -> None:
    build_rows([GOOD[0], "{broken", GOOD[1]], tmp_path, max_broken_share=0.5)
    assert sorted({row["row"] for row in table(tmp_path, "occurrences")}) == [1, 3]
    (dropped,) = table(tmp_path, "dropped")
    assert (dropped["row"], dropped["rule"], dropped["excerpt"]) == (2, "broken_line", "{broken")


def test_five_percent_of_broken_lines_are_fatal_with_file_count_share_and_first_line(tmp_path: Path) -> None:
    rows: list = list(GOOD)
    for position in range(9, 200, 20):
        rows[position] = '{"chosen": "cut'
    with pytest.raises(UserError, match=r"in/train\.jsonl has 10 broken lines of 200 \(5\.00%, the first is line 10\)"):
        build_rows(rows, tmp_path)
    assert build_rows(rows, tmp_path / "allowed", max_broken_share=0.05).facts["dropped"]["broken_line"] == 10


def test_exactly_the_allowed_share_of_broken_lines_passes(tmp_path: Path) -> None:
    assert build_rows([*GOOD[:99], "{"], tmp_path).facts["dropped"]["broken_line"] == 1


def test_the_broken_share_is_taken_file_by_file(tmp_path: Path) -> None:
    write_lines(tmp_path / "in/big.jsonl", GOOD)
    write_lines(tmp_path / "in/small.jsonl", [*GOOD[:9], "{broken"])
    entry = Source(
        path=str(tmp_path / "in"),
        files={"train": ["big.jsonl"], "test": ["small.jsonl"]},
        adapter="hh_transcript",
        licence="CC0",
        max_broken_share=0.06,
    )
    with pytest.raises(UserError, match=r"small\.jsonl has 1 broken line of 10"):
        build(entry, tmp_path / "out")


def test_a_renamed_column_is_fatal_and_named_with_the_columns_found(tmp_path: Path) -> None:
    rows = [{"chosen": row["chosen"], "refused": row["rejected"]} for row in GOOD]
    with pytest.raises(
        UserError, match=r"'rejected' is missing in every row of in/train\.jsonl \(it has: chosen, refused"
    ):
        build_rows(rows, tmp_path)
    mapped = build_rows(rows, tmp_path / "mapped", columns={"rejected": "refused"})
    assert mapped.facts["used"] == 200


def test_a_column_that_one_row_lacks_drops_that_row(tmp_path: Path) -> None:
    built = build_rows([*GOOD[:3], {"chosen": GOOD[0]["chosen"]}], tmp_path)
    assert built.facts["dropped"]["bad_field"] == 1
    assert table(tmp_path, "dropped")[0]["detail"] == "rejected"


def test_a_prompt_column_that_texts_need_is_fatal_where_no_row_has_it(tmp_path: Path) -> None:
    rows = [{"question": "A?", "chosen": "x", "rejected": "y"}]
    with pytest.raises(UserError, match=r"column 'prompt' is missing in every row .*`columns`"):
        build_rows(rows, tmp_path, "chosen_rejected")


def test_a_group_column_that_is_missing_in_the_file_is_fatal(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"column 'post_id' is missing .*`group_column`"):
        build_rows(GOOD[:2], tmp_path, group_column="post_id")


@pytest.mark.parametrize("file", ["train.jsonl", "train.jsonl.gz"])
def test_a_file_of_no_rows_is_fatal(tmp_path: Path, file: str) -> None:
    write_lines(tmp_path / "in" / file, [])
    with pytest.raises(UserError, match=r"in/train\.jsonl.* has 0 rows"):
        build(sources.source(tmp_path / "in", file=file), tmp_path / "out")


def test_a_gzip_that_ends_early_is_fatal_whatever_share_may_be_broken(tmp_path: Path) -> None:
    file = tmp_path / "in/train.jsonl.gz"
    write_lines(file, GOOD)
    file.write_bytes(file.read_bytes()[:-20])
    with pytest.raises(UserError, match=r"in/train\.jsonl\.gz: the gzip file ends early"):
        build(sources.source(tmp_path / "in", file=file.name, max_broken_share=1.0), tmp_path / "out")


def test_a_source_of_which_no_row_is_understood_is_fatal_with_the_first_reason(tmp_path: Path) -> None:
    rows = [{"chosen": "no marks", "rejected": "here"}] * 3
    with pytest.raises(
        UserError, match=r"no row could be used \(bad_field 3\); the first, train\.jsonl:1: .*turn mark"
    ):
        build_rows(rows, tmp_path)


def test_rated_lists_keep_ratings_models_and_extra(tmp_path: Path) -> None:
    completions = [
        {"text": "x", "model": "m-a", "ratings": {"style": 2, "helpfulness": 4.5}, "principle": "be brief"},
        {"text": "y", "ratings": {"style": "N/A"}},
    ]
    columns = {"extra_principle": "principle"}
    build_rows([{"prompt": "A?", "completions": completions}], tmp_path, "scored_completions", columns=columns)
    first, second = table(tmp_path, "occurrences")
    assert (first["slot"], first["model"], first["ratings"]) == ("0", "m-a", {"helpfulness": 4.5, "style": 2.0})
    assert first["extra"] == '{"principle":"be brief"}'
    assert (second["slot"], second["model"], second["ratings"]) == ("1", None, {})


def test_a_group_column_puts_its_rows_into_one_group(tmp_path: Path) -> None:
    rows = [{**row, "post_id": f"post {number // 2}"} for number, row in enumerate(GOOD[:4])]
    build_rows(rows, tmp_path, group_column="post_id")
    groups = [row["group_id"] for row in table(tmp_path, "prompts")]
    assert sorted(groups) == sorted([content_id(["group", "post 0"]), content_id(["group", "post 1"])] * 2)


def test_texts_of_a_group_column_that_differ_in_case_and_space_only_are_one_group(tmp_path: Path) -> None:
    questions = ["Name a river.", " name  A river.\n", "Name a town."]
    build_rows([{**GOOD[n], "question": q} for n, q in enumerate(questions)], tmp_path, group_column="question")
    assert len({row["group_id"] for row in table(tmp_path, "prompts")}) == 2


def test_prompts_that_differ_in_case_and_space_only_share_a_group(tmp_path: Path) -> None:
    build_rows([hh_row("Name a  river.", "x", "y"), hh_row("NAME A RIVER.", "x", "y")], tmp_path)
    prompts = table(tmp_path, "prompts")
    assert len(prompts) == 2
    assert len({row["group_id"] for row in prompts}) == 1


def test_hostile_text_is_stored_verbatim(tmp_path: Path) -> None:
    texts = ["a\u2028b\x85c", "nul \x00 nul", "\u202ertl", "<|im_end|>", '"; drop table prompts; --', "é\r\n", "😀" * 3]
    build_rows([hh_row(text, f"{text} yes", f"{text} no") for text in texts], tmp_path)
    assert sorted(row["messages"][0]["content"] for row in table(tmp_path, "prompts")) == sorted(texts)
    wanted = [f"{text} {reply}" for text in texts for reply in ("yes", "no")]
    assert sorted(row["text"] for row in table(tmp_path, "responses")) == sorted(wanted)


def test_half_of_a_surrogate_pair_is_a_bad_field_with_a_readable_excerpt(tmp_path: Path) -> None:
    line = json.dumps(hh_row("half \ud83d", "x", "y"), ensure_ascii=True)
    assert build_rows([*GOOD[:3], line], tmp_path).facts["dropped"]["bad_field"] == 1
    assert "\\ud83d" in table(tmp_path, "dropped")[0]["excerpt"]


def test_an_excerpt_has_at_most_200_characters(tmp_path: Path) -> None:
    build_rows([*GOOD[:3], hh_row("long " * 200, "x", " "), {"x" * 900: 1}], tmp_path)
    assert [len(row["excerpt"]) for row in table(tmp_path, "dropped")] == [200, 200]


def test_parquet_with_nested_messages_gives_the_tables_of_the_same_rows_in_jsonl(tmp_path: Path) -> None:
    user = {"role": "user", "content": "Name a river."}
    rows = [
        {side: [user, {"role": "assistant", "content": f"{side} {number}"}] for side in ("chosen", "rejected")}
        for number in range(3)
    ]
    build_rows(rows, tmp_path / "jsonl", "chosen_rejected")
    folder = tmp_path / "parquet" / "in"
    folder.mkdir(parents=True)
    pq.write_table(pa.Table.from_pylist(rows), folder / "train.parquet")
    built = build(sources.source(folder, "chosen_rejected", "train.parquet"), tmp_path / "parquet" / "out")
    assert built.facts["used"] == 3
    for name in ("prompts", "responses"):
        assert table(tmp_path / "parquet", name) == table(tmp_path / "jsonl", name)
    assert [row["row"] for row in table(tmp_path / "parquet", "occurrences")] == [0, 0, 1, 1, 2, 2]


def test_a_rerun_writes_identical_bytes_and_leaves_nothing_else(tmp_path: Path) -> None:
    rows = [*GOOD, *GOOD[:50], "{broken", hh_row("A?", "x", " ")]
    for run in ("first", "second"):
        build_rows(rows, tmp_path / run)
    first, second = tmp_path / "first/out", tmp_path / "second/out"
    assert tuple(sorted(path.name for path in first.iterdir())) == TABLE_FILES
    for name in TABLE_FILES:
        assert (first / name).read_bytes() == (second / name).read_bytes()


def test_the_tables_do_not_depend_on_the_size_of_a_batch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    build_rows([*GOOD, "{broken"], tmp_path / "large")
    monkeypatch.setattr(raw, "BATCH_ROWS", 7)
    build_rows([*GOOD, "{broken"], tmp_path / "small")
    for name in TABLE_FILES:
        assert (tmp_path / "large/out" / name).read_bytes() == (tmp_path / "small/out" / name).read_bytes()


def test_tables_have_the_declared_types_and_order(tmp_path: Path) -> None:
    build_rows([*GOOD, "{broken"], tmp_path)
    expected = {
        "prompts": "prompt_id, group_id, messages",
        "responses": "response_id, prompt_id, text, step_ends",
        "occurrences": "response_id, prompt_id, source, file, row, slot, model, ratings, extra",
        "labels": "response_id, source, file, row, slot, step, value, kind",
        "dropped": "stage, source, file, row, slots, pair_id, chosen_id, rejected_id, rule, reason, detail, excerpt",
    }
    types = {}
    for name, columns in expected.items():
        described = duckdb.execute(f"describe from '{tmp_path / 'out' / name}.parquet'").fetchall()
        assert ", ".join(column for column, *_ in described) == columns
        types |= {(name, column): kind for column, kind, *_ in described}
    assert types["prompts", "messages"] == 'STRUCT("role" VARCHAR, "content" VARCHAR)[]'
    assert types["responses", "step_ends"] == "INTEGER[]"
    assert types["occurrences", "ratings"] == "MAP(VARCHAR, DOUBLE)"
    assert types["occurrences", "row"] == types["dropped", "row"] == "BIGINT"
    assert types["dropped", "slots"] == "VARCHAR[]"
    keys = [(row["prompt_id"], row["response_id"]) for row in table(tmp_path, "responses")]
    assert keys == sorted(keys)


def test_occurrences_are_ordered_by_file_row_and_slot_whatever_was_read_first(tmp_path: Path) -> None:
    write_lines(tmp_path / "in/train.jsonl", GOOD[:2])
    write_lines(tmp_path / "in/later.jsonl", GOOD[2:3])
    files = {"train": ["train.jsonl"], "test": ["later.jsonl"]}
    entry = Source(path=str(tmp_path / "in"), files=files, adapter="hh_transcript", licence="CC0")
    build(entry, tmp_path / "out")
    places = [(row["file"], row["row"], row["slot"]) for row in table(tmp_path, "occurrences")]
    assert len(places) == 6
    assert places == sorted(places)


def test_progress_is_told_after_each_file(tmp_path: Path) -> None:
    write_lines(tmp_path / "in/train.jsonl", GOOD[:3])
    entry = sources.source(tmp_path / "in")
    (tmp_path / "out").mkdir()
    seen: list[int] = []
    files = resolve_files(entry, sources.settings(tmp_path))
    raw.build_raw("tiny", entry, files, tmp_path / "out", lambda done, total: seen.append(done))
    assert seen == [3]


def test_a_large_file_read_by_several_processes_gives_the_same_bytes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = [hh_row(f"Question {number}?", f"Good {number}.", f"Bad {number % 7}.") for number in range(1500)]
    rows[700] = {"chosen": "no transcript", "rejected": "no transcript"}
    write_lines(tmp_path / "in/train.jsonl", rows)
    entry = sources.source(tmp_path / "in")
    files = resolve_files(entry, sources.settings(tmp_path))
    monkeypatch.setenv("RMW_THREADS", "3")
    built = {}
    for limit in (raw.PARALLEL_BYTES, 1):
        monkeypatch.setattr(raw, "PARALLEL_BYTES", limit)
        out = tmp_path / f"out-{limit}"
        out.mkdir()
        facts = raw.build_raw("tiny", entry, files, out).facts
        built[limit] = facts, {name: (out / name).read_bytes() for name in TABLE_FILES}
    serial, parallel = built.values()
    assert serial == parallel
    assert serial[0]["rows"] == 1500
    assert serial[0]["used"] == 1499


def test_several_processes_refuse_a_bad_file_as_one_does(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_lines(tmp_path / "in/train.jsonl", [*GOOD * 3, *["{broken"] * 200])
    entry = sources.source(tmp_path / "in")
    files = resolve_files(entry, sources.settings(tmp_path))
    monkeypatch.setenv("RMW_THREADS", "2")
    monkeypatch.setattr(raw, "PARALLEL_BYTES", 1)
    (tmp_path / "out").mkdir()
    with pytest.raises(UserError, match=r"200 broken lines of 800 \(25.00%, the first is line 601\)"):
        raw.build_raw("tiny", entry, files, tmp_path / "out")


@pytest.mark.parametrize("name", ["dialogues", "ratings"])
def test_the_planted_rows_of_the_sample_are_dropped_under_their_rules(tmp_path: Path, name: str) -> None:
    adapter = {"dialogues": "hh_transcript", "ratings": "scored_completions"}[name]
    files = {"train": ["train.jsonl"], "test": ["test.jsonl"]}
    entry = Source(path=f"samples:{name}", files=files, adapter=adapter, licence="Apache-2.0")
    (tmp_path / "out").mkdir()
    home = sources.settings(tmp_path / "home")
    built = raw.build_raw(f"sample_{name}", entry, resolve_files(entry, home), tmp_path / "out")
    planted = json.loads((samples.folder(home) / "planted.json").read_text("utf-8"))["counts"]["sources"]
    assert {key: built.facts[key] for key in ("rows", "used", "dropped")} == planted[f"sample_{name}"]


@pytest.mark.shared_rows
def test_the_real_rows_are_all_accounted_for(tmp_path: Path, shared_rows: Path) -> None:
    subsets = ("helpful-base", "helpful-online", "helpful-rejection-sampled")
    entry = Source(
        hub="Anthropic/hh-rlhf",
        files={split: [f"{subset}/{split}.jsonl.gz" for subset in subsets] for split in ("train", "test")},
        adapter="hh_transcript",
        licence="MIT",
    )
    (tmp_path / "out").mkdir()
    files = resolve_files(entry, sources.settings(tmp_path / "home", shared_rows / "hub"))
    built = raw.build_raw("hh_helpful", entry, files, tmp_path / "out")
    assert (built.facts["rows"], built.facts["used"]) == (4861, 4841)
    assert built.facts["dropped"] == {
        "broken_line": 0,
        "bad_field": 0,
        "context_differs": 9,
        "empty_message": 6,
        "not_alternating": 5,
    }
    assert all(check.passed for check in built.checks)


# Labels


def prm_row(*steps: tuple[str, str], question: str = "How many?") -> dict:
    turns = [turn for step in steps for turn in zip(("user", "assistant"), step, strict=True)]
    first = {"role": "user", "content": f"{question} {turns[0][1]}"}
    return {"conversations": [first, *({"role": role, "content": content} for role, content in turns[1:])]}


def build_steps(rows: list[dict], folder: Path) -> dict:
    return build_rows(rows, folder, "step_turns", solution_starts="Step 1:").facts


def test_each_label_names_its_row_slot_step_value_and_kind(tmp_path: Path) -> None:
    facts = build_steps([prm_row(("Step 1: a", "+"), ("Step 2: b", "-"))], tmp_path)
    response = table(tmp_path, "responses")[0]
    place = {"response_id": response["response_id"], "source": "tiny", "file": "train.jsonl", "row": 1, "slot": "0"}
    assert response["step_ends"] == [len("Step 1: a"), len("Step 1: a\nStep 2: b")]
    assert table(tmp_path, "labels") == [
        {**place, "step": 0, "value": 1.0, "kind": "hard"},
        {**place, "step": 1, "value": 0.0, "kind": "hard"},
    ]
    assert facts["num_labels"] == {"hard": {"0": 1, "1": 1}}


def test_a_response_that_several_rows_judge_keeps_every_label_with_its_row(tmp_path: Path) -> None:
    build_steps([prm_row(("Step 1: a", sign)) for sign in "+-+"], tmp_path)
    assert len(table(tmp_path, "responses")) == 1
    assert [(label["row"], label["value"]) for label in table(tmp_path, "labels")] == [(1, 1.0), (2, 0.0), (3, 1.0)]


def test_rows_that_cut_one_text_differently_keep_their_labels_at_the_same_characters(tmp_path: Path) -> None:
    rows = [
        prm_row(("Step 1: a\nb", "-"), ("c", "+")),
        prm_row(("Step 1: a", "+"), ("b\nc", "-")),
    ]
    for order in ("given", "turned"):
        build_steps(rows if order == "given" else rows[::-1], tmp_path / order)
        (response,) = table(tmp_path / order, "responses")
        assert response["text"] == "Step 1: a\nb\nc"
        ends = response["step_ends"]
        assert ends == [len("Step 1: a"), len("Step 1: a\nb"), len("Step 1: a\nb\nc")]
        placed = {}
        for label in table(tmp_path / order, "labels"):
            placed.setdefault(label["row"], {})[response["text"][: ends[label["step"]]]] = label["value"]
        first, second = (1, 2) if order == "given" else (2, 1)
        assert placed[first] == {"Step 1: a\nb": 0.0, "Step 1: a\nb\nc": 1.0}
        assert placed[second] == {"Step 1: a": 1.0, "Step 1: a\nb\nc": 0.0}


def test_a_source_without_labels_has_an_empty_table_of_them_and_no_steps(tmp_path: Path) -> None:
    facts = build_rows(GOOD[:3], tmp_path).facts
    assert table(tmp_path, "labels") == []
    assert {row["step_ends"] for row in table(tmp_path, "responses")} == {None}
    assert facts["num_labels"] == {}


def test_soft_labels_are_counted_as_nought_one_and_between(tmp_path: Path) -> None:
    values = [0, 0.0625, 0.5, 1, 1.0]
    starts = [{"solution_prefix": f"How? {number}", "mc_value": value} for number, value in enumerate(values)]
    facts = build_rows([{"question": "How?", "reasoning_steps": starts}], tmp_path, "prefix_values").facts
    assert facts["num_labels"] == {"soft": {"0": 1, "1": 2, "between": 2}}


def test_labelled_rows_written_twice_are_identical_bytes(tmp_path: Path) -> None:
    rows = [prm_row(("Step 1: a", "+"), (f"Step 2: {n % 7}", "-"), question=f"{n % 5}?") for n in range(60)]
    for run in ("first", "second"):
        build_steps(rows, tmp_path / run)
    for name in TABLE_FILES:
        assert (tmp_path / "first/out" / name).read_bytes() == (tmp_path / "second/out" / name).read_bytes()


def test_the_preview_cuts_a_response_into_steps_and_shows_its_labels(tmp_path: Path) -> None:
    write_lines(tmp_path / "in/train.jsonl", [prm_row(("Step 1: a", "+"), ("Step 2: b", "-"))])
    entry = sources.source(tmp_path / "in", "step_turns", solution_starts="Step 1:")
    seen = preview("tiny", entry, resolve_files(entry, sources.settings(tmp_path / "home")))
    (response,) = seen["files"][0]["rows"][0]["responses"]
    assert response["steps"] == ["Step 1: a", "\nStep 2: b"]
    assert response["labels"] == [
        {"kind": "hard", "value": 1.0, "step": 0},
        {"kind": "hard", "value": 0.0, "step": 1},
    ]


# Looked-up rows

VOTES = [{"pair": 1, "won": "x"}, {"pair": "2", "won": "y"}, {"pair": 7, "won": "x"}, {"won": "x"}]
TEXTS = [
    {"pair": 1, "prompt": "Hi?", "response_a": "Yes.", "response_b": "No.", "won": "nobody"},
    {"pair": 2, "prompt": "Ho?", "response_a": "A.", "response_b": "B."},
]


def voting(folder: Path, texts: list, **fields: object) -> Source:
    write_lines(folder / "in/votes.jsonl", VOTES)
    write_lines(folder / "in/texts.jsonl", texts)
    files = {"train": ["votes.jsonl"], "texts": ["texts.jsonl"]}
    given = {"columns": {"label": "won"}, "winner": {"a": ["x"], "b": ["y"]}, "licence": "CC0", **fields}
    lookup = {"split": "texts", "key": "pair"}
    return Source(path=str(folder / "in"), files=files, lookup=lookup, adapter="labelled_pair", **given)


def test_rows_have_the_columns_of_the_looked_up_row_that_they_name(tmp_path: Path) -> None:
    entry = voting(tmp_path, TEXTS)
    built = build(entry, tmp_path / "out")
    assert (built.facts["rows"], built.facts["used"], built.facts["files"]) == (4, 2, {"votes.jsonl": 4})
    ids = {row["response_id"]: row["text"] for row in table(tmp_path, "responses")}
    shown = [(row["row"], row["slot"], ids[row["response_id"]]) for row in table(tmp_path, "occurrences")]
    assert shown == [(1, "chosen", "Yes."), (1, "rejected", "No."), (2, "chosen", "B."), (2, "rejected", "A.")]
    drops = [(row["row"], row["rule"], row["reason"], row["detail"]) for row in table(tmp_path, "dropped")]
    assert drops == [
        (3, "bad_field", "no looked-up row has this key", "pair 7"),
        (4, "bad_field", "a column is missing", "pair"),
    ]
    look = preview("tiny", entry, resolve_files(entry, sources.settings(tmp_path / "home")))
    assert [(file["file"], file["num_rows"], file["num_used"]) for file in look["files"]] == [("votes.jsonl", 4, 2)]


@pytest.mark.parametrize(
    ("texts", "problem"),
    [
        ([*TEXTS, "{"], "texts.jsonl:3, looked up by 'pair': not JSON"),
        ([*TEXTS, {"prompt": "?"}], "texts.jsonl:3, looked up by 'pair': has no key"),
        ([*TEXTS, {"pair": "1"}], "texts.jsonl:3, looked up by 'pair': is there twice"),
    ],
)
def test_a_looked_up_row_that_is_broken_or_unclear_is_fatal(tmp_path: Path, texts: list, problem: str) -> None:
    with pytest.raises(UserError, match=problem):
        build(voting(tmp_path, texts), tmp_path / "out")


def test_a_column_that_neither_file_has_is_named_with_the_columns_of_both(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"column 'text' is missing in every row of .*votes\.jsonl \(.*response_a.*won"):
        build(voting(tmp_path, TEXTS, columns={"label": "won", "prompt": "text"}), tmp_path / "out")


@pytest.mark.parametrize(
    ("files", "problem"),
    [({"train": ["a"]}, "'files' has no file under it"), ({"texts": ["a"]}, "list the rows under another split")],
)
def test_a_lookup_needs_files_beside_those_of_the_rows(files: dict, problem: str) -> None:
    lookup = {"split": "texts", "key": "pair"}
    with pytest.raises(ValueError, match=problem):
        Source(path="f", files=files, lookup=lookup, adapter="chosen_rejected", licence="CC0")
