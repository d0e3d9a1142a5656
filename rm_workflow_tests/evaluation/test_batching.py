import random
from collections.abc import Sequence

import numpy as np
import pytest

from rm_workflow.evaluation.batching import Layout, num_computed, passes, trees
from rm_workflow.models.segments import Ids

EVERY_LAYOUT: tuple[Layout, ...] = ("shared", "packed", "padded", "alone")
UNLIMITED = 10**9


def ids(*sequences: Sequence[int]) -> list[Ids]:
    return [np.array(sequence, dtype=np.int32) for sequence in sorted(set(map(tuple, sequences)))]


def drawn(seed: int, num_ids: int, count: int, longest: int) -> list[Ids]:
    draw = random.Random(seed)
    return ids(*([draw.randrange(num_ids) for _ in range(draw.randint(1, longest))] for _ in range(count)))


def prompts(num_prompts: int, num_replies: int, shared: int = 3) -> list[Ids]:
    """Conversations that begin with a template's ``shared`` tokens, then a prompt of 20, then replies of 10."""
    draw = random.Random(0)
    template = [1] * shared
    found = []
    for _ in range(num_prompts):
        prompt = template + [draw.randrange(5, 400) for _ in range(20)]
        found += [prompt + [draw.randrange(5, 400) for _ in range(10)] for _ in range(num_replies)]
    return ids(*found)


def test_replies_to_one_prompt_share_it_and_prompts_are_told_apart():
    sequences = prompts(4, 3)

    found = trees(sequences)

    assert [(len(tree.members), tree.num_common, tree.num_tokens) for tree in found] == [(3, 23, 53)] * 4


def test_conversations_that_have_nothing_else_in_common_share_the_words_of_the_template():
    (tree,) = trees(prompts(5, 1))

    assert (len(tree.members), tree.num_common) == (5, 3)


def test_a_prompt_with_one_reply_shares_with_others_what_it_can():
    sequences = ids([1, 1, 7, 7, 7, 2], [1, 1, 7, 7, 7, 3], [1, 1, 8], [1, 1, 9])

    assert {(tree.members, tree.num_common) for tree in trees(sequences)} == {((0, 1), 5), ((2, 3), 2)}


@pytest.mark.parametrize("num_ids", [1, 2, 3, 50])
def test_every_sequence_is_in_one_tree_and_begins_with_its_common_tokens(num_ids: int):
    for seed in range(20):
        sequences = drawn(seed, num_ids, 40, 12)
        found = trees(sequences)

        assert sorted(member for tree in found for member in tree.members) == list(range(len(sequences)))
        for tree in found:
            first = sequences[tree.members[0]][: tree.num_common]
            assert all(np.array_equal(sequences[member][: tree.num_common], first) for member in tree.members)
            assert all(len(sequences[member]) > tree.num_common for member in tree.members)
        assert sum(tree.num_tokens for tree in found) <= sum(map(len, sequences))


def test_a_thousand_sequences_each_the_beginning_of_the_next_are_no_recursion():
    assert sum(len(tree.members) for tree in trees(ids(*([1] * length for length in range(1, 1500))))) == 1499


@pytest.mark.parametrize("layout", EVERY_LAYOUT)
def test_passes_hold_every_sequence_once_within_the_budget(layout: Layout):
    sequences = drawn(0, 4, 300, 40)

    planned = passes(sequences, layout, 100)

    assert sorted(member for one in planned for member in one.members) == list(range(len(sequences)))
    assert all(num_computed(sequences, [one]) <= 100 for one in planned)
    costs = [max(len(sequences[member]) for member in one.members) for one in planned]
    assert layout in ("shared", "packed") or costs == sorted(costs, reverse=True)


@pytest.mark.parametrize("layout", EVERY_LAYOUT)
def test_a_sequence_above_the_budget_still_makes_a_pass_and_the_first_one(layout: Layout):
    planned = passes(ids([1] * 50, [2] * 5, [3] * 5), layout, 10)

    assert planned[0].members == (0,)
    assert len(planned) == (3 if layout == "alone" else 2)


def test_a_prompt_with_more_replies_than_fit_is_repeated_in_each_pass():
    sequences = prompts(1, 30)

    planned = passes(sequences, "shared", 83)

    assert [len(one.members) for one in planned] == [6] * 5
    assert all(num_computed(sequences, [one]) == 83 for one in planned)


def test_one_reply_left_over_from_a_prompt_stands_alone():
    (first, second) = passes(prompts(1, 3), "shared", 43)

    assert [len(first.trees[0].members), first.trees[0].num_common] == [2, 23]
    assert [len(second.trees[0].members), second.trees[0].num_common] == [1, 0]


def test_sharing_computes_fewer_tokens_and_sorting_wastes_few():
    sequences = prompts(10, 16)
    stated = sum(map(len, sequences))

    assert stated / num_computed(sequences, passes(sequences, "shared", UNLIMITED)) > 2.5
    assert num_computed(sequences, passes(sequences, "packed", 4096)) == stated
    ragged = drawn(1, 300, 200, 60)
    assert num_computed(ragged, passes(ragged, "padded", 256)) < 1.1 * sum(map(len, ragged))


def test_what_some_members_of_a_tree_have_in_common_stands_once_too():
    prompt, step, other = list(range(100, 130)), list(range(200, 220)), list(range(300, 312))
    rows = [
        [*prompt, *step, *other, 1, 2],
        [*prompt, *step, *other, 3],
        [*prompt, *step, 4, 5],
        [*prompt, *step, 6],
        [*prompt, 7, 8, 9],
        [*prompt, 7, 8, 10],
    ]
    sequences = [np.array(row, dtype=np.int32) for row in sorted(rows)]
    (one,) = passes(sequences, "shared", UNLIMITED, nests=True)
    (tree,) = one.trees
    # Two tokens that two replies begin with are too few to go on from.
    assert num_computed(sequences, passes(sequences, "shared", UNLIMITED)) > 100
    assert num_computed(sequences, [one]) == 30 + 20 + 12 + (2 + 1) + (2 + 1) + (3 + 3)
    assert (tree.num_common, [inner.num_common for inner in tree.inner]) == (30, [50])
    assert [inner.num_common for inner in tree.inner[0].inner] == [62]
    assert sorted(one.members) == list(range(6))


def test_a_nested_tree_that_is_cut_stays_within_the_budget():
    draw = random.Random(3)
    steps = [[[draw.randrange(9, 5000) for _ in range(draw.randint(1, 30))] for _ in range(2)] for _ in range(6)]
    rows = {(*(token for step in steps for token in draw.choice(step)), n) for n in range(64)}
    sequences = [np.array(row, dtype=np.int32) for row in sorted((*range(1000, 1040), *row) for row in rows)]
    planned = passes(sequences, "shared", 400, nests=True)
    assert sorted(member for one in planned for member in one.members) == list(range(64))
    assert len(planned) > 2
    assert all(num_computed(sequences, [one]) <= 400 for one in planned)
    nested = num_computed(sequences, passes(sequences, "shared", UNLIMITED, nests=True))
    assert 2 * nested < num_computed(sequences, passes(sequences, "shared", UNLIMITED))
