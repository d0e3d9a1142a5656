import pytest

from rm_workflow.catalog.models import Validation
from rm_workflow.errors import UserError
from rm_workflow.training import held_out
from rm_workflow.training.data import load_pairs
from rm_workflow_tests.training import toy

GROUPS = [f"group {n // 3}" for n in range(300)]


def test_whole_groups_are_held_out_and_as_many_as_asked_for():
    chosen = held_out.chosen_groups(GROUPS, Validation(share=0.1))
    assert len(chosen) == 10
    assert sum(group in chosen for group in GROUPS) == 30
    assert len(held_out.chosen_groups(GROUPS, Validation(share=0.1, max_pairs=7))) == 3


def test_the_choice_is_of_the_groups_and_not_of_the_rows():
    chosen = held_out.chosen_groups(GROUPS, Validation())
    assert held_out.chosen_groups(GROUPS[::-1], Validation()) == chosen
    # More rows of other groups replace few of them: each group stands in an order of its own.
    more = held_out.chosen_groups([*GROUPS, *(f"other {n}" for n in range(30))], Validation(max_pairs=15))
    assert len(more & chosen) >= 3
    assert held_out.chosen_groups(GROUPS, Validation(seed=1)) != chosen


def test_held_out_pairs_come_from_train_and_are_counted_apart(tokens, encoder, tmp_path):
    rows = [
        {**row, "split": "test" if n % 5 == 0 else "train", "repeat": 1 + n % 2} for n, row in enumerate(toy.rows(20))
    ]
    folder = toy.write_tokens(tmp_path / "tokens", encoder, rows)
    validation = Validation(share=0.25)
    trained, held = held_out.split(folder, validation)
    assert len(held) == 4
    assert sorted([*trained.tolist(), *held.tolist()]) == list(range(16))
    pairs = load_pairs(folder)
    left = held_out.subset(pairs, trained)
    facts = held_out.facts_for_training(folder, {"test": 4, "train_per_epoch": 999}, validation)
    assert facts == {
        "test": 4,
        "train_per_epoch": left.repeat.sum(),
        "train_tokens": left.num_tokens,
        "validation": 4,
    }
    assert left.num_tokens < pairs.num_tokens
    assert [left.pair_id[0], left.source[-1]] == [pairs.pair_id[trained[0]], pairs.source[trained[-1]]]


def test_without_validation_all_train_pairs_are_trained_on(tokens):
    trained, held = held_out.split(tokens, None)
    assert trained.tolist() == list(range(22))
    assert len(held) == 0
    assert held_out.facts_for_training(tokens, {"train_per_epoch": 22}, None) == {
        "train_per_epoch": 22,
        "validation": 0,
    }


def test_a_validation_that_leaves_nothing_to_train_on_is_refused(encoder, tmp_path):
    folder = toy.write_tokens(tmp_path / "tokens", encoder, toy.rows(1))
    with pytest.raises(UserError, match="holds out 1 of 1 train pairs"):
        held_out.split(folder, Validation())
