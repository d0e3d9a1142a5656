"""What every adapter promises on any row: nothing vanishes, order does not matter, text is kept or named a fault."""

import csv
import io
import json
import random
import zlib
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from rm_workflow.catalog.models import PairSet, Source
from rm_workflow.hub import resolve_files
from rm_workflow.preferences import adapters
from rm_workflow.preferences.pairs import build_pair_set
from rm_workflow.preferences.raw import build_raw
from rm_workflow.preferences.tables import ROW_RULES, Example, RowDropped
from rm_workflow.preferences.understanding import understand
from rm_workflow_tests.preferences import sources
from rm_workflow_tests.preferences.raw_tables import read

Row = dict[str, Any]


# slot -> text
Shown = Mapping[str, str]
# (slot, what is judged: the text up to the end of the step, kind of label or name of rating, value)
Judged = tuple[str, str, str, float]


def pair(first: str, second: str) -> Shown:
    return {"chosen": first, "rejected": second}


def listed(*texts: str) -> Shown:
    return {str(place): text for place, text in enumerate(texts)}


def nothing_judged(first: str, second: str) -> list[Judged]:
    return []


@dataclass(frozen=True)
class Form:
    """A good row of an adapter.

    Attributes:
        make: (prompt, first, second) -> the row, whose prompt is the one user turn.
        shows: (first, second) -> the response in each slot.
        judges: (first, second) -> each label and rating that the row gives.
    """

    adapter: str
    make: Callable[[str, str, str], Row]
    shows: Callable[[str, str], Shown] = pair
    judges: Callable[[str, str], Sequence[Judged]] = nothing_judged
    fields: Mapping[str, Any] | None = None


def said(role: str, text: str) -> dict[str, str]:
    return {"role": role, "content": text}


def completion(text: str, rating: object) -> Row:
    return {"text": text, "model": "m", "ratings": {"quality": rating}}


