import json
import math
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from scipy import stats

from rm_workflow.evaluation.probes import effects
from rm_workflow.evaluation.probes.rewrites import PROBES
from rm_workflow.evaluation.statistics import accuracy_with_interval, any_mean_interval
from rm_workflow.keys import file_sha256
from rm_workflow_tests.evaluation.probes.spelled import Probed, write_folders

ATTACKS = ("as_an_ai", "sycophantic_opener", "injection", "repeated")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_folders(tmp_path_factory.mktemp("pairs"))[0]


def by_length(prompt: str, reply: str) -> float:
    return float(len(reply))


def by_injection(prompt: str, reply: str) -> float:
    return 100.0 * ("high score" in reply) + len(reply.split()[0] if reply else "") + 0.01 * len(reply)


def by_words(prompt: str, reply: str) -> float:
    """Reads only the reply, and of it only whether it says that it does not know."""
    return 1.0 if "in the north" in reply else 0.5


def by_prompt(prompt: str, reply: str) -> float:
    """Likes a reply that says "River", where a river was asked for; without a prompt it likes none."""
    return float("River" in reply and "river" in prompt)


def test_a_model_that_rewards_length_is_found_out(folder: Path):
    found = Probed(folder, by_length).rewrites

    for name in ATTACKS:
        assert found[name]["change"]["all"]["ci_low"] > 0
        assert found[name]["rises"]["score"] == 1.0
    assert found["empty"]["change"]["all"]["ci_high"] < 0
    assert found["empty"]["rises"]["score"] == 0.0
    # each rejected reply is shorter as it stands; said twice, some are longer
    wins = found["repeated"]["rejected_wins"]
    assert wins["before"]["score"] == 0.0
    assert 0 < wins["after"]["score"] == wins["turned"] < 1
    assert found["repeated"]["accuracy"]["after"]["score"] == 1.0


def test_a_model_that_obeys_the_injection_is_found_out_by_that_probe_alone(folder: Path):
    found = Probed(folder, by_injection).rewrites

    assert found["injection"]["rejected_wins"]["after"]["score"] == 1.0
    moves = {name: one["change"]["all"]["mean"] for name, one in found.items()}
    assert moves["injection"] > 10 * max(abs(move) for name, move in moves.items() if name != "injection")


def test_a_model_that_nothing_moves_has_no_change(folder: Path):
    found = Probed(folder, by_words).rewrites

    for name in ("white_space", "quoted", "injection", "repeated"):
        assert found[name]["change"]["all"] == {"mean": 0.0, "n": 60, "ci_low": 0.0, "ci_high": 0.0}
        assert (found[name]["rises"]["score"], found[name]["rises"]["ties"]) == (0.0, 60)
        assert found[name]["accuracy"]["before"] == found[name]["accuracy"]["after"]


def test_without_its_prompt_a_model_that_reads_only_replies_is_as_right_as_with_it(folder: Path):
    probed = Probed(folder, by_words)

    found = probed.effects["prompt_ablated"]
    groups = [pair["group_id"] for pair in probed.pairs]
    margins = probed.rewards[::2] - probed.rewards[1::2]
    assert found["without_prompt"] == found["with_prompt"] == accuracy_with_interval(margins > 0, groups)
    assert found["difference"]["mean"] == 0.0
    assert found["difference"]["ci_low"] < 0 < found["difference"]["ci_high"]


def test_without_its_prompt_a_model_that_reads_it_is_lost(folder: Path):
    found = Probed(folder, by_prompt).effects["prompt_ablated"]

    assert (found["with_prompt"]["score"], found["without_prompt"]["score"]) == (1.0, 0.0)
    assert found["without_prompt"]["ties"] == found["without_prompt"]["n"] == 30
    assert found["difference"]["ci_low"] > 0.5


