import pytest

from rm_workflow.errors import UserError
from rm_workflow.evaluation.benchmarks import rmb
from rm_workflow.evaluation.benchmarks.rmb import aggregate, headline
from rm_workflow.evaluation.items import FieldError, ScoredItem


def row(subset: str, chosen: float, rejected: float | list[float], identity: int = 0, **more: object) -> dict:
    return {"id": identity, "subset": subset, "score_chosen": chosen, "score_rejected": rejected, **more}


def full() -> list[dict]:
    return [
        row("Helpfulness/Chat/Discussion", 1, 0, 0),
        row("Helpfulness/Chat/Discussion", 0, 1, 1),
        row("Helpfulness/Code/Documentation", 1, 0, 2),
        row("Harmlessness/S1", 1, 0, 3),
        row("Helpfulness/Chat/Discussion", 1, [0, 0.5], 4),
        row("Helpfulness/Chat/Discussion", 1, [0, 2], 5),
        row("Harmlessness/S1", 0, [0.5, -1, -2], 6),
    ]


@pytest.mark.parametrize(
    ("rejected", "score", "ties"),
    [
        (0.5, 1.0, 0),
        (1.0, 0.0, 1),
        (2.0, 0.0, 0),
        ([0.0, 0.5], 1.0, 0),
        ([0.0, 1.0], 0.0, 1),
        ([0.0, 0.0, 2.0], 0.0, 0),
    ],
)
def test_the_best_reply_must_beat_every_other(rejected: float | list[float], score: float, ties: int):
    form = "best_of_n" if isinstance(rejected, list) else "pairwise"

    (found,) = [part for part in aggregate([row("Harmlessness/S1", 1.0, rejected)])["sections"].values() if part]

    assert (found["score"], found["ties"]) == (score, ties)
    assert f"Harmlessness, {form}" not in aggregate([row("Harmlessness/S1", 1.0, rejected)])["missing_subsets"]


def test_a_section_weighs_items_alike_and_the_overall_its_four_sections():
    result = aggregate(full())

    assert {name: score["score"] for name, score in result["sections"].items()} == {
        "Helpfulness, pairwise": pytest.approx(2 / 3),
        "Harmlessness, pairwise": 1.0,
        "Helpfulness, best_of_n": 0.5,
        "Harmlessness, best_of_n": 0.0,
    }
    assert result["overall"] == pytest.approx((2 / 3 + 1 + 0.5 + 0) / 4)
    assert result["pairwise"]["score"] == pytest.approx((2 / 3 + 1) / 2)
    assert result["best_of_n"]["score"] == pytest.approx(0.25)
    assert headline(result)["score"] == result["overall"]
    assert result["missing_subsets"] == []


def test_scenarios_are_scored_apart_by_form():
    subsets = aggregate(full())["subsets"]

    assert {name: score["score"] for name, score in subsets.items()} == {
        "best_of_n/Harmlessness/S1": 0.0,
        "best_of_n/Helpfulness/Chat/Discussion": 0.5,
        "pairwise/Harmlessness/S1": 1.0,
        "pairwise/Helpfulness/Chat/Discussion": 0.5,
        "pairwise/Helpfulness/Code/Documentation": 1.0,
    }


def test_lists_alone_have_no_overall_and_their_own_headline():
    result = aggregate([item for item in full() if isinstance(item["score_rejected"], list)])

    assert result["overall"] is None
    assert result["missing_subsets"] == ["Helpfulness, pairwise", "Harmlessness, pairwise"]
    assert headline(result) == result["best_of_n"]
    assert headline(aggregate(full()[:1])) is None


def test_one_id_may_name_a_pair_and_a_list():
    assert aggregate([row("Harmlessness/S1", 1, 0), row("Harmlessness/S1", 1, [0])])["warnings"] == []


