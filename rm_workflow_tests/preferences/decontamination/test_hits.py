"""What is a leak, what is not, and that the joins find exactly what slow obvious Python finds."""

import random
from collections.abc import Mapping, Sequence
from pathlib import Path

import duckdb
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from rm_workflow.catalog.models import Guard, NearDuplicate
from rm_workflow.preferences.decontamination.hits import HITS_ORDERED, USES_ORDERED, find_hits
from rm_workflow.preferences.decontamination.targets import load_targets
from rm_workflow.preferences.decontamination.words import words
from rm_workflow.preferences.text import load_texts
from rm_workflow_tests.preferences.decontamination.reference import Reference, boilerplate, response_share
from rm_workflow_tests.preferences.raw_tables import RawRow, Shown, write_benchmark, write_raw

PROBLEM = (
    "Natalia sold clips to 48 of her friends in April. Then she sold half as many clips in May. "
    "How many clips did Natalia sell altogether in April and May?"
)
TURNS = [
    {"role": "user", "content": "Hello"},
    {"role": "assistant", "content": "Hi!"},
    {"role": "user", "content": PROBLEM},
]


class Found:
    """Hits and ignored n-grams of one comparison, as dictionaries."""

    def __init__(
        self,
        folder: Path,
        mixture: Sequence[RawRow],
        benchmarks: Mapping[str, Path],
        guard: Guard | None = None,
        listed: Sequence[str] = (),
    ) -> None:
        raw = write_raw(folder / "raw", mixture)
        with duckdb.connect() as con:
            load_texts(con, [raw])
            con.execute(
                "create table train_pairs as select prompt_id, min(response_id) as chosen_id, max(response_id) as "
                "rejected_id from responses group by prompt_id"
            )
            load_targets(con, benchmarks, {})
            find_hits(con, guard or Guard(), list(listed))
            self.hits = con.sql(HITS_ORDERED).to_arrow_table().to_pylist()
            self.uses = con.execute(USES_ORDERED).fetchall()

    @property
    def kinds(self) -> list[str]:
        return [hit["kind"] for hit in self.hits]


def asked(prompt: str | list, replies: Sequence[str] = ("a", "b")) -> RawRow:
    return RawRow(prompt, [Shown(str(i), reply) for i, reply in enumerate(replies)], 1)


def find(folder: Path, prompt: str | list, item: str | list = PROBLEM, **fields) -> Found:
    """Compare one prompt with one item, among some other prompts, so that words have their usual rarity."""
    others = [
        "How many birds are in the tree if half of them sold their nests and then she left?",
        "What did the friends of the king say in April to his sister, and then to many of the others?",
        "In May she altogether forgot what to do. Then a friend sold her a book. How did she like it?",
    ]
    bench = write_benchmark(folder / "bench", {"item": item})
    return Found(folder, [asked(prompt), *map(asked, others)], {"bench": bench}, **fields)


LEAKS = {
    "exact": PROBLEM,
    "case and space": PROBLEM.upper().replace(" ", "\n\t "),
    "full-width letters": PROBLEM.replace("N", "Ｎ"),
    "in a later turn": TURNS,
}
CHANGED = {
    "punctuation": (PROBLEM.replace(".", ";").replace("?", ""), "ngram"),
    "one word edited": (PROBLEM.replace("half", "twice"), "ngram"),
    "one word edited in the midst of 31": (PROBLEM.replace("Then", "Later"), "ngram"),
    "sentence order": (
        "How many clips did Natalia sell altogether in April and May? Then she sold half as many clips in May. "
        "Natalia sold clips to 48 of her friends in April.",
        "near_duplicate",
    ),
    "cut": (PROBLEM[:120], "ngram"),
    "wrapped": (f"Here is a riddle that my uncle gave me yesterday: {PROBLEM} Please think hard.", "ngram"),
}
NO_LEAKS = {
    "same template": (
        "Robert sold stamps to 60 of his neighbours in June. Then he sold half as many stamps in July. "
        "How many stamps did Robert sell altogether in June and July?"
    ),
    "other name and numbers": PROBLEM.replace("Natalia", "Robert").replace("48", "75"),
    "its words scattered over a long text": " ".join(f"{word} x{i} y{i}" for i, word in enumerate(words(PROBLEM))),
    "short part": " ".join(PROBLEM.split()[:10]),
    "unrelated": "Why is the sky blue?",
}


