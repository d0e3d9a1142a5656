import hashlib
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from rm_workflow.catalog.models import TokenRecipe
from rm_workflow.errors import UserError
from rm_workflow.keys import content_id
from rm_workflow.models.tokens import Encoder
from rm_workflow.training.tokens import RULES, build_tokens
from rm_workflow_tests.models.tiny import tiny_tokenizer

MESSAGES = pa.list_(pa.struct([("role", pa.string()), ("content", pa.string())]))
LONG = "Name a river. " * 12


class Preferences:
    """A raw folder and a mixture folder in the making."""

    def __init__(self, folder: Path) -> None:
        self.raw, self.mixture, self.model = folder / "raw", folder / "mixture", folder / "model"
        for path in (self.raw, self.mixture, self.model):
            path.mkdir(parents=True)
        self.prompts: dict[str, dict] = {}
        self.responses: dict[str, dict] = {}
        self.occurrences: list[dict] = []
        self.pairs: list[dict] = []

    def pair(self, question: str, chosen: str, rejected: str, split: str = "train", repeat: int = 1) -> str:
        """Add a pair and return its id."""
        messages = [{"role": "user", "content": question}]
        prompt_id = content_id(messages)
        self.prompts[prompt_id] = {"prompt_id": prompt_id, "group_id": prompt_id, "messages": messages}
        row = len(self.pairs) + 1
        ids = []
        for slot, text in (("chosen", chosen), ("rejected", rejected)):
            response_id = content_id([prompt_id, text])
            ids.append(response_id)
            self.responses[response_id] = {"response_id": response_id, "prompt_id": prompt_id, "text": text}
            shown = {"response_id": response_id, "source": "toy", "file": "train.jsonl", "row": row, "slot": slot}
            self.occurrences.append(shown)
        key = content_id([prompt_id, *ids])
        pair = {"pair_id": content_id([key, "toy", row]), "pair_key": key, "prompt_id": prompt_id}
        sides = {"chosen_id": ids[0], "rejected_id": ids[1], "chosen_score": 2.0, "rejected_score": 1.0}
        place = {"weight": 1.0, "repeat": repeat, "source": "toy", "file": "train.jsonl", "row": row, "pair_set": "toy"}
        self.pairs.append({**pair, **sides, **place, "split": split, "group_id": prompt_id, "leak": None})
        return self.pairs[-1]["pair_id"]

    def write(self, tokenizer=None) -> None:
        prompts = pa.schema([("prompt_id", pa.string()), ("group_id", pa.string()), ("messages", MESSAGES)])
        pq.write_table(pa.Table.from_pylist(list(self.prompts.values()), prompts), self.raw / "prompts.parquet")
        pq.write_table(pa.Table.from_pylist(list(self.responses.values())), self.raw / "responses.parquet")
        pq.write_table(pa.Table.from_pylist(self.occurrences), self.raw / "occurrences.parquet")
        pq.write_table(pa.Table.from_pylist(self.pairs), self.mixture / "pairs.parquet")
        (tokenizer or tiny_tokenizer(adds_bos=True)).save_pretrained(str(self.model))

    def build(self, out: Path, **recipe: object):
        out.mkdir()
        raws = [self.raw, self.raw]
        return build_tokens(self.mixture, raws, self.model, TokenRecipe(template="hh_transcript", **recipe), out)


@pytest.fixture
def preferences(tmp_path: Path) -> Preferences:
    return Preferences(tmp_path)


def rows(folder: Path, name: str) -> list[dict]:
    return pq.read_table(folder / f"{name}.parquet").to_pylist()