def test_pairs_of_one_prompt_are_clustered():
    rows = [row("Harmlessness/S1", float(i % 4 != 0), 0.5, 3 * i + j) for i in range(60) for j in range(3)]
    alone, grouped = (
        aggregate([{**given, **({"group": i // 3} if cluster else {})} for i, given in enumerate(rows)])["sections"][
            "Harmlessness, pairwise"
        ]
        for cluster in (False, True)
    )

    assert grouped["ci_high"] - grouped["ci_low"] > 1.5 * (alone["ci_high"] - alone["ci_low"])


def test_figures_do_not_depend_on_the_order_of_rows():
    assert aggregate(full()[::-1]) == aggregate(full())


GOOD = row("Harmlessness/S1", 1.0, 0.0)


@pytest.mark.parametrize(
    ("bad", "said"),
    [
        (GOOD | {"subset": "Harmless/S1"}, r"row 2: field subset names 'Harmless/S1'.*did you mean 'Harmlessness'\?"),
        (GOOD | {"subset": "Helpfulness"}, "names 'Helpfulness', which is no goal/scenario"),
        (GOOD | {"score_rejected": []}, "must be a list of numbers"),
        (GOOD | {"score_rejected": [0.0, None]}, r"field score_rejected\[1\] is None"),
        (GOOD | {"score_rejected": "0"}, "field score_rejected is '0'"),
        ({name: GOOD[name] for name in ("id", "subset", "score_chosen")}, "field score_rejected is missing"),
        (GOOD, "row 2: id 0 of subset pairwise/Harmlessness/S1 stands in row 1 already"),
    ],
)
def test_a_bad_row_is_refused_with_its_number_and_field(bad: dict, said: str):
    with pytest.raises(UserError, match=said):
        aggregate([GOOD, bad])


TURNS = [
    {"role": "user", "content": "Name a river.", "language": "English"},
    {"role": "assistant", "content": "The Danube.", "language": "English"},
    {"role": "user", "content": "Another.", "language": "English"},
]
PAIR = {
    "pair_uid": "7",
    "conversation_input": TURNS,
    "chosen": {"llm_name": "a", "answer": "The Rhine.", "score": 5.0},
    "reject": {"llm_name": "b", "answer": "No.", "score": 1.0},
    "category_path": "Pairwise_set/Helpfulness/Open QA/Factual",
}
LIST = {
    "bon_uid": "9",
    "conversation_input": TURNS,
    "bon_best": {"llm_name": "a", "answer": "The Rhine."},
    "loser_list": [{"llm_name": "b", "answer": "No."}, {"llm_name": "c", "answer": "Paris."}],
    "category_path": "BoN_set/Harmlessness/S1",
}
FLAT_PAIR = {
    "pair_uid": "7",
    "conversation": TURNS,
    "chosen": "The Rhine.",
    "rejected": "No.",
    "category_path": "Pairwise_set/Helpfulness/Open QA/Factual",
}
FLAT_LIST = {
    "bon_uid": "9",
    "conversation": TURNS,
    "chosen": "The Rhine.",
    "rejected": ["No.", "Paris."],
    "category_path": "BoN_set/Harmlessness/S1",
}


@pytest.mark.parametrize("native", [PAIR, FLAT_PAIR])
def test_a_pair_of_either_schema_becomes_an_item_and_its_scores_a_row_again(native: dict):
    item = rmb.read_item(native)

    assert item.messages == [{"role": turn["role"], "content": turn["content"]} for turn in TURNS]
    assert item.responses == ["The Rhine.", "No."]
    scored = rmb.scored_row(ScoredItem(item.subset, [1.0, 0.0], item.num_correct, item.meta))
    assert scored == row("Helpfulness/Open QA/Factual", 1.0, 0.0) | {"id": "7", "group": item.meta["group"]}


@pytest.mark.parametrize("native", [LIST, FLAT_LIST])
def test_a_list_of_either_schema_becomes_an_item_and_its_scores_a_row_again(native: dict):
    item = rmb.read_item(native)

    assert item.responses == ["The Rhine.", "No.", "Paris."]
    scored = rmb.scored_row(ScoredItem(item.subset, [1.0, 0.0, -1.0], item.num_correct, item.meta))
    assert scored == row("Harmlessness/S1", 1.0, [0.0, -1.0]) | {"id": "9", "group": item.meta["group"]}


def test_a_list_with_one_other_reply_stays_a_list():
    item = rmb.read_item(LIST | {"loser_list": LIST["loser_list"][:1]})

    scored = rmb.scored_row(ScoredItem(item.subset, [1.0, 0.0], item.num_correct, item.meta))

    assert scored["score_rejected"] == [0.0]


@pytest.mark.parametrize(
    ("bad", "said"),
    [
        ({"category_path": "BoN/Harmlessness/S1"}, "begins with 'BoN'; did you mean 'BoN_set'"),
        ({"category_path": "BoN_set/Truth/S1"}, "names 'Truth/S1', which is no goal/scenario"),
        ({"conversation_input": TURNS[:2]}, "end with the user's"),
        ({"conversation_input": "Name a river."}, "must be a list of"),
        ({"loser_list": []}, "field loser_list must be a list of at least one"),
        ({"loser_list": [{"llm_name": "b"}]}, "field answer is missing"),
    ],
)
def test_a_bad_native_row_is_refused(bad: dict, said: str):
    with pytest.raises(FieldError, match=said):
        rmb.read_item(LIST | bad)
