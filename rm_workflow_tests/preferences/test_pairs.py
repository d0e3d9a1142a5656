"""Candidates, rules in order, ids, conservation, the same bytes on every rerun."""

import hashlib
from itertools import combinations
from pathlib import Path

import duckdb
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from rm_workflow.catalog.models import PairSet
from rm_workflow.errors import UserError
from rm_workflow.keys import content_id
from rm_workflow.preferences.pairs import build_pair_set, check_pair_set
from rm_workflow.preferences.sql import content_id_sql, json_string, keyed_hash_sql
from rm_workflow_tests.preferences import raw_tables
from rm_workflow_tests.preferences.raw_tables import RawRow, Shown, rated, read, write_raw

GIVEN_RULES = ["identical_responses", "exact_duplicate"]


def given_set(*rules, score=()):
    return PairSet(source="src", candidates="given", score=list(score), rules=list(rules or GIVEN_RULES))


def rated_set(*rules, score=("quality",)):
    return PairSet(source="src", candidates="rated", score=list(score), rules=list(rules))


def build(folder: Path, rows: list[RawRow], pair_set: PairSet):
    raw = write_raw(folder / "raw", rows)
    out = folder / "out"
    out.mkdir(exist_ok=True)
    built = build_pair_set("some_set", pair_set, raw, out)
    return built, read(out / "pairs.parquet"), read(out / "dropped.parquet")


def test_a_given_pair_keeps_its_label(tmp_path: Path):
    row = raw_tables.given("Hi", "Hello!", "What?", 1)
    built, pairs, dropped = build(tmp_path, [row], given_set())
    chosen, rejected = content_id([row.prompt_id, "Hello!"]), content_id([row.prompt_id, "What?"])
    key = content_id([row.prompt_id, chosen, rejected])
    assert pairs == [
        {
            "pair_id": content_id([key, "src", 0]),
            "pair_key": key,
            "prompt_id": row.prompt_id,
            "chosen_id": chosen,
            "rejected_id": rejected,
            "chosen_score": None,
            "rejected_score": None,
            "weight": 1.0,
            "source": "src",
            "file": "train.jsonl",
            "row": 1,
            "marks": [],
        }
    ]
    assert dropped == []
    assert built.facts == {
        "candidates": 1,
        "kept": 1,
        "dropped": {"identical_responses": 0, "exact_duplicate": 0},
        "marked": {},
        "published": None,
    }
    assert all(check.passed for check in built.checks)


def test_a_rated_row_gives_every_pair_with_the_higher_mean_chosen(tmp_path: Path):
    texts = [("a", {"x": 1, "y": 4}), ("b", {"x": 5}), ("c", {"x": 3, "y": 5, "z": 9}), ("d", {"y": 1})]
    row = rated("Hi", texts, 1)
    _, pairs, _ = build(tmp_path, [row], rated_set("equal_score", score=["x", "y"]))
    mean = {"a": 2.5, "b": 5.0, "c": 4.0, "d": 1.0}
    name = {content_id([row.prompt_id, text]): text for text in mean}
    found = {(name[pair["chosen_id"]], name[pair["rejected_id"]]) for pair in pairs}
    assert found == {(i, j) if mean[i] > mean[j] else (j, i) for i, j in combinations(mean, 2)}
    for pair in pairs:
        assert pair["chosen_score"] == mean[name[pair["chosen_id"]]]
        assert pair["rejected_score"] == mean[name[pair["rejected_id"]]]


def test_ten_responses_are_paired_in_the_order_of_their_numbers(tmp_path: Path):
    row = rated("Hi", [(f"reply {i}", {"quality": 1}) for i in range(11)], 1)
    built, pairs, dropped = build(tmp_path, [row], rated_set("equal_score"))
    assert built.facts["candidates"] == 55
    assert pairs == []
    assert {tuple(drop["slots"]) for drop in dropped} == {(str(i), str(j)) for i, j in combinations(range(11), 2)}