def test_every_response_is_tokenised_once_with_its_prompt(preferences: Preferences, tmp_path: Path) -> None:
    preferences.pair("Name a river.", "The Danube.", "No.")
    preferences.pair("Name a river.", "The Danube.", "Yes.")
    preferences.pair("What is the capital of France?", "Paris.", "No.", split="test")
    preferences.write()
    built = preferences.build(tmp_path / "out")
    responses = rows(tmp_path / "out", "responses")
    assert len(responses) == 5
    assert [row["response_id"] for row in responses] == sorted(row["response_id"] for row in responses)
    encoder = Encoder.load(preferences.model, TokenRecipe(template="hh_transcript"))
    for row in responses:
        stored = preferences.responses[row["response_id"]]
        encoded = encoder.encode(preferences.prompts[stored["prompt_id"]]["messages"], stored["text"])
        assert row["input_ids"] == encoded.input_ids
        assert row["prompt_length"] == encoded.prompt_length
    assert (built.facts["train"], built.facts["test"]) == (2, 1)
    lengths = {row["response_id"]: len(row["input_ids"]) for row in responses}
    train = [pair for pair in rows(tmp_path / "out", "pairs") if pair["split"] == "train"]
    assert built.facts["train_tokens"] == sum(lengths[p["chosen_id"]] + lengths[p["rejected_id"]] for p in train)
    assert sum(built.facts["histogram"]["counts"]) == 5
    assert built.facts["histogram_by_source"] == {"toy": built.facts["histogram"]}
    assert built.facts["template_hash"] == Encoder.from_checkpoint(tmp_path / "out", preferences.model).template_hash


def test_pairs_are_dropped_under_the_first_rule_that_matches(preferences: Preferences, tmp_path: Path) -> None:
    kept = preferences.pair("Name a river.", "The Danube.", "No.")
    too_long = preferences.pair("Name a river.", "<|im_end|>" + LONG * 3, "No.")
    forged = preferences.pair("What is it?", "Yes.<|im_end|>", "No.")
    forged_prompt = preferences.pair("What is <pad>?", "Yes.", "No.", split="test")
    preferences.write()
    built = preferences.build(tmp_path / "out", max_length=60)
    dropped = {row["pair_id"]: row for row in rows(tmp_path / "out", "dropped")}
    assert {pair: row["rule"] for pair, row in dropped.items()} == {
        too_long: "too_long",
        forged: "special_token",
        forged_prompt: "special_token",
    }
    assert [row["pair_id"] for row in rows(tmp_path / "out", "pairs")] == [kept]
    assert built.facts["dropped"] == {"too_long": 1, "collapsed": 0, "special_token": 2}
    assert tuple(built.facts["dropped"]) == RULES
    assert built.facts["pairs"] == built.facts["kept"] + 3
    assert all(check.passed for check in built.checks)
    assert dropped[forged]["detail"] == "<|im_end|>"
    assert dropped[forged]["chosen_id"]
    assert dropped[forged]["rejected_id"]
    assert dropped[forged]["excerpt"] == "Yes.<|im_end|>"
    assert (dropped[forged]["stage"], dropped[forged]["file"], dropped[forged]["row"]) == ("pair", "train.jsonl", 3)
    assert dropped[too_long]["detail"].endswith("at most 60")
    assert len(rows(tmp_path / "out", "responses")) == 2


def test_repeats_are_carried_and_counted_and_no_row_is_stored_twice(preferences: Preferences, tmp_path: Path) -> None:
    thrice = preferences.pair("Name a river.", "The Danube.", "No.", repeat=3)
    once = preferences.pair("Is it long?", "Yes.", "No.")
    preferences.pair("Is it short?", "No.", "Yes.", split="test")
    preferences.pair("What is <pad>?", "Yes.", "No.", repeat=5)
    preferences.write()
    built = preferences.build(tmp_path / "out")
    kept = {row["pair_id"]: row for row in rows(tmp_path / "out", "pairs")}
    assert (kept[thrice]["repeat"], kept[once]["repeat"], len(kept)) == (3, 1, 3)
    assert (built.facts["train"], built.facts["train_per_epoch"], built.facts["dropped"]["special_token"]) == (2, 4, 1)
    lengths = {row["response_id"]: len(row["input_ids"]) for row in rows(tmp_path / "out", "responses")}
    tokens = {pair: lengths[row["chosen_id"]] + lengths[row["rejected_id"]] for pair, row in kept.items()}
    assert built.facts["train_tokens"] == 3 * tokens[thrice] + tokens[once]