FORMS = {
    "transcripts": Form("hh_transcript", sources.hh_row),
    "texts": Form("chosen_rejected", lambda prompt, a, b: {"prompt": prompt, "chosen": a, "rejected": b}),
    "texts with a column for rules": Form(
        "chosen_rejected",
        lambda prompt, a, b: {"prompt": prompt, "chosen": a, "rejected": b, "status": "tie"},
        fields={"columns": {"extra_status": "status"}},
    ),
    "messages": Form(
        "chosen_rejected",
        lambda prompt, a, b: {
            "chosen": [said("user", prompt), said("assistant", a)],
            "rejected": [said("user", prompt), said("assistant", b)],
        },
    ),
    "labels": Form(
        "labelled_pair",
        lambda prompt, a, b: {"prompt": prompt, "response_a": a, "response_b": b, "label": 0},
        judges=lambda a, b: [("chosen", a, "preference", 1), ("rejected", b, "preference", 0)],
        fields={"winner": {"a": [0], "b": [1]}},
    ),
    "labels of each two": Form(
        "labelled_list",
        lambda prompt, a, b: {"prompt": prompt, "responses": [a, b, "third"], "labels": [1, 0, None]},
        shows=lambda a, b: listed(a, b, "third"),
        judges=lambda a, b: [
            *(("0", a, "preference_1", 0), ("1", b, "preference_0", 1)),
            *(("0", a, "preference_2", 1), ("2", "third", "preference_0", 0)),
        ],
        fields={"winner": {"a": [0], "b": [1]}},
    ),
    "completions": Form(
        "scored_completions",
        lambda prompt, a, b: {"prompt": prompt, "completions": [completion(a, "4"), completion(b, "N/A")]},
        shows=listed,
        judges=lambda a, b: [("0", a, "quality", 4)],
    ),
    "responses": Form(
        "rated_response",
        lambda prompt, a, b: {"prompt": prompt, "response": a, "help": 3},
        shows=lambda a, b: listed(a),
        judges=lambda a, b: [("0", a, "help", 3)],
        fields={"columns": {"rating_help": "help"}},
    ),
    "answers": Form(
        "labelled_answers",
        lambda prompt, a, b: {"prompt": prompt, "answers": [f"{a} ки\n{b}", b], "label": [1, 0]},
        shows=lambda a, b: listed(f"{a} ки\n{b}", b),
        judges=lambda a, b: [("0", f"{a} ки\n{b}", "outcome", 1), ("1", b, "outcome", 0)],
        fields={"step_separator": "ки"},
    ),
    "marks": Form(
        "marked_steps",
        lambda prompt, a, b: {
            "input": f"{prompt} Step 1: {a} ки\n{b} ки",
            "label": f"{prompt} Step 1: {a} +\n{b} -",
        },
        shows=lambda a, b: listed(f"Step 1: {a} ки\n{b} ки"),
        judges=lambda a, b: [("0", f"Step 1: {a} ки", "hard", 1), ("0", f"Step 1: {a} ки\n{b} ки", "hard", 0)],
        fields={"solution_starts": "Step 1:", "step_separator": "ки"},
    ),
    "outcomes": Form(
        "outcome_turn",
        lambda prompt, a, b: {
            "conversations": [said("user", f"{prompt} Step 1: {a}\n{b}"), said("assistant", "+")],
        },
        shows=lambda a, b: listed(f"Step 1: {a}\n{b}"),
        judges=lambda a, b: [("0", f"Step 1: {a}\n{b}", "outcome", 1)],
        fields={"solution_starts": "Step 1:", "step_separator": "\n"},
    ),
    # white space between the question and the solution belongs to neither
    "starts": Form(
        "prefix_values",
        lambda prompt, a, b: {
            "question": prompt,
            "reasoning_steps": [
                {"solution_prefix": prompt, "mc_value": 0.5},
                {"solution_prefix": f"{prompt}\n\n{a}", "mc_value": 0.75},
                {"solution_prefix": f"{prompt}\n\n{a}\n\nso {b}", "mc_value": 0.25},
            ],
        },
        shows=lambda a, b: {"1": a.lstrip(), "2": f"{a.lstrip()}\n\nso {b}"},
        judges=lambda a, b: [("1", a.lstrip(), "soft", 0.75), ("2", f"{a.lstrip()}\n\nso {b}", "soft", 0.25)],
    ),
    "references": Form(
        "reference_answer",
        lambda prompt, a, b: {"question": prompt, "answer": f"{a}\n{b}\n#### 5"},
        shows=lambda a, b: {"reference": f"{a}\n{b}\n#### 5"},
        fields={"step_separator": "\n"},
    ),
    "ratings of steps": Form(
        "step_ratings",
        lambda prompt, a, b: {
            "labeler": "somebody",
            "question": {"problem": prompt},
            "label": {
                "finish_reason": "found_error",
                "steps": [
                    {"completions": [{"text": a, "rating": 1}], "human_completion": None, "chosen_completion": 0},
                    {
                        "completions": [{"text": b, "rating": -1}, {"text": "so", "rating": None}],
                        "human_completion": {"text": "thus", "rating": 0},
                        "chosen_completion": None,
                    },
                ],
            },
        },
        shows=lambda a, b: {"path": f"{a}\nthus", "1.0": f"{a}\n{b}", "1.1": f"{a}\nso"},
        judges=lambda a, b: [
            ("path", a, "rating", 1),
            ("path", f"{a}\nthus", "rating", 0),
            ("1.0", f"{a}\n{b}", "rating", -1),
        ],
    ),
    "turns of steps": Form(
        "step_turns",
        lambda prompt, a, b: {
            "conversations": [
                *(said("user", f"{prompt} Step 1: {a}"), said("assistant", "+")),
                *(said("user", b), said("assistant", "-")),
            ]
        },
        shows=lambda a, b: listed(f"Step 1: {a}\n{b}"),
        judges=lambda a, b: [("0", f"Step 1: {a}", "hard", 1), ("0", f"Step 1: {a}\n{b}", "hard", 0)],
        fields={"solution_starts": "Step 1:"},
    ),
    "a label for each step": Form(
        "labelled_steps",
        lambda prompt, a, b: {"prompt": prompt, "completions": [a, b], "labels": [True, False]},
        shows=lambda a, b: listed(f"{a}\n{b}"),
        judges=lambda a, b: [("0", a, "hard", 1), ("0", f"{a}\n{b}", "hard", 0)],
    ),
    "numbers of wrong steps": Form(
        "wrong_steps",
        lambda prompt, a, b: {"prompt": prompt, "steps": [a, b], "wrong": [2]},
        shows=lambda a, b: listed(f"{a}\n{b}"),
        judges=lambda a, b: [("0", a, "hard", 1), ("0", f"{a}\n{b}", "hard", 0)],
        fields={"columns": {"wrong": "wrong"}},
    ),
}
every_form = pytest.mark.parametrize("form", FORMS.values(), ids=FORMS)
# An example builds tables: it is drawn whole from a seed, and a failing one is not made smaller, which takes minutes.
SEEDS = st.integers(0, 2**32).map(random.Random)
FEW = settings(
    max_examples=2,
    deadline=None,
    phases=[Phase.explicit, Phase.reuse, Phase.generate],
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)

