import itertools
from collections import Counter

import numpy as np
import pyarrow.parquet as pq
import pytest

from rm_workflow.errors import UserError
from rm_workflow.training.data import keyed_order, load_pair_keys, load_pairs, training_order, training_steps
from rm_workflow_tests.training import toy


def _keys(pairs, order):
    return [pairs.pair_key[position] for position in order]


def flat(steps):
    return list(itertools.chain.from_iterable(steps))


def test_the_order_of_pairs_does_not_depend_on_the_order_of_rows(pairs, encoder, tmp_path):
    turned = load_pairs(toy.write_tokens(tmp_path, encoder, toy.rows(22), reverse=True))
    assert turned.pair_key != pairs.pair_key
    assert _keys(turned, keyed_order(turned, 7, 0)) == _keys(pairs, keyed_order(pairs, 7, 0))


def test_more_pairs_leave_the_order_of_the_others_as_it_was(pairs, encoder, tmp_path):
    more = load_pairs(toy.write_tokens(tmp_path, encoder, toy.rows(40)))
    known = set(pairs.pair_key)
    assert [key for key in _keys(more, keyed_order(more, 7, 0)) if key in known] == _keys(
        pairs, keyed_order(pairs, 7, 0)
    )


def test_seeds_and_epochs_have_orders_of_their_own(pairs):
    orders = [keyed_order(pairs, seed, epoch) for seed, epoch in ((0, 0), (0, 1), (1, 0))]
    assert len({tuple(order) for order in orders}) == 3
    assert all(sorted(order) == list(range(22)) for order in orders)


def test_epochs_follow_each_other_and_the_last_one_is_cut(pairs):
    order = training_order(pairs, 0, 2.5)
    assert order == (keyed_order(pairs, 0, 0) + keyed_order(pairs, 0, 1) + keyed_order(pairs, 0, 2))[:55]
    assert set(Counter(order).values()) == {2, 3}


def test_a_repeated_pair_is_shown_so_often_an_epoch_and_leaves_the_order_of_the_others(pairs, encoder, tmp_path):
    rows = [{**row, "repeat": 3 if n in (4, 9) else 1} for n, row in enumerate(toy.rows(22))]
    repeated = load_pairs(toy.write_tokens(tmp_path, encoder, rows))
    order = keyed_order(repeated, 7, 0)
    assert Counter(order) == {n: 3 if n in (4, 9) else 1 for n in range(22)}
    once = [n for n in order if n not in (4, 9)]
    assert once == [n for n in keyed_order(pairs, 7, 0) if n not in (4, 9)]
    places = [place for place, n in enumerate(order) if n == 4]
    assert places != list(range(places[0], places[0] + 3))
    half_epoch_more = training_order(repeated, 7, 1.5)
    assert half_epoch_more == order + keyed_order(repeated, 7, 1)[:13]
    assert repeated.num_tokens == pairs.num_tokens + 2 * sum(sum(pairs.lengths(n)) for n in (4, 9))


def test_only_the_train_split_is_read(encoder, tmp_path):
    rows = [{**row, "split": "test" if n < 5 else "train"} for n, row in enumerate(toy.rows(22))]
    folder = toy.write_tokens(tmp_path, encoder, rows)
    assert (len(load_pairs(folder)), len(load_pairs(folder, "test"))) == (17, 5)


def test_a_pair_without_its_response_is_refused(encoder, tmp_path):
    folder = toy.write_tokens(tmp_path, encoder, toy.rows(4))
    responses = pq.read_table(folder / "responses.parquet")
    pq.write_table(responses.slice(1), folder / "responses.parquet")
    with pytest.raises(UserError, match=r"response .* is not in responses\.parquet"):
        load_pairs(folder)


def test_common_tokens_are_counted_on_the_tokens_and_leave_each_side_one_of_its_own(pairs):
    for sides in zip(pairs.chosen, pairs.rejected, strict=True):
        common = pairs.num_common(sides)
        chosen, rejected = map(pairs.ids, sides)
        assert np.array_equal(chosen[:common], rejected[:common])
        assert common < min(len(chosen), len(rejected))
        assert common + 1 == min(len(chosen), len(rejected)) or chosen[common] != rejected[common]
        assert common >= pairs.prompt_length[sides[0]]
    assert pairs.num_common([3]) == 0