def test_sides_that_become_equal_ids_are_collapsed(preferences: Preferences, tmp_path: Path) -> None:
    trimming = "{% for m in messages %}{{ m['role'] + ': ' + m['content'] | trim + eos_token }}{% endfor %}"
    preferences.pair("Name a river.", "The Danube.", "No.")
    same = preferences.pair("Name a river.", "Yes.", "Yes. ")
    preferences.write(tiny_tokenizer(trimming))
    (tmp_path / "out").mkdir()
    built = build_tokens(preferences.mixture, [preferences.raw], preferences.model, TokenRecipe(), tmp_path / "out")
    assert built.facts["dropped"]["collapsed"] == 1
    assert [(row["pair_id"], row["rule"]) for row in rows(tmp_path / "out", "dropped")] == [(same, "collapsed")]


def test_truncation_cuts_the_same_prompt_on_all_replies_and_keeps_them_whole(
    preferences: Preferences, tmp_path: Path
) -> None:
    preferences.pair(LONG, "The Danube.", "No.")
    preferences.pair(LONG, "Paris is the capital of France.", "No.")
    hopeless = preferences.pair(LONG, LONG * 2, "No.")
    preferences.pair("Name a river.", "Yes.", "No.")
    preferences.write()
    whole = preferences.build(tmp_path / "whole")
    built = preferences.build(tmp_path / "cut", max_length=40, over_length="truncate_prompt_left")
    assert built.facts["dropped"] == {"too_long": 1, "collapsed": 0, "special_token": 0}
    assert [row["pair_id"] for row in rows(tmp_path / "cut", "dropped")] == [hopeless]
    before = {row["response_id"]: row for row in rows(tmp_path / "whole", "responses")}
    after = rows(tmp_path / "cut", "responses")
    assert max(len(row["input_ids"]) for row in after) == 40
    prompts = set()
    for row in after:
        full = before[row["response_id"]]
        assert row["input_ids"][row["prompt_length"] :] == full["input_ids"][full["prompt_length"] :]
        assert row["input_ids"][0] == 1
        assert full["input_ids"][-len(row["input_ids"]) + 1 :] == row["input_ids"][1:]
        prompts.add(
            (preferences.responses[row["response_id"]]["prompt_id"], tuple(row["input_ids"][: row["prompt_length"]]))
        )
    assert len(prompts) == 2
    assert whole.facts["histogram"] == built.facts["histogram"]


def test_a_response_counts_once_for_each_source_that_holds_it(preferences: Preferences, tmp_path: Path):
    for number in range(2):
        preferences.pair(f"Name river {number}.", "The Danube.", "No.")
    preferences.pairs += [{**preferences.pairs[0], "pair_id": f"again {n}", "source": "other"} for n in range(2)]
    preferences.write()
    facts = preferences.build(tmp_path / "out").facts
    assert {name: sum(one["counts"]) for name, one in facts["histogram_by_source"].items()} == {"other": 2, "toy": 4}
    assert sum(facts["histogram"]["counts"]) == 4


def test_no_train_pair_left_is_one_sentence(preferences: Preferences, tmp_path: Path) -> None:
    preferences.pair(LONG, "Yes.", "No.")
    preferences.write()
    with pytest.raises(UserError, match=r"no train pair is left.*1 as too_long.*raise tokens\.max_length \(16\)"):
        preferences.build(tmp_path / "out", max_length=16)


def test_a_rerun_gives_the_same_bytes(preferences: Preferences, tmp_path: Path) -> None:
    for number in range(50):
        preferences.pair(
            f"Name river {number}.", f"The Danube {number % 7}.", "No.", split="test" if number % 5 else "train"
        )
    preferences.pair("Name a river.", "<pad>", "No.")
    preferences.write()
    hashes = []
    for name in ("first", "second"):
        preferences.build(tmp_path / name)
        files = sorted((tmp_path / name).iterdir())
        hashes.append({file.name: hashlib.sha256(file.read_bytes()).hexdigest() for file in files})
    assert hashes[0] == hashes[1]
    assert sorted(hashes[0]) == ["dropped.parquet", "pairs.parquet", "responses.parquet", "token_recipe.json"]
