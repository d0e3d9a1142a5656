"""The programs of ``examples/``, run as a person runs them, on tiny models."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from datasets import load_dataset
from transformers import AutoModelForCausalLM, AutoTokenizer
from trl import DPOConfig, DPOTrainer, SFTConfig, SFTTrainer

from rm_workflow.models.tokens import CHATML
from rm_workflow_tests.evaluation.checkpoints import WITH_END_OF_TEXT, write_checkpoint
from rm_workflow_tests.models.tiny import tiny_config, tiny_tokenizer
from rm_workflow_tests.serving.servers import start

EXAMPLES = Path(__file__).parents[2] / "examples"

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_checkpoint(tmp_path_factory.mktemp("reward"))


def run(name: str, folder: Path, *arguments: object) -> str:
    environment = {**os.environ, "RMW_HOME": str(folder / "home"), "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    environment["HF_DATASETS_CACHE"] = str(folder / "cache")
    command = [sys.executable, str(EXAMPLES / name), *map(str, arguments)]
    ran = subprocess.run(command, capture_output=True, text=True, env=environment, cwd=folder)
    assert ran.returncode == 0, ran.stderr[-3000:]
    return ran.stdout


def test_grpo_raises_the_mean_reward_of_a_policy_that_begins_with_noise(checkpoint: Path, tmp_path: Path):
    out = run("grpo_with_reward_model.py", tmp_path, checkpoint, "--out", tmp_path / "grpo", "--seed", 0)

    rewards = json.loads((tmp_path / "grpo/rewards.json").read_text())
    quarter = len(rewards) // 4
    first, last = sum(rewards[:quarter]) / quarter, sum(rewards[-quarter:]) / quarter
    assert len(rewards) == 100
    assert last > first + 0.1
    assert f"{first:.3f}, of the last: {last:.3f}" in out


def test_grpo_is_rewarded_by_a_server_as_by_the_folder(checkpoint: Path, tmp_path: Path):
    server = start(checkpoint, tmp_path / "home")
    try:
        for reward, out in ((server.url, "http"), (checkpoint, "here")):
            arguments = ("--tokenizer", checkpoint, "--steps", 3, "--out", tmp_path / out)
            run("grpo_with_reward_model.py", tmp_path, reward, *arguments)
    finally:
        assert server.stop() == 0
    over_http, here = (json.loads((tmp_path / out / "rewards.json").read_text()) for out in ("http", "here"))
    assert over_http == pytest.approx(here, abs=1e-4)


def write_policy(folder: Path) -> Path:
    tokenizer = tiny_tokenizer(CHATML, special=list(WITH_END_OF_TEXT), pad_token="<pad>")
    tokenizer.save_pretrained(str(folder))
    AutoModelForCausalLM.from_config(tiny_config("llama", len(tokenizer))).save_pretrained(str(folder))
    return folder


def test_rejection_sampling_makes_data_that_trl_trains_on(checkpoint: Path, tmp_path: Path):
    policy, prompts, out = write_policy(tmp_path / "policy"), tmp_path / "prompts.jsonl", tmp_path / "raft"
    talk = [{"role": "user", "content": "Is Paris a river?"}]
    prompts.write_text("".join(json.dumps({"prompt": prompt}) + "\n" for prompt in ("Name a river.", talk)))
    arguments = (checkpoint, "--policy", policy, "--prompts", prompts, "--max-tokens", 12, "--out", out)

    printed = run("rejection_sampling.py", tmp_path, *arguments)

    ranked, sft, dpo = (
        [json.loads(line) for line in (out / f"{name}.jsonl").open()] for name in ("ranked", "sft", "dpo")
    )
    assert len(ranked) == len(sft) == len(dpo) == 2
    for row, best, pair in zip(ranked, sft, dpo, strict=True):
        highest, lowest = (row["responses"][row["scores"].index(pick(row["scores"]))] for pick in (max, min))
        assert best["messages"] == [*row["prompt"], {"role": "assistant", "content": highest}]
        assert [pair[side][0]["content"] for side in ("chosen", "rejected")] == [highest, lowest]
        assert pair["score_gap"] == max(row["scores"]) - min(row["scores"])
    assert "dpo.jsonl: 2 rows of prompt, chosen, rejected, score_gap" in printed

    # Nothing that is there is made again.
    before = (out / "candidates.jsonl").read_bytes()
    assert run("rejection_sampling.py", tmp_path, *arguments) == printed
    assert (out / "candidates.jsonl").read_bytes() == before

    common = {"output_dir": str(tmp_path / "trl"), "max_steps": 1, "per_device_train_batch_size": 2, "report_to": []}
    common |= {"bf16": False, "use_cpu": True, "save_strategy": "no", "disable_tqdm": True}
    tokenizer = AutoTokenizer.from_pretrained(str(policy))
    for name, trainer, config in (("sft", SFTTrainer, SFTConfig), ("dpo", DPOTrainer, DPOConfig)):
        rows = load_dataset(
            "json", data_files=str(out / f"{name}.jsonl"), split="train", cache_dir=str(tmp_path / "cache")
        )
        model = AutoModelForCausalLM.from_pretrained(str(policy))
        trained = trainer(model, args=config(**common), train_dataset=rows, processing_class=tokenizer).train()
        assert trained.training_loss > 0
