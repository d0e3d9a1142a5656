from pathlib import Path

import pytest

from rm_workflow.catalog.models import Probes
from rm_workflow.evaluation.probes import sample
from rm_workflow.evaluation.probes.rewrites import PROBES
from rm_workflow.evaluation.sequences import Work
from rm_workflow_tests.evaluation.probes.spelled import PAIRS, Probed, SpellingScorer, read, write_folders
from rm_workflow_tests.preferences.raw_tables import given


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_folders(tmp_path_factory.mktemp("pairs"))[0]


def by_length(prompt: str, reply: str) -> float:
    return float(len(reply))


def test_the_sample_is_one_of_content_whatever_the_order_and_grows_by_its_end():
    rows = [{"pair_id": f"p{number:02}"} for number in range(50)]

    chosen = sample.sampled(rows, 10)

    assert sample.sampled(rows[::-1], 10) == chosen
    assert sample.sampled(rows, 30)[:10] == chosen
    assert chosen != rows[:10]
    assert len(sample.sampled(rows, 99)) == 50


def test_each_reply_is_asked_for_as_it_stands_and_under_every_probe(folder: Path):
    probed = Probed(folder, by_length, num_pairs=5, num_prompt_ablated=7)

    asked = [(one.probe, one.side) for one in probed.probing.asked]
    assert {name: asked.count((name, "chosen")) for name, _ in asked} == {
        **{probe.name: 5 for probe in PROBES},
        "prompt_ablated": 7,
    }
    assert probed.probing.num_pairs == 5
    plain = [key for key in probed.work.keys if key[0] == "plain"]
    assert len(plain) == len(set(plain)) == 10
    ablated = [ids for key, ids in zip(probed.work.keys, probed.work.sequences, strict=True) if "ablated" in key[0]]
    assert {read(ids)[0] for ids in ablated} == {""}


def test_a_probe_asks_for_the_very_text_of_its_reply(folder: Path):
    probed = Probed(folder, by_length)

    found = dict(zip(probed.work.keys, probed.work.sequences, strict=True))
    (first, *_) = [one for one in probed.probing.asked if one.probe == "repeated" and one.side == "rejected"]
    prompt, reply = read(found["repeated", first.pair.pair_id, "rejected"])
    assert prompt == first.pair.messages[0]["content"]
    assert reply == f"{first.pair.rejected}\n\n{first.pair.rejected}"
    assert (prompt, first.pair.rejected) in [(row.prompt, row.responses[1].text) for row in PAIRS]


def test_a_text_that_a_probe_leaves_as_it_is_is_counted_and_not_scored(tmp_path: Path):
    rows = [given("Which?", "One two.", "Often so.", 0), given("Why?", "Three.", "`code`", 1)]
    probed = Probed(write_folders(tmp_path, rows)[0], by_length)

    swapped = probed.rewrites["word_swaps"]
    assert (swapped["num_replies"], swapped["num_changed"]) == (4, 1)
    assert swapped["change"]["all"]["n"] == 1
    assert swapped["change"]["chosen"] is None
    # the only pair of which something changed is that of "Often so."
    assert swapped["rejected_wins"]["after"]["n"] == swapped["accuracy"]["after"]["n"] == 1
    assert ("word_swaps", sample.sampled(probed.pairs, 2)[0]["pair_id"], "chosen") not in probed.work.keys


def test_white_space_that_the_template_takes_off_is_no_change(tmp_path: Path):
    folder, _ = write_folders(tmp_path, [given("Which?", "One", "Two", 0)])

    kept = Probed(folder, by_length).rewrites["white_space"]
    trimmed = Probed(folder, by_length, scorer=SpellingScorer(trims=True)).rewrites["white_space"]

    assert (kept["num_changed"], trimmed["num_changed"]) == (2, 0)
    assert trimmed["change"] == {"all": None, "chosen": None, "rejected": None}
    assert (trimmed["rises"], trimmed["rejected_wins"], trimmed["accuracy"]) == (None, None, None)


def test_a_conversation_above_the_window_is_left_out_and_counted(tmp_path: Path):
    rows = [given("Which?", "a" * 60, "Two", 0), given("Why?", "b" * 10, "c", 1), given("How?", "d" * 200, "e", 2)]
    probed = Probed(write_folders(tmp_path, rows)[0], by_length, scorer=SpellingScorer(window=100))

    # the reply of 60 fits once; that of 200 never does
    assert probed.rewrites["repeated"]["num_too_long"] == 2
    assert probed.rewrites["quoted"]["num_too_long"] == 1
    assert probed.rewrites["repeated"]["accuracy"]["after"]["n"] == 1
    assert probed.effects["prompt_ablated"]["num_too_long"] == 1
    assert probed.effects["prompt_ablated"]["without_prompt"]["n"] == 2


def test_nothing_is_probed_where_the_test_split_is_not_scored(tmp_path: Path):
    work = Work()

    probing = sample.add_probes([], tmp_path, [], Probes(), SpellingScorer(), work)  # type: ignore[arg-type]

    assert probing.why_none == "the test split is not scored (evaluation.evaluate_on does not name it)"
    assert (work.keys, probing.asked) == ([], ())


@pytest.mark.parametrize(("num_pairs", "num_ablated"), [(0, 0), (3, 0), (0, 3)])
def test_each_number_turns_its_own_part_off(folder: Path, num_pairs: int, num_ablated: int):
    probed = Probed(folder, by_length, num_pairs, num_ablated)

    assert bool(probed.rewrites) == bool(num_pairs)
    assert bool(probed.effects["prompt_ablated"]) == bool(num_ablated)
    off = num_pairs == num_ablated == 0
    assert probed.effects["why_none"] == ("evaluation.probes turns all probes off" if off else None)