def test_first_rule_that_matches_is_counted_and_declared_rules_appear_with_zero(tmp_path: Path):
    row = rated("Hi", [("same", {"quality": 2}), ("same", {"quality": 2}), ("other", {"quality": 1})], 1)
    built, _, dropped = build(
        tmp_path, [row], rated_set("equal_score", "identical_responses", {"cap": {"max_pairs": 9}})
    )
    assert built.facts["dropped"] == {"equal_score": 1, "identical_responses": 0, "cap": 0}
    assert [drop["rule"] for drop in dropped] == ["equal_score"]


def test_a_dropped_row_says_where_it_stood_and_why(tmp_path: Path):
    row = raw_tables.given("Hi", "x" * 300, "x" * 300, 7)
    _, _, dropped = build(tmp_path, [row], given_set())
    response = content_id([row.prompt_id, "x" * 300])
    key = content_id([row.prompt_id, response, response])
    assert dropped == [
        {
            "stage": "pair",
            "source": "src",
            "file": "train.jsonl",
            "row": 7,
            "slots": ["chosen", "rejected"],
            "pair_id": content_id([key, "src", 0]),
            "chosen_id": response,
            "rejected_id": response,
            "rule": "identical_responses",
            "reason": "chosen and rejected are the same text",
            "detail": None,
            "excerpt": "x" * 200,
        }
    ]


def test_repeated_pairs_have_ids_of_their_own(tmp_path: Path):
    rows = [raw_tables.given("Hi", "Hello!", "What?", row) for row in (10, 2)]
    _, pairs, _ = build(tmp_path, rows, given_set("identical_responses"))
    key = pairs[0]["pair_key"]
    assert {pair["row"]: pair["pair_id"] for pair in pairs} == {
        2: content_id([key, "src", 0]),
        10: content_id([key, "src", 1]),
    }


def test_pairs_are_ordered_by_prompt_so_that_files_stay_small(tmp_path: Path):
    rows = [raw_tables.given(f"Prompt {i % 4}", f"a{i}", "b", i) for i in range(40)]
    _, pairs, _ = build(tmp_path, rows, given_set())
    assert pairs == sorted(pairs, key=lambda pair: (pair["prompt_id"], pair["pair_id"]))


def test_a_kept_identical_pair_fails_the_check(tmp_path: Path):
    built, _, _ = build(tmp_path, [raw_tables.given("Hi", "a", "a", 1)], given_set("exact_duplicate"))
    assert {check.name: check.passed for check in built.checks} == {
        "candidates_accounted_for": True,
        "no_pair_is_identical": False,
    }


def test_sides_with_different_prompts_fail_the_law(tmp_path: Path):
    raw = write_raw(tmp_path / "raw", [raw_tables.given("Hi", "a", "b", 1), raw_tables.given("Ho", "c", "d", 2)])
    occurrences = read(raw / "occurrences.parquet")
    occurrences[0]["prompt_id"] = "elsewhere"
    raw_tables.write(raw / "occurrences.parquet", occurrences, raw_tables.OCCURRENCES)
    (tmp_path / "out").mkdir()
    built = build_pair_set("some_set", given_set(), raw, tmp_path / "out")
    accounted = built.checks[0]
    assert not accounted.passed
    assert accounted.metadata["candidates"] == 2


def test_missing_scores_are_refused_until_the_rule_rating_counts_them(tmp_path: Path):
    row = rated("Hi", [("a", {"quality": 2}), ("b", {}), ("c", {"quality": 1})], 1)
    with pytest.raises(UserError, match=r"'some_set': 2 of 3 candidates .* add the rule 'rating'"):
        build(tmp_path, [row], rated_set("equal_score"))
    built, _, dropped = build(tmp_path, [row], rated_set("rating", "equal_score"))
    assert built.facts["dropped"] == {"rating": 2, "equal_score": 0}
    assert built.facts["kept"] == 1
    assert sorted(drop["detail"] for drop in dropped) == ["slot 1", "slot 1"]


def test_no_number_is_no_rating(tmp_path: Path):
    row = rated("Hi", [("a", {"quality": float("nan")}), ("b", {"quality": 1})], 1)
    built, _, _ = build(tmp_path, [row], rated_set("rating"))
    assert built.facts["dropped"] == {"rating": 1}