# What other readers trip over: bytes that end strings or lines elsewhere, halves of characters, marks of other formats.
PIECES = [*"\x00\n\x85\u2028\u2029\ufeff\u200f\u202eé😀\ufdfa\\\"'[a ", "\r\n", "e\u0301", "{}", "Human:"]
PIECES += ["<|im_end|>", "<|im_start|>assistant\n", "</s>", "<extra_id_1>", "####", "+", "-", "Step 2:"]
BROKEN = [b'{"chosen": "a', b"\xff\xfe", b"null", b"[1]", b"", b"\x00", b'{"a": NaN}', b'"text"', b'{"a": 1}}']
# Each starts one line of CSV; a quote that is never closed takes in its neighbours: see test_files.py.
BROKEN_CSV = [b"\xff", b'"a"b', b"a\rb", b'"\xff"', b"", b"\x00,"]
JUNK = [
    None,
    True,
    7,
    -0.5,
    0.0,
    "",
    " \n",
    "half \ud83d of a pair",
    [],
    {},
    [None],
    {"role": 1},
    "word",
    10**400,
    float("inf"),
]

HOSTILE = st.lists(st.sampled_from(PIECES), min_size=1, max_size=8).map("".join)
TEXTS = HOSTILE.filter(lambda text: text.strip() != "" and "\n\nHuman:" not in f"\n{text}")


def source(form: Form, folder: Path, *files: str) -> Source:
    return Source(
        path=str(folder),
        files={"train": list(files or ["train.jsonl"])},
        adapter=form.adapter,
        licence="CC0",
        max_broken_share=1.0,
        **(form.fields or {}),
    )


def as_line(row: Row | bytes) -> bytes:
    """Return a row as JSON, about half of them with escapes for all that is not ASCII: the same for the same row.

    A number beyond all floats is written as JSON can write it.
    """
    if isinstance(row, bytes):
        return row + b"\n"
    escaped = json.dumps(row).encode()
    raw = json.dumps(row, ensure_ascii=False).encode("utf-8", "surrogatepass")
    return (raw if zlib.crc32(escaped) % 2 else escaped).replace(b"Infinity", b"1e999") + b"\n"


def build(form: Form, folder: Path, **files: Sequence[Row | bytes]) -> dict[str, Any]:
    """Build rows of files and return the facts; the tables stand in ``folder/out``."""
    (folder / "in").mkdir(parents=True)
    for name, rows in files.items():
        (folder / "in" / f"{name}.jsonl").write_bytes(b"".join(map(as_line, rows)))
    entry = source(form, folder / "in", *(f"{name}.jsonl" for name in files))
    (folder / "out").mkdir(parents=True)
    built = build_raw("any", entry, resolve_files(entry, sources.settings(folder / "home")), folder / "out")
    assert all(check.passed for check in built.checks)
    return dict(built.facts)