def test_steps_of_pairs_are_the_keyed_order_cut_at_the_batch(pairs):
    steps = training_steps(pairs, 3, 1.5, 8)
    assert [len(step) for step in steps] == [8, 8, 8, 8, 1]
    assert flat(steps) == training_order(pairs, 3, 1.5)


@pytest.fixture
def prompts(encoder, tmp_path):
    return load_pairs(toy.write_tokens(tmp_path / "prompts", encoder, toy.rows_of_prompts(4, 3, 2, 4, 3, 2, 3)))


def prompts_of(pairs, steps):
    return [{pairs.prompt_id[position] for position in step} for step in steps]


def test_a_step_of_prompts_holds_all_their_pairs_and_is_filled_up_to_the_batch(prompts):
    steps = training_steps(prompts, 0, 1, 8, "prompts")
    assert sorted(flat(steps)) == list(range(len(prompts)))
    sets = prompts_of(prompts, steps)
    assert sum(map(len, sets)) == len(set.union(*sets)) == 7
    sizes = Counter(prompts.prompt_id)
    for step, following in itertools.pairwise(steps):
        assert len(step) <= 8
        assert len(step) + sizes[prompts.prompt_id[following[0]]] > 8


def test_the_order_of_prompts_does_not_depend_on_the_order_of_rows_and_differs_by_seed_and_epoch(
    prompts, encoder, tmp_path
):
    rows = toy.rows_of_prompts(4, 3, 2, 4, 3, 2, 3)
    turned = load_pairs(toy.write_tokens(tmp_path / "turned", encoder, rows, reverse=True))
    steps = [_keys(prompts, step) for step in training_steps(prompts, 0, 1, 8, "prompts")]
    assert [_keys(turned, step) for step in training_steps(turned, 0, 1, 8, "prompts")] == steps
    orders = [training_steps(prompts, seed, epochs, 6, "prompts") for seed, epochs in ((0, 1), (1, 1))]
    assert orders[0] != orders[1]
    first, second = (flat(training_steps(prompts, 0, epochs, 6, "prompts")) for epochs in (1, 2))
    assert second[: len(first)] == first
    assert second[len(first) :] != first
    assert Counter(second) == dict.fromkeys(range(len(prompts)), 2)


def test_part_of_an_epoch_ends_with_a_whole_prompt(prompts):
    half = training_steps(prompts, 0, 0.5, 8, "prompts")
    seen = flat(half)
    assert len(prompts) / 2 <= len(seen) < len(prompts) / 2 + 6
    left = set(range(len(prompts))) - set(seen)
    assert {prompts.prompt_id[n] for n in left}.isdisjoint(prompts.prompt_id[n] for n in seen)


def test_a_second_showing_of_a_prompts_pairs_has_a_place_of_its_own(encoder, tmp_path):
    rows = [{**row, "repeat": 2} for row in toy.rows_of_prompts(3, 3, 3, 3)]
    pairs = load_pairs(toy.write_tokens(tmp_path, encoder, rows))
    steps = training_steps(pairs, 0, 1, 3, "prompts")
    assert len(steps) == 8
    assert all(len(found) == 1 for found in prompts_of(pairs, steps))
    assert Counter(flat(steps)) == dict.fromkeys(range(len(pairs)), 2)


def test_a_prompt_of_more_pairs_than_a_step_is_refused(prompts):
    with pytest.raises(UserError, match=r"a prompt has 6 pairs and a step takes 5; raise training\.batch_size to 6"):
        training_steps(prompts, 0, 1, 5, "prompts")


def test_the_keys_of_pairs_alone_give_the_same_steps(prompts, tmp_path):
    keys = load_pair_keys(tmp_path / "prompts")
    assert training_steps(keys, 5, 2, 8, "prompts") == training_steps(prompts, 5, 2, 8, "prompts")
    assert training_steps(keys, 5, 2, 8) == training_steps(prompts, 5, 2, 8)


def test_lengths_are_those_of_both_sides(pairs):
    chosen, rejected = pairs.lengths(4)
    assert (chosen, rejected) == (len(pairs.ids(pairs.chosen[4])), len(pairs.ids(pairs.rejected[4])))
    assert sum(sum(pairs.lengths(position)) for position in range(len(pairs))) == pairs.num_tokens
    assert pairs.longest == max(max(pairs.lengths(position)) for position in range(len(pairs)))