@pytest.mark.parametrize(
    ("pair_set", "rows", "message"),
    [
        (rated_set("equal_score", score=["qualty"]), "rated", "names the rating 'qualty'.*name one of: quality"),
        (PairSet(source="src", candidates="rated", rules=[]), "rated", "'score' names none; name some of: quality"),
        (given_set(), "rated", "needs rows with the slots chosen and rejected, .* has only 0, 1"),
        (rated_set(score=["votes"]), "given", "needs rows with the slots 0, 1, 2, .* has only chosen, rejected"),
    ],
)
def test_a_pair_set_that_does_not_fit_its_source_is_refused(tmp_path: Path, pair_set: PairSet, rows: str, message: str):
    forms = {
        "rated": rated("Hi", [("a", {"quality": 2}), ("b", {"quality": 1})], 1),
        "given": raw_tables.given("Hi", "a", "b", 1, chosen_votes=2, rejected_votes=1),
    }
    with pytest.raises(UserError, match=message):
        build(tmp_path, [forms[rows]], pair_set)


@pytest.mark.parametrize(
    ("rules", "message"),
    [
        (
            ["identical_response"],
            r"pair set 'x': there is no rule 'identical_response' \(did you mean 'identical_responses'\?\)",
        ),
        (["exact_duplicate", "identical_responses"], r"write them as \[identical_responses, exact_duplicate\]"),
        (["exact_duplicate", "exact_duplicate"], "'exact_duplicate' is listed twice"),
        (["equal_score"], "rule 'equal_score' judges scores, and the pair set names none; set 'score'"),
        (
            [{"cap": {"max_pairs": 0}}],
            r"rule 'cap': max_pairs is 0, out of its range \(max_pairs is a whole number from 1;",
        ),
        ([{"cap": {}}], "rule 'cap': parameter 'max_pairs' is missing"),
        ([{"cap": {"max_pairs": "5"}}], "rule 'cap': max_pairs is '5', out of its range"),
        ([{"cap": {"max_pairs": 5, "per": "group"}}], "rule 'cap': per is 'group', out of its range"),
        ([{"exact_duplicate": {"min": 1}}], r"there is no parameter 'min' \(it takes no parameters\)"),
    ],
)
def test_wrong_rules_are_refused_before_any_row_is_read(rules: list, message: str):
    with pytest.raises(UserError, match=message):
        check_pair_set("x", given_set(*rules))


def test_source_rules_stand_in_any_order_among_themselves():
    for rules in (["rating", {"score_ratio": {"min": 2}}], [{"score_ratio": {"min": 2}}, "rating"]):
        check_pair_set("x", rated_set(*rules, "equal_score"))
    with pytest.raises(UserError, match=r"write them as \[rating, equal_score\]"):
        check_pair_set("x", rated_set("equal_score", "rating"))


def test_sql_ids_agree_with_content_id():
    con = duckdb.connect()
    row = con.execute(
        f"select {content_id_sql(json_string('a'), json_string('b'), 'n')}, {keyed_hash_sql('cap', 3, 'a')} "
        "from (select 'abc' as a, 'd_e' as b, 12 as n)"
    ).fetchone()
    con.close()
    assert row == (content_id(["abc", "d_e", 12]), content_id(["cap", 3, "abc"]))


def shas(folder: Path) -> list[str]:
    return [hashlib.sha256(path.read_bytes()).hexdigest() for path in sorted(folder.iterdir())]


def test_reruns_and_thread_counts_give_identical_bytes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    ratings = [{"quality": rating} for rating in (3, 1, 2, 3)]
    rows = [rated(f"Hi {i % 900}", list(zip("abcd", ratings, strict=True)), i) for i in range(1000)]
    raw = write_raw(tmp_path / "raw", rows)
    pair_set = rated_set("equal_score", "exact_duplicate", {"cap": {"max_pairs": 3}})
    connect = duckdb.connect
    found = []
    for threads in (1, 4):

        def connect_with(*arguments, number: int = threads):
            con = connect(*arguments)
            con.execute(f"set threads = {number}")
            return con

        monkeypatch.setattr(duckdb, "connect", connect_with)
        out = tmp_path / f"out{threads}"
        out.mkdir()
        build_pair_set("x", pair_set, raw, out)
        found.append(shas(out))
    assert found[0] == found[1]
    assert len(found[0]) == 2