@pytest.mark.parametrize("prompt", LEAKS.values(), ids=LEAKS.keys())
def test_the_same_text_is_exact(tmp_path: Path, prompt: str | list):
    (hit,) = find(tmp_path, prompt).hits
    assert (hit["kind"], hit["share"], hit["item_id"], hit["side"]) == ("exact", 1.0, "item", "prompt")
    assert hit["turn"] == (2 if prompt is TURNS else 1)


@pytest.mark.parametrize(("prompt", "kind"), CHANGED.values(), ids=CHANGED.keys())
def test_a_changed_copy_is_found(tmp_path: Path, prompt: str, kind: str):
    (hit,) = find(tmp_path, prompt).hits
    assert hit["kind"] == kind
    assert prompt[hit["start"] : hit["stop"]] == hit["span"]
    assert len(words(hit["span"])) >= 8


@pytest.mark.parametrize("prompt", NO_LEAKS.values(), ids=NO_LEAKS.keys())
def test_another_question_is_no_leak(tmp_path: Path, prompt: str):
    assert find(tmp_path, prompt).hits == []


def test_a_short_prompt_is_met_exactly_or_not_at_all(tmp_path: Path):
    item = "What is the name of the river that flows through the old town of Prague today?"
    assert len(words(item)) == 16
    for number, (prompt, kinds) in enumerate(
        [(item.upper(), ["exact"]), (item.replace("?", "!"), []), (item + " Now", [])]
    ):
        assert find(tmp_path / str(number), prompt, item).kinds == kinds
    assert find(tmp_path / "shorter", item + " Now", item, guard=Guard(min_words=15)).kinds == ["ngram"]


def test_texts_without_a_word_are_compared_as_they_are(tmp_path: Path):
    assert find(tmp_path / "same", "???", "???").kinds == ["exact"]
    assert find(tmp_path / "other", "!!!", "???").kinds == []


def test_a_short_follow_up_of_a_benchmark_is_no_leak_but_its_first_turn_is(tmp_path: Path):
    item = [
        {"role": "user", "content": "Name a river"},
        {"role": "assistant", "content": "The Danube"},
        {"role": "user", "content": "Thanks!"},
    ]
    assert find(tmp_path / "follow_up", "Thanks!", item).hits == []
    assert find(tmp_path / "first", "Name a river", item).kinds == ["exact"]
    long = [*item[:2], {"role": "user", "content": PROBLEM}]
    assert find(tmp_path / "long", PROBLEM, long).kinds == ["exact"]


def test_assistant_turns_are_not_prompts(tmp_path: Path):
    turns = [
        {"role": "user", "content": "Give me a riddle"},
        {"role": "assistant", "content": PROBLEM},
        {"role": "user", "content": "No idea"},
    ]
    assert find(tmp_path, turns).hits == []


def test_each_text_of_the_mixture_is_reported_with_each_item_that_it_repeats(tmp_path: Path):
    benchmarks = {
        "late": write_benchmark(tmp_path / "late", {"x": PROBLEM, "y": PROBLEM.lower(), "z": "Other"}),
        "early": write_benchmark(tmp_path / "early", {"x": PROBLEM}),
    }
    rows = [asked(PROBLEM), asked(TURNS), asked("Unrelated")]
    found = Found(tmp_path, rows, benchmarks).hits
    assert [(hit["benchmark"], hit["item_id"], hit["label"]) for hit in found] == [
        *[("late", "x", "made 0")] * 2,
        *[("late", "y", "made 1")] * 2,
        *[("early", "x", "made 0")] * 2,
    ]
    assert {(hit["prompt_id"], hit["turn"]) for hit in found} == {(rows[0].prompt_id, 1), (rows[1].prompt_id, 2)}


def template(number: int) -> str:
    return (
        f"Please write a detailed essay about subject{number} with an introduction, three arguments and a conclusion, "
        "and keep the tone neutral and easy to read for everyone."
    )