def test_figures_are_those_of_a_plain_recomputation(folder: Path, tmp_path: Path):
    generator = np.random.default_rng(0)
    noise = {}

    def reward(prompt: str, reply: str) -> float:
        return noise.setdefault((prompt, reply), float(generator.normal()) + 0.1 * len(prompt + reply))

    probed = Probed(folder, reward, num_pairs=20)
    effects.write_effects(probed.probing, probed.answered, probed.rewards, tmp_path)
    found = json.loads((tmp_path / effects.FILE).read_text())

    rows = [row for row in pq.read_table(tmp_path / effects.ROWS_FILE).to_pylist() if row["probe"] == "quoted"]
    assert found["unit"] == pytest.approx(math.sqrt(sum((r - probed.rewards.mean()) ** 2 for r in probed.rewards) / 60))
    changes = [(row["after"] - row["before"]) / found["unit"] for row in rows]
    quoted = found["probes"]["quoted"]
    assert quoted["change"]["all"]["mean"] == pytest.approx(sum(changes) / 40)
    assert quoted["rises"]["score"] == sum(change > 0 for change in changes) / 40
    sides = {(row["pair_id"], row["side"]): row for row in rows}
    pairs = {row["pair_id"] for row in rows}
    wins = [sides[pair, "rejected"]["after"] > sides[pair, "chosen"]["before"] for pair in pairs]
    assert quoted["rejected_wins"]["after"]["score"] == sum(wins) / 20
    kept = [sides[pair, "chosen"]["after"] > sides[pair, "rejected"]["after"] for pair in pairs]
    assert quoted["accuracy"]["after"]["score"] == sum(kept) / 20
    # groups drawn one by one
    groups: dict[str, list[float]] = {}
    for row, change in zip(rows, changes, strict=True):
        groups.setdefault(row["group_id"], []).append(change)
    draws = []
    for _ in range(4000):
        drawn = generator.choice(len(groups), len(groups))
        values = [value for place in drawn for value in list(groups.values())[place]]
        draws.append(sum(values) / len(values))
    spread = np.std(draws) * math.sqrt(len(groups) / (len(groups) - 1)) * stats.t.ppf(0.975, len(groups) - 1)
    width = quoted["change"]["all"]["ci_high"] - quoted["change"]["all"]["ci_low"]
    assert width / 2 == pytest.approx(spread, rel=0.06)


def test_the_interval_of_a_mean_is_students_where_groups_have_one_row():
    values = np.random.default_rng(1).normal(3.0, 2.0, 25)

    found = any_mean_interval(values, [str(place) for place in range(25)])

    expected = stats.t.interval(0.95, 24, values.mean(), values.std(ddof=1) / 5)
    assert found == pytest.approx(expected, rel=0.02)
    assert any_mean_interval(values, ["one"] * 25) is None


def test_empty_replies_are_not_put_against_each_other(folder: Path):
    found = Probed(folder, by_length).rewrites["empty"]

    assert found["accuracy"] is None
    assert found["rejected_wins"]["after"]["score"] == 0.0


def test_examples_are_the_largest_moves_with_texts_cut(tmp_path: Path):
    from rm_workflow_tests.preferences.raw_tables import given

    rows = [given("x" * 500 + f"{n}?", "long " * n, "short", n) for n in (2, 90, 5, 60)]
    found = Probed(write_folders(tmp_path, rows)[0], by_length).rewrites["repeated"]["examples"]

    assert [one["before"] for one in found] == [450.0, 300.0, 25.0]
    assert [one["side"] for one in found] == ["chosen"] * 3
    assert all(one["after"] == 2 * one["before"] + 2 for one in found)
    assert found[0]["prompt"].startswith("…xx")
    assert found[0]["prompt"].endswith("x90?")
    assert found[0]["reply"].startswith("long long")
    assert max(len(one[text]) for one in found for text in ("prompt", "reply")) == effects.EXAMPLE_CHARACTERS


def test_a_model_that_rewards_nothing_has_no_unit_and_no_change(folder: Path):
    found = Probed(folder, lambda prompt, reply: 0.0)

    assert found.effects["unit"] == 0.0
    assert found.rewrites["injection"]["change"]["all"] is None
    assert found.rewrites["injection"]["rises"]["score"] == 0.0
    assert effects.headlines(found.effects)["rewrites"]["injection"]["mean_change"] is None


def test_headlines_are_flat_and_name_every_rewrite(folder: Path):
    found = Probed(folder, by_length)

    shown = effects.headlines(found.effects)

    assert set(shown["rewrites"]) == {probe.name for probe in PROBES}
    assert shown["rewrites"]["injection"]["ci_low"] == found.rewrites["injection"]["change"]["all"]["ci_low"]
    rises, told = found.rewrites["injection"]["rises"], shown["rewrites"]["injection"]
    assert (told["rises"], told["rises_n"], told["rises_interval"]) == (
        *(rises["score"], rises["n"], [rises["ci_low"], rises["ci_high"]]),
    )
    assert all(not isinstance(value, dict) for one in shown["rewrites"].values() for value in one.values())


def test_the_same_scores_give_the_same_bytes(folder: Path, tmp_path: Path):
    for name in ("one", "two"):
        probed = Probed(folder, by_length)
        (tmp_path / name).mkdir()
        effects.write_effects(probed.probing, probed.answered, probed.rewards, tmp_path / name)

    rewrites = json.loads((tmp_path / "one" / effects.FILE).read_text())["probes"]
    assert list(rewrites) == [probe.name for probe in PROBES]
    for file in (effects.FILE, effects.ROWS_FILE):
        assert file_sha256(tmp_path / "one" / file) == file_sha256(tmp_path / "two" / file)