def places(value: Any) -> Iterator[tuple[Any, Any]]:
    """Yield (container, key) of every value inside."""
    entries = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, inner in list(entries):
        yield value, key
        yield from places(inner)


def every_change(form: Form) -> Iterator[Row]:
    """Yield a good row with each strange value in each place, one at a time."""
    for number in range(len(list(places(form.make("Q", "a", "b"))))):
        for strange in JUNK:
            row = form.make("Q", "a", "b")
            container, key = list(places(row))[number]
            container[key] = strange
            yield row


def any_row(form: Form, rng: random.Random) -> Row | bytes:
    """Return a good row, a row with a value replaced or taken out, or a line that is no object."""
    prompt = rng.choice(["Q", "Q ", "q", "Ｑ", "R", any_text(rng)])
    row = form.make(prompt, *(rng.choice(["a", "b", any_text(rng)]) for _ in range(2)))
    kind = rng.choice(["good", "good", "changed", "cut", "broken"])
    if kind == "broken":
        return rng.choice(BROKEN)
    if kind != "good":
        container, key = rng.choice(list(places(row)))
        if kind == "changed" or isinstance(container, list):
            container[key] = rng.choice(JUNK)
        else:
            del container[key]
    return row


def any_text(rng: random.Random) -> str:
    return "".join(rng.choice(PIECES) for _ in range(rng.randrange(1, 9)))


def any_rows(form: Form, rng: random.Random) -> list[Row | bytes]:
    return [any_row(form, rng) for _ in range(rng.randrange(15, 40))]


def test_every_adapter_has_a_form_here():
    assert {form.adapter for form in FORMS.values()} == set(adapters.names()), "add rows of the new adapter to FORMS"


@every_form
@FEW
@given(rng=SEEDS)
def test_rows_are_used_or_dropped_and_their_order_and_files_do_not_matter(
    form: Form, rng: random.Random, tmp_path_factory: pytest.TempPathFactory
):
    rows = any_rows(form, rng)
    shuffled, cut = rng.sample(rows, len(rows)), rng.randrange(len(rows))
    # a good row in each file, as a file in which no row has a column is refused
    first, second = form.make("First", "a", "b"), form.make("Second", "a", "b")
    folder = tmp_path_factory.mktemp("rows")
    facts = build(form, folder / "one", a=[first, *rows], b=[second])
    again = build(form, folder / "two", a=[*shuffled[:cut], first], b=[second, *shuffled[cut:]])
    assert facts["rows"] == len(rows) + 2 == facts["used"] + sum(facts["dropped"].values())
    assert {name: facts[name] for name in ("rows", "used", "dropped")} == {
        name: again[name] for name in ("rows", "used", "dropped")
    }
    for table in ("prompts", "responses"):
        assert (folder / f"one/out/{table}.parquet").read_bytes() == (folder / f"two/out/{table}.parquet").read_bytes()
    assert shown(folder / "one") == shown(folder / "two")


def shown(folder: Path) -> Counter[str]:
    """Return each showing and each label of a response without its place."""
    columns = {
        "occurrences": ("response_id", "slot", "model", "ratings", "extra"),
        "labels": ("response_id", "slot", "step", "value", "kind"),
    }
    return Counter(
        repr([row[key] for key in keys])
        for table, keys in columns.items()
        for row in read(folder / f"out/{table}.parquet")
    )


def outcome(form: Form, row: Row) -> Example | str:
    """Return what a row says, or the rule that drops it."""
    try:
        return understand(row, source(form, Path("folder")), adapters.get(form.adapter))[1]
    except RowDropped as drop:
        return drop.rule


@every_form
@settings(max_examples=30, deadline=None)
@given(prompt=TEXTS, first=TEXTS, second=TEXTS)
def test_any_text_is_understood_verbatim(form: Form, prompt: str, first: str, second: str):
    row = json.loads(json.dumps(form.make(prompt, first, second)))
    example = outcome(form, row)
    assert isinstance(example, Example)
    assert [turn["content"] for turn in example.messages] == [prompt]
    assert {response.slot: response.text for response in example.responses} == form.shows(first, second)


