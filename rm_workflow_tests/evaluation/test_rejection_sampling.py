"""Candidates of a source -> ranked by a checkpoint -> data that TRL's trainers take."""

from pathlib import Path

import pyarrow.parquet as pq
import pytest
from datasets import load_dataset

from rm_workflow.catalog.models import RejectionSampling
from rm_workflow.errors import UserError
from rm_workflow.evaluation.rejection_sampling import DPO, RANKED, SFT, build_ranked, build_sft_dpo
from rm_workflow.evaluation.scorer import Scorer
from rm_workflow_tests.evaluation.checkpoints import write_checkpoint
from rm_workflow_tests.models.tiny import tiny_tokenizer, write_tiny_model
from rm_workflow_tests.preferences.raw_tables import rated, write_raw

REPLIES = [("The Danube.", {}), ("No.", {}), ("The Danube is long.", {})]
ROWS = [
    *(rated(f"Name river {number}.", REPLIES, number) for number in range(6)),
    rated("One reply.", REPLIES[:1], 6),
    rated("Too long.", [REPLIES[0], ("river " * 300, {}), ("Yes.<|im_end|>", {})], 7),
    rated("Of the test.", REPLIES, 8, file="test.jsonl"),
]
FILES = ["train.jsonl"]


@pytest.fixture(scope="module")
def scorer(tmp_path_factory: pytest.TempPathFactory) -> Scorer:
    return Scorer.load(write_checkpoint(tmp_path_factory.mktemp("ranking")))


@pytest.fixture(scope="module")
def raw(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_raw(tmp_path_factory.mktemp("candidates"), ROWS)


def test_every_prompt_is_ranked_or_dropped_and_the_choice_is_that_of_the_rewards(
    raw: Path, scorer: Scorer, tmp_path: Path
):
    asked = RejectionSampling(candidates="src")
    built = build_ranked(raw, FILES, asked, scorer, tmp_path)
    assert all(check.passed for check in built.checks)
    assert built.facts["dropped"] == {"too_few": 1, "sample": 0, "unscorable": 1}
    assert (built.facts["prompts"], built.facts["ranked"], built.facts["candidates"]) == (8, 6, 21)
    assert built.facts["candidates_refused"] == 2
    rows = pq.read_table(tmp_path / RANKED).to_pylist()
    for row in rows:
        expected = scorer.score_texts([(row["messages"], reply) for reply in row["responses"]])[0]
        assert row["scores"] == pytest.approx(list(expected), abs=1e-5)
        assert row["scores"][row["best"]] == max(row["scores"])
    assert built.facts["mean_best"] > built.facts["mean_reward"]

    chosen = build_sft_dpo(tmp_path, asked, tmp_path)
    assert chosen.facts == {"ranked": 6, "sft": 6, "dpo": 6, "dropped": {"min_gap": 0}}
    sft, dpo = (
        load_dataset("parquet", data_files=str(tmp_path / name), split="train", cache_dir=str(tmp_path / "cache"))
        for name in (SFT, DPO)
    )
    for row, one, pair in zip(rows, sft, dpo, strict=True):
        best = {"role": "assistant", "content": row["responses"][row["best"]]}
        worst = row["responses"][row["scores"].index(min(row["scores"]))]
        assert one["messages"] == [*row["messages"], best]
        assert (pair["prompt"], pair["chosen"]) == (row["messages"], [best])
        assert pair["rejected"] == [{"role": "assistant", "content": worst}]
        assert pair["score_gap"] == pytest.approx(max(row["scores"]) - min(row["scores"]))
    wide = RejectionSampling(candidates="src", min_gap=1e6)
    assert build_sft_dpo(tmp_path, wide, tmp_path).facts["dropped"] == {"min_gap": 6}


def test_a_ranking_that_was_killed_goes_on_from_what_was_written(
    raw: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr("rm_workflow.evaluation.parts.SECONDS_A_PART", 0.0)
    folder = write_checkpoint(tmp_path / "model")
    asked, work = RejectionSampling(candidates="src"), tmp_path / "work"
    (tmp_path / "killed").mkdir()

    def kill(done: int, of: int) -> None:
        if list(work.glob("part-*")):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        build_ranked(raw, FILES, asked, Scorer.load(folder, batch_tokens=64), tmp_path / "killed", kill, work)
    assert not (tmp_path / "killed" / RANKED).exists()
    first, again = Scorer.load(folder, batch_tokens=64), Scorer.load(folder, batch_tokens=64)
    for name, scorer, parts in (("whole", first, None), ("again", again, work)):
        (tmp_path / name).mkdir()
        build_ranked(raw, FILES, asked, scorer, tmp_path / name, None, parts)
    assert again.num_computed < first.num_computed
    assert pq.read_table(tmp_path / "again" / RANKED).equals(pq.read_table(tmp_path / "whole" / RANKED))


def test_the_choice_of_candidates_and_prompts_is_that_of_their_content(raw: Path, scorer: Scorer, tmp_path: Path):
    asked = RejectionSampling(candidates="src", n=2, num_prompts=3)
    found = []
    for name, rows in (("a", ROWS), ("b", ROWS[::-1])):
        folder = write_raw(tmp_path / name, rows)
        (tmp_path / f"{name}_out").mkdir()
        built = build_ranked(folder, FILES, asked, scorer, tmp_path / f"{name}_out")
        assert built.facts["dropped"]["sample"] + built.facts["ranked"] + built.facts["dropped"]["unscorable"] == 7
        assert built.facts["candidates"] == 6
        found.append((tmp_path / f"{name}_out" / RANKED).read_bytes())
    assert found[0] == found[1]


def test_a_source_without_several_replies_is_refused(scorer: Scorer, tmp_path: Path):
    folder = write_raw(tmp_path, [rated("One reply.", REPLIES[:1], 1)])
    with pytest.raises(UserError, match=r"no prompt in the train files of source 'src' has 2 responses; name"):
        build_ranked(folder, FILES, RejectionSampling(candidates="src"), scorer, tmp_path)


@pytest.mark.slow
def test_trl_trains_on_both_files(raw: Path, scorer: Scorer, tmp_path: Path):
    from transformers import AutoModelForCausalLM, AutoTokenizer
    from trl import DPOConfig, DPOTrainer, SFTConfig, SFTTrainer

    build_ranked(raw, FILES, RejectionSampling(candidates="src"), scorer, tmp_path)
    build_sft_dpo(tmp_path, RejectionSampling(candidates="src"), tmp_path)
    write_tiny_model(tmp_path / "policy", tiny_tokenizer())
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "policy")
    tokenizer.chat_template = "{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}"
    common = {"max_steps": 2, "per_device_train_batch_size": 2, "report_to": [], "save_strategy": "no", "bf16": False}
    for name, trainer, config in ((SFT, SFTTrainer, SFTConfig), (DPO, DPOTrainer, DPOConfig)):
        rows = load_dataset(
            "parquet", data_files=str(tmp_path / name), split="train", cache_dir=str(tmp_path / "cache")
        )
        model = AutoModelForCausalLM.from_pretrained(tmp_path / "policy")
        arguments = config(output_dir=str(tmp_path / "out"), use_cpu=True, **common)
        trained = trainer(model=model, args=arguments, train_dataset=rows, processing_class=tokenizer).train()
        assert trained.global_step == 2