def test_what_stands_in_many_prompts_is_no_evidence(tmp_path: Path):
    bench = write_benchmark(tmp_path / "bench", {"item": template(0)})
    rows = [asked(template(number)) for number in range(1, 8)]
    few = Found(tmp_path / "few", rows, {"bench": bench}, Guard(boilerplate_texts=8))
    assert set(few.kinds) == {"ngram"}
    assert few.uses == []
    many = Found(tmp_path / "many", rows, {"bench": bench}, Guard(boilerplate_texts=7))
    assert many.hits == []
    assert {use[:1] + use[2:] for use in many.uses} == {("prompt", False, 7, 1)}
    assert "with an introduction three arguments and a conclusion and keep the tone neutral" in {
        use[1] for use in many.uses
    }
    same = Found(tmp_path / "same", [*rows, asked(template(0).upper())], {"bench": bench}, Guard(boilerplate_texts=7))
    assert same.kinds == ["exact"]


def test_what_stands_in_many_items_is_no_evidence(tmp_path: Path):
    bench = write_benchmark(tmp_path / "bench", {str(number): template(number) for number in range(5)})
    assert Found(tmp_path, [asked(template(7))], {"bench": bench}).hits == []
    assert len(Found(tmp_path, [asked(template(7))], {"bench": bench}, Guard(boilerplate_items=6)).hits) == 5


def test_items_of_several_benchmarks_make_no_boilerplate(tmp_path: Path):
    benchmarks = {f"bench{n}": write_benchmark(tmp_path / f"bench{n}", {"item": template(0)}) for n in range(6)}
    assert len(Found(tmp_path, [asked(template(0) + " Thanks")], benchmarks).hits) == 6


def test_listed_boilerplate_is_no_evidence_and_its_use_is_reported(tmp_path: Path):
    tail = "Write with an introduction, three arguments and a conclusion, and keep the tone neutral and easy to read."
    bench = write_benchmark(tmp_path / "bench", {"item": f"About bees. {tail}"})
    assert Found(tmp_path / "without", [asked(f"About wasps. {tail}")], {"bench": bench}).kinds == ["ngram"]
    found = Found(tmp_path, [asked(f"About wasps. {tail}")], {"bench": bench}, listed=[tail])
    assert found.hits == []
    assert {use[:1] + use[2:] for use in found.uses} == {("prompt", True, 1, 1)}
    assert len(found.uses) == len(words(tail)) - 12


def test_near_duplicates_can_be_switched_off(tmp_path: Path):
    prompt, _ = CHANGED["sentence order"]
    assert find(tmp_path, prompt, guard=Guard(near_duplicate=None)).hits == []


def reply(*numbers: int) -> str:
    return " ".join(f"w{number}" for number in numbers)


def replies(folder: Path, mine: str, theirs: str, **fields) -> Found:
    bench = write_benchmark(folder / "bench", {"item": "Q"}, {"item": ["short", theirs]})
    return Found(folder, [asked("P", ["short", mine])], {"bench": bench}, **fields)


@pytest.mark.parametrize(
    ("mine", "theirs", "share"),
    [
        (reply(*range(30)), reply(*range(30)), 1.0),
        (reply(*range(100, 120), *range(20)), reply(*range(40)), 0.5),
        (reply(*range(100, 120), *range(19)), reply(*range(40)), None),
        (reply(*range(29)), reply(*range(30)), None),
        (reply(*range(30)), reply(*range(29)), None),
        (reply(*range(13), 99, *range(14, 40)), reply(*range(40)), 39 / 40),
    ],
)
def test_a_response_is_a_leak_where_half_of_the_item_is_repeated(
    tmp_path: Path, mine: str, theirs: str, share: float | None
):
    found = replies(tmp_path, mine, theirs).hits
    assert [(hit["kind"], hit["share"]) for hit in found] == ([("response_ngram", share)] if share else [])
    if share:
        (hit,) = found
        assert (hit["side"], hit["turn"], hit["item_id"]) == ("response", None, "item")
        assert hit["response_id"] is not None
        assert mine[hit["start"] : hit["stop"]].startswith(hit["span"])


def test_a_response_that_many_prompts_have_is_boilerplate(tmp_path: Path):
    refusal = reply(*range(40))
    bench = write_benchmark(tmp_path / "bench", {"item": "Q"}, {"item": ["short", refusal]})
    rows = [asked(f"P{number}", ["short", refusal]) for number in range(4)]
    assert len(Found(tmp_path / "few", rows, {"bench": bench}, Guard(boilerplate_texts=5)).hits) == 4
    assert Found(tmp_path / "many", rows, {"bench": bench}, Guard(boilerplate_texts=4)).hits == []


def test_without_targets_nothing_is_read_or_found(tmp_path: Path):
    assert Found(tmp_path, [asked(PROBLEM)], {}).hits == []