@every_form
@settings(max_examples=30, deadline=None)
@given(rng=SEEDS)
def test_any_row_is_an_example_or_dropped_by_a_named_rule(form: Form, rng: random.Random):
    row = any_row(form, rng)
    if isinstance(row, bytes):
        return
    example = outcome(form, row)
    if isinstance(example, str):
        assert example in ROW_RULES
        return
    asked, replies = [turn["content"] for turn in example.messages], [response.text for response in example.responses]
    # Of a row with many answers an empty one is dropped alone, by the reader of rows.
    assert all(text.strip() for text in (asked if form.adapter == "labelled_answers" else [*asked, *replies]))
    assert example.messages[-1]["role"] == "user"
    # stored as UTF-8
    assert all(isinstance(text.encode("utf-8"), bytes) for text in [*asked, *replies])


@every_form
@FEW
@given(rng=SEEDS)
def test_a_hostile_row_never_touches_its_neighbours(
    form: Form, rng: random.Random, tmp_path_factory: pytest.TempPathFactory
):
    hostile = [*every_change(form), *BROKEN, *any_rows(form, rng)]
    folder = tmp_path_factory.mktemp("rows")
    good = [(f"Question {number}?", f"yes {number}", f"no {number}") for number in range(len(hostile) + 1)]
    lines = [form.make(*good[0])]
    for row, texts in zip(hostile, good[1:], strict=True):
        lines += [row, form.make(*texts)]
    build(form, folder, train=lines)
    dropped = Counter(row["row"] for row in read(folder / "out/dropped.parquet"))
    found = texts_by_row(folder)
    assert_rows_stand(form, folder, {2 * number + 1: texts for number, texts in enumerate(good)})
    for number in range(len(hostile)):
        assert (2 * number + 2 in found) + dropped[2 * number + 2] == 1
    assert {row["rule"] for row in read(folder / "out/dropped.parquet")} <= set(ROW_RULES)


@pytest.mark.parametrize("name", ["texts", "labels", "responses"])
@FEW
@given(rng=SEEDS)
def test_a_hostile_row_of_csv_never_touches_its_neighbours(
    name: str, rng: random.Random, tmp_path_factory: pytest.TempPathFactory
):
    form = FORMS[name]
    folder = tmp_path_factory.mktemp("rows")
    good = [(f"Question {number}?", kept_text(rng), kept_text(rng)) for number in range(40)]
    columns = list(form.make(*good[0]))
    data, starts, hostile_lines = csv_line(columns), {}, set()
    for texts in good:
        starts[data.count(b"\n") + 1] = texts
        data += csv_line(form.make(*texts).values())
        hostile_lines.add(data.count(b"\n") + 1)
        few = csv_line(any_text(rng) for _ in columns[1:])
        data += rng.choice([few, b"\n", *(start + csv_line(["", *columns[1:]]) for start in BROKEN_CSV)])
    (folder / "rows.csv").write_bytes(data)
    # all cells of CSV are text, so that a label is one too
    fields = {**(form.fields or {}), **({"winner": {"a": ["0"], "b": ["1"]}} if name == "labels" else {})}
    built = sources.build(source(replace(form, fields=fields), folder, "rows.csv"), folder / "out")
    assert built.facts["rows"] == 2 * len(good)
    assert_rows_stand(form, folder, starts)
    assert {row["row"] for row in read(folder / "out/dropped.parquet")} == hostile_lines


def csv_line(cells: Iterable[object]) -> bytes:
    text = io.StringIO(newline="")
    csv.writer(text).writerow(cells)
    return text.getvalue().encode()


def assert_rows_stand(form: Form, folder: Path, rows: Mapping[int, tuple[str, str, str]]) -> None:
    """Assert that what was built of rows (number -> prompt, first, second) is exactly their texts and judgements."""
    found, judged = texts_by_row(folder), judgements_by_row(folder)
    for number, (prompt, first, second) in rows.items():
        assert found[number] == (prompt, form.shows(first, second))
        assert judged[number] == Counter(
            (slot, text.rstrip(), name, value) for slot, text, name, value in form.judges(first, second)
        )