@st.composite
def raw_rows(draw: st.DrawFn) -> list[RawRow]:
    texts = st.sampled_from(["a", "b", "c", "A "])
    ratings = st.sampled_from([{}, {"x": 1}, {"x": 2}, {"x": 1, "y": 2}, {"y": 1.5}, {"x": -1}])
    return [
        rated(draw(st.sampled_from(["p", "q"])), draw(st.lists(st.tuples(texts, ratings), max_size=4)), row, file)
        for file in ("one.jsonl", "two.jsonl")
        for row in range(draw(st.integers(0, 4)))
    ]


@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(rows=raw_rows(), seed=st.integers(0, 5), data=st.data())
def test_any_rows_obey_the_laws_in_any_order(tmp_path_factory: pytest.TempPathFactory, rows, seed, data):
    number = sum(len(row.responses) * (len(row.responses) - 1) // 2 for row in rows)
    if not number or not any("x" in shown.ratings for row in rows for shown in row.responses):
        return
    rules = ["rating", {"score_ratio": {"min": 1.5}}, "equal_score", "identical_responses", "exact_duplicate"]
    pair_set = rated_set(*rules, {"cap": {"max_pairs": 1, "seed": seed}}, score=["x"])
    built, pairs, dropped = build(tmp_path_factory.mktemp("rows"), rows, pair_set)
    assert built.facts["candidates"] == number == len(pairs) + len(dropped)
    assert built.facts["kept"] == len(pairs)
    assert sum(built.facts["dropped"].values()) == len(dropped)
    assert all(pair["chosen_id"] != pair["rejected_id"] for pair in pairs)
    assert all(pair["chosen_score"] > 1.5 * pair["rejected_score"] for pair in pairs)
    assert len({pair["prompt_id"] for pair in pairs}) == len(pairs)
    assert len({row["pair_id"] for row in pairs + dropped}) == number

    places = [(row.file, row.row) for row in rows]
    shuffled = [
        RawRow(row.prompt, row.responses, number, file)
        for row, (file, number) in zip(data.draw(st.permutations(rows)), places, strict=True)
    ]
    _, again, _ = build(tmp_path_factory.mktemp("shuffled"), shuffled, pair_set)
    assert {pair["pair_key"] for pair in again} == {pair["pair_key"] for pair in pairs}


def prompt_set(*rules):
    return PairSet(source="src", candidates="rated_prompt", score=["quality"], rules=list(rules))


def test_rows_of_single_responses_are_paired_by_prompt_within_a_file(tmp_path: Path):
    rows = [
        rated("Hi", [("a", {"quality": 1})], 1),
        rated("Ho", [("x", {"quality": 3})], 2),
        rated("Hi", [("b", {"quality": 2})], 3),
        rated("Hi", [("c", {"quality": 2})], 9),
        rated("Hi", [("d", {"quality": 5})], 1, file="validation.jsonl"),
    ]
    built, pairs, dropped = build(tmp_path, rows, prompt_set("equal_score"))
    texts = {content_id([rows[0].prompt_id, text]): text for text in "abcd"}
    assert sorted((texts[pair["chosen_id"]], texts[pair["rejected_id"]], pair["row"]) for pair in pairs) == [
        ("b", "a", 1),
        ("c", "a", 1),
    ]
    assert [(drop["row"], drop["slots"], drop["rule"]) for drop in dropped] == [(3, ["3", "9"], "equal_score")]
    assert {texts[dropped[0][side]] for side in ("chosen_id", "rejected_id")} == {"b", "c"}
    assert built.facts["candidates"] == 3


def test_ties_are_refused_where_no_rule_drops_them(tmp_path: Path):
    tie = RawRow("Hi", [Shown("chosen", "a", {"preference": 0.0}), Shown("rejected", "b", {"preference": 0.0})], 1)
    with pytest.raises(UserError, match=r"1 candidates of source 'src' are ties; set score: \[preference\]"):
        build(tmp_path, [tie], given_set())
    win = RawRow("Ho", [Shown("chosen", "a", {"preference": 1.0}), Shown("rejected", "b", {"preference": 0.0})], 2)
    _, pairs, dropped = build(tmp_path, [tie, win], given_set("equal_score", score=["preference"]))
    assert ([pair["row"] for pair in pairs], [drop["rule"] for drop in dropped]) == ([2], ["equal_score"])


def voted_set(*rules, score=("preference",)):
    return PairSet(source="src", candidates="voted", score=list(score), rules=list(rules))


def texts_of(pairs: list[dict], rows: list[RawRow]) -> list[tuple]:
    texts = {content_id([row.prompt_id, shown.text]): shown.text for row in rows for shown in row.responses}
    return [(texts[pair["chosen_id"]], texts[pair["rejected_id"]]) for pair in pairs]


def test_votes_on_two_responses_are_summed_to_one_candidate_whichever_stands_first(tmp_path: Path):
    votes = [("yes", "no"), ("no", "yes"), ("yes", "no")]
    rows = [raw_tables.vote("Hi", *sides, row) for row, sides in enumerate(votes, 5)]
    rows += [raw_tables.vote("Hi", "no", "yes", 8, tie=True), raw_tables.vote("Hi", "yes", "never", 9)]
    built, pairs, dropped = build(tmp_path, rows, voted_set("equal_score"))
    assert (built.facts["candidates"], dropped) == (2, [])
    scored = [
        (*sides, pair["chosen_score"], pair["rejected_score"], pair["row"])
        for sides, pair in zip(texts_of(pairs, rows), pairs, strict=True)
    ]
    # Of four votes two are for "yes", one is for "no", and half of the tie is for either.
    assert sorted(scored) == [("yes", "never", 1.0, 0.0, 9), ("yes", "no", 0.625, 0.375, 5)]


def test_as_many_votes_for_either_are_an_equal_score_that_a_rule_must_drop(tmp_path: Path):
    rows = [
        raw_tables.vote("Hi", "yes", "no", 1),
        raw_tables.vote("Hi", "no", "yes", 2),
        raw_tables.vote("Ho", "a", "b", 3),
    ]
    _, pairs, dropped = build(tmp_path, rows, voted_set("equal_score"))
    assert ([pair["row"] for pair in pairs], [(drop["rule"], drop["slots"]) for drop in dropped]) == (
        [3],
        [("equal_score", ["1", "2"])],
    )
    with pytest.raises(UserError, match="1 candidates of source 'src' are ties"):
        build(tmp_path / "other", rows, voted_set("identical_responses"))


def test_votes_of_another_file_are_votes_on_another_candidate(tmp_path: Path):
    rows = [raw_tables.vote("Hi", "yes", "no", 1), raw_tables.vote("Hi", "no", "yes", 1, file="test.jsonl")]
    built, pairs, _ = build(tmp_path, rows, voted_set("equal_score"))
    assert sorted(zip(texts_of(pairs, rows), [pair["file"] for pair in pairs], strict=True)) == [
        (("no", "yes"), "test.jsonl"),
        (("yes", "no"), "train.jsonl"),
    ]
    assert built.facts["candidates"] == 2


@given(
    st.lists(
        st.tuples(st.sampled_from("ab"), st.sampled_from("xyz"), st.sampled_from("xyz"), st.booleans()), min_size=1
    )
)
@settings(max_examples=10, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_votes_give_the_same_pairs_in_every_order(tmp_path_factory, votes):
    rows = [raw_tables.vote(prompt, one, other, row, tie) for row, (prompt, one, other, tie) in enumerate(votes)]
    again = [RawRow(row.prompt, row.responses, len(rows) - row.row) for row in rows]
    rules = voted_set("equal_score", "identical_responses")
    folder = tmp_path_factory.mktemp("votes")
    results = [build(folder / str(index), one, rules) for index, one in enumerate((rows, again))]
    kept = [
        sorted((pair["chosen_id"], pair["rejected_id"], pair["chosen_score"]) for pair in pairs)
        for _, pairs, _ in results
    ]
    assert kept[0] == kept[1]
    for built, pairs, dropped in results:
        assert all(check.passed for check in built.checks)
        assert built.facts["candidates"] == len({(prompt, *sorted(sides)) for prompt, *sides, _ in votes})
        assert built.facts["candidates"] == len(pairs) + len(dropped)


def labelled_row(texts: str, labels: dict[tuple[int, int], str], row: int) -> RawRow:
    """Return a row of responses whose pairs are labelled ``a`` (the first is better), ``b`` or ``tie``."""
    ratings: list[dict[str, float]] = [{} for _ in texts]
    for (first, second), label in labels.items():
        ratings[first][f"preference_{second}"] = float(label == "a")
        ratings[second][f"preference_{first}"] = float(label == "b")
    return RawRow("Hi", [Shown(str(slot), text, ratings[slot]) for slot, text in enumerate(texts)], row)


def labelled_set(*rules):
    return PairSet(source="src", candidates="labelled", score=["preference"], rules=list(rules))


def test_each_pair_of_a_list_has_its_own_label_also_where_labels_go_round_in_a_circle(tmp_path: Path):
    row = labelled_row("xyz", {(0, 1): "a", (1, 2): "a", (0, 2): "b"}, 1)
    built, pairs, _ = build(tmp_path, [row], labelled_set("equal_score"))
    assert sorted(texts_of(pairs, [row])) == [("x", "y"), ("y", "z"), ("z", "x")]
    assert (built.facts["candidates"], [pair["chosen_score"] for pair in pairs]) == (3, [1.0] * 3)


def test_a_tie_and_a_pair_without_a_label_are_dropped_by_their_rules(tmp_path: Path):
    row = labelled_row("xyz", {(0, 1): "tie", (1, 2): "b"}, 1)
    _, pairs, dropped = build(tmp_path, [row], labelled_set("rating", "equal_score"))
    assert texts_of(pairs, [row]) == [("z", "y")]
    assert sorted((drop["rule"], drop["slots"]) for drop in dropped) == [
        ("equal_score", ["0", "1"]),
        ("rating", ["0", "2"]),
    ]
    with pytest.raises(UserError, match="1 candidates of source 'src' are ties"):
        build(tmp_path / "ties", [row], labelled_set("rating"))
    with pytest.raises(UserError, match=r"1 of 3 candidates have a response without any of the ratings.*'rating'"):
        build(tmp_path / "unrated", [row], labelled_set("equal_score"))


@pytest.mark.parametrize("candidates", ["voted", "labelled"])
def test_candidates_by_label_need_labels_and_no_other_score(tmp_path: Path, candidates: str):
    row = rated("Hi", [("a", {"quality": 1}), ("b", {"quality": 2})], 1)
    other = PairSet(source="src", candidates=candidates, score=["quality"], rules=["equal_score"])
    with pytest.raises(UserError, match=rf"'{candidates}' are judged by their labels; set score: \[preference\]"):
        build(tmp_path, [row], other)
    with pytest.raises(UserError, match=rf"'{candidates}' need labels, and source 'src' has only the ratings quality"):
        build(
            tmp_path, [row], PairSet(source="src", candidates=candidates, score=["preference"], rules=["equal_score"])
        )


def test_a_pair_set_that_keeps_nothing_passes_its_checks(tmp_path: Path):
    built, pairs, _ = build(tmp_path, [raw_tables.given("Hi", "same", "same", 1)], given_set())
    assert pairs == []
    assert all(check.passed for check in built.checks)


def best_set(*rules, score=("quality",), candidates="rated"):
    return PairSet(
        source="src", candidates=candidates, pairing="best_vs_worst", score=list(score), rules=list(rules or ["rating"])
    )


def sides_of(pairs: list[dict], row: RawRow) -> list[tuple[str, str]]:
    texts = {content_id([row.prompt_id, shown.text]): shown.text for shown in row.responses}
    return [
        (texts[pair["chosen_id"]], texts[pair["rejected_id"]]) for pair in pairs if pair["prompt_id"] == row.prompt_id
    ]


def test_best_vs_worst_makes_one_pair_of_a_list(tmp_path: Path):
    four = rated("Hi", [(text, {"quality": score}) for text, score in zip("abcd", (3, 5, 1, 4), strict=True)], 1)
    # b is worse than a by 10^-9
    means = [
        ("a", {"quality": 1.1, "y": 1.1, "z": 1.1}),
        ("b", {"quality": 1.1, "y": 1.099999998}),
        ("c", {"quality": 2}),
    ]
    three, two = rated("Ho", means, 2), rated("He", [("a", {"quality": 1}), ("b", {"quality": 2})], 3)
    one = rated("Ha", [("a", {"quality": 1})], 4)
    built, pairs, dropped = build(tmp_path, [four, three, two, one], best_set(score=["quality", "y", "z"]))
    assert (built.facts["candidates"], built.facts["kept"], dropped) == (3, 3, [])
    assert all(check.passed for check in built.checks)
    assert [sides_of(pairs, row) for row in (four, three, two, one)] == [[("b", "c")], [("c", "b")], [("b", "a")], []]


def test_best_vs_worst_of_rows_of_single_responses(tmp_path: Path):
    rows = [
        rated("Hi", [(text, {"quality": score})], row)
        for row, (text, score) in enumerate([("a", 2), ("b", 1), ("c", 3)])
    ]
    built, pairs, _ = build(tmp_path, rows, best_set(candidates="rated_prompt"))
    texts = {content_id([rows[0].prompt_id, text]): text for text in "abc"}
    assert [(texts[pair["chosen_id"]], texts[pair["rejected_id"]]) for pair in pairs] == [("c", "b")]
    assert all(check.passed for check in built.checks)


def test_equal_bests_and_worsts_are_chosen_by_content_and_not_by_place(tmp_path: Path):
    scores = {"a": 2, "b": 2, "c": 2, "d": 1, "e": 1, "f": 1}
    found = set()
    for number, order in enumerate(("abcdef", "fedcba", "cfbead")):
        row = rated("Hi", [(text, {"quality": scores[text]}) for text in order], number)
        _, pairs, _ = build(tmp_path / order, [row], best_set())
        found.update(sides_of(pairs, row))
    draw = {text: content_id(["best_vs_worst", 0, content_id([row.prompt_id, text])]) for text in scores}
    assert found == {(min("abc", key=draw.__getitem__), max("def", key=draw.__getitem__))}


def test_means_that_are_equal_and_differ_as_floats_are_a_tie(tmp_path: Path):
    thrice = dict.fromkeys("xyz", 1.1)  # 3.3 / 3 is 1.0999999999999999 as floats
    rows = [
        rated(f"Hi {n}", [("best", {"x": 2}), ("one", thrice), ("other", {"x": 1.1, "y": 1.1})], n) for n in range(8)
    ]
    _, pairs, _ = build(tmp_path, rows, best_set(score=["x", "y", "z"]))
    for row in rows:
        draw = {text: content_id(["best_vs_worst", 0, content_id([row.prompt_id, text])]) for text in ("one", "other")}
        assert sides_of(pairs, row) == [("best", max(draw, key=draw.__getitem__))]


def test_a_list_without_two_scores_still_makes_one_candidate_that_is_counted(tmp_path: Path):
    unrated = rated("Hi", [("a", {}), ("b", {"quality": 1}), ("c", {})], 1)
    equal = rated("Ho", [("a", {"quality": 1}), ("b", {"quality": 1})], 2)
    partly = rated("He", [("a", {}), ("b", {"quality": 1}), ("c", {"quality": 3})], 3)
    built, pairs, _ = build(tmp_path, [unrated, equal, partly], best_set("rating", "equal_score"))
    assert built.facts["dropped"] == {"rating": 1, "equal_score": 1}
    assert sides_of(pairs, partly) == [("c", "b")]
    assert all(check.passed for check in built.checks)


def test_best_vs_worst_of_given_pairs_is_refused():
    with pytest.raises(ValueError, match="leave pairing out, or set candidates to rated or rated_prompt"):
        PairSet(source="src", candidates="given", pairing="best_vs_worst", rules=[])