def test_repetitive_text_is_counted_by_its_places(tmp_path: Path):
    item = "tick tock " * 40
    assert find(tmp_path, item + "boom", item).kinds == ["ngram"]


# Few words, so that texts meet by n-grams, bands and whole; a letter of another script, so that both readings are used.
SMALL = Guard(
    ngram_words=5,
    min_words=7,
    min_response_words=8,
    boilerplate_texts=4,
    boilerplate_items=3,
    max_difference=0.2,
    near_duplicate=NearDuplicate(threshold=0.6, permutations=256),
)


def made_texts(seed: int, num: int) -> list[str]:
    """Texts that are new, or older ones with words changed, moved, cut or added."""
    rng = random.Random(seed)
    vocabulary = [*"abcdefghij", "É", "É".lower() + "é", "x_1", "漢"]
    texts: list[str] = []
    for _ in range(num):
        found = rng.choices(vocabulary, k=rng.randint(0, 18))
        if texts and rng.random() < 0.75:
            found = rng.choice(texts).split()
            for _ in range(rng.randint(0, 2)):
                place = rng.randint(0, len(found))
                found[place : place + rng.randint(0, 2)] = rng.choices(vocabulary, k=rng.randint(0, 2))
            found = found[: rng.randint(len(found) // 2, len(found))] if rng.random() < 0.3 else found
        texts.append((rng.choice([" ", "  ", ", "])).join(found) + rng.choice(["", "?", "\n"]))
    return texts


@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(seed=st.integers(0, 2**32))
def test_turns_are_judged_as_slow_obvious_python_judges_them(tmp_path_factory: pytest.TempPathFactory, seed: int):
    texts = made_texts(seed, 60)
    mine, theirs = texts[::2], {"one": set(texts[1:40:2]), "two": set(texts[41::2])}
    folder = tmp_path_factory.mktemp("guard")
    benchmarks = {
        name: write_benchmark(folder / name, {str(i): text for i, text in enumerate(sorted(found))})
        for name, found in theirs.items()
    }
    found = Found(folder, [asked(text) for text in mine], benchmarks, SMALL, listed=[texts[0]])
    prompts = {asked(text).prompt_id: text for text in mine}
    items = {(name, str(i)): text for name, found in theirs.items() for i, text in enumerate(sorted(found))}
    judged = {
        (
            prompts[hit["prompt_id"]],
            hit["benchmark"],
            items[hit["benchmark"], hit["item_id"]],
            hit["kind"],
            hit["share"],
        )
        for hit in found.hits
    }
    assert judged == set(Reference(set(mine), theirs, SMALL, [texts[0]]).hits())


@settings(max_examples=10, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(seed=st.integers(0, 2**32))
def test_responses_are_judged_as_slow_obvious_python_judges_them(tmp_path_factory: pytest.TempPathFactory, seed: int):
    texts = made_texts(seed, 40)
    mine, theirs = dict(enumerate(texts[::2])), sorted(set(texts[1::2]))
    folder = tmp_path_factory.mktemp("guard")
    bench = write_benchmark(
        folder / "bench", {str(i): f"Q{i}" for i in range(len(theirs))}, {str(i): [t] for i, t in enumerate(theirs)}
    )
    rows = {i: asked(f"P{i}", [text]) for i, text in mine.items()}
    found = Found(folder, list(rows.values()), {"bench": bench}, SMALL)
    numbers = {row.prompt_id: i for i, row in rows.items()}
    judged = {
        (numbers[hit["prompt_id"]], hit["item_id"], hit["share"]) for hit in found.hits if hit["side"] == "response"
    }
    frequent = boilerplate_of_responses(mine, theirs)
    expected = {
        (i, str(item), share)
        for i, text in mine.items()
        for item, other in enumerate(theirs)
        if (share := response_share(text, other, frequent, SMALL)) is not None
    }
    assert judged == expected


def boilerplate_of_responses(mine: Mapping[int, str], theirs: Sequence[str]) -> set:
    """Counted over responses of prompts of their own; short responses do not count."""
    long = {f"{text}\u2028{i}": str(i) for i, text in mine.items() if len(words(text)) >= SMALL.min_response_words}
    return boilerplate(
        long, {"bench": {text for text in theirs if len(words(text)) >= SMALL.min_response_words}}, SMALL, []
    )