def texts_by_row(folder: Path) -> dict[int, tuple[str, Shown]]:
    """Return (last user turn, slot -> response) of each row."""
    prompts = {row["prompt_id"]: row["messages"][-1]["content"] for row in read(folder / "out/prompts.parquet")}
    texts = {row["response_id"]: row["text"] for row in read(folder / "out/responses.parquet")}
    found: dict[int, tuple[str, dict[str, str]]] = {}
    for row in read(folder / "out/occurrences.parquet"):
        found.setdefault(row["row"], (prompts[row["prompt_id"]], {}))[1][row["slot"]] = texts[row["response_id"]]
    return found


def judgements_by_row(folder: Path) -> dict[int, Counter[Judged]]:
    """Return the labels and ratings of each row; white space at the end of a whole response is left out."""
    responses = {row["response_id"]: row for row in read(folder / "out/responses.parquet")}
    judged: dict[int, Counter[Judged]] = defaultdict(Counter)
    for row in read(folder / "out/labels.parquet"):
        response = responses[row["response_id"]]
        end = None if row["step"] is None else response["step_ends"][row["step"]]
        text = response["text"].rstrip() if end is None else response["text"][:end]
        judged[row["row"]][row["slot"], text, row["kind"], row["value"]] += 1
    for row in read(folder / "out/occurrences.parquet"):
        for name, value in row["ratings"]:
            judged[row["row"]][row["slot"], responses[row["response_id"]]["text"].rstrip(), name, value] += 1
    return judged


@every_form
@FEW
@given(rng=SEEDS)
def test_each_label_stays_with_its_step_whatever_texts_stand_around(
    form: Form, rng: random.Random, tmp_path_factory: pytest.TempPathFactory
):
    rows = [tuple(kept_text(rng) for _ in range(3)) for _ in range(40)]
    # one prompt with the same pieces cut elsewhere: equal responses whose steps differ
    rows += [("Cut", "x", "y\nz"), ("Cut", "x\ny", "z"), ("Cut", " x ", " y "), ("Cut", " x \n", " y \n")]
    rng.shuffle(rows)
    folder = tmp_path_factory.mktemp("rows")
    build(form, folder, train=[form.make(*texts) for texts in rows])
    assert_rows_stand(form, folder, dict(enumerate(rows, start=1)))


def kept_text(rng: random.Random) -> str:
    """Return a hostile text that every form can hold."""
    while True:
        text = any_text(rng)
        if text.strip() and "\n\nHuman:" not in f"\n{text}":
            return text


@every_form
def test_a_cell_of_ten_megabytes_is_stored_whole(form: Form, tmp_path: Path):
    huge = "\x00<|im_end|>\u2028" + "0123456789" * 1_000_000
    rows = [("Before", "a", "b"), ("Huge", huge, "b"), ("After", "a", "b")]
    build(form, tmp_path, train=[form.make(*texts) for texts in rows])
    assert_rows_stand(form, tmp_path, dict(enumerate(rows, start=1)))


def test_hostile_texts_pass_the_rules_of_a_pair_set_whole(tmp_path: Path):
    form = FORMS["texts"]
    texts = [piece * 90 + "end" for piece in PIECES]
    rows = [form.make(text, text, text) for text in texts] + [form.make(text, text, "b") for text in texts]
    build(form, tmp_path, train=[*rows, *rows])
    rules = ["identical_responses", "exact_duplicate", {"cap": {"max_pairs": 1}}]
    (tmp_path / "pairs").mkdir()
    pair_set = PairSet(source="any", candidates="given", rules=rules)
    built = build_pair_set("any", pair_set, tmp_path / "out", tmp_path / "pairs")
    count = len(texts)
    assert built.facts["dropped"] == {"identical_responses": 2 * count, "exact_duplicate": count, "cap": 0}
    excerpts = Counter(row["excerpt"] for row in read(tmp_path / "pairs/dropped.parquet"))
    assert excerpts == Counter({text[:200]: 3 for text in texts})
