"""A checkpoint in the tools of others gives the rewards that it has here."""

from pathlib import Path
from typing import Any

import pytest
import torch
from datasets import Dataset
from peft import LoraConfig, PeftModel, get_peft_model
from transformers import AutoModelForSequenceClassification, AutoTokenizer, pipeline
from trl import RewardConfig, RewardTrainer

from rm_workflow.evaluation.scorer import Scorer

USER = [{"role": "user", "content": "Name a river."}]
REPLIES = [
    "The Danube.",
    "No.",
    "The Danube is long. Paris is the capital of France.",
    "Yes.",
    "",
    "Name a river.",
    "No.",
]


def talk(reply: str) -> list[dict[str, str]]:
    return [*USER, {"role": "assistant", "content": reply}]


def expected(folder: Path, replies: list[str] = REPLIES) -> list[float]:
    return list(Scorer.load(folder).score_texts([(USER, reply) for reply in replies])[0])


def rendered(tokenizer: Any) -> list[str]:
    return [tokenizer.apply_chat_template(talk(reply), tokenize=False) for reply in REPLIES]


def test_the_pipeline_of_transformers_gives_our_rewards(checkpoint: Path):
    pipe = pipeline("text-classification", model=str(checkpoint), dtype=torch.float32)

    found = pipe(rendered(pipe.tokenizer), function_to_apply="none", batch_size=3, add_special_tokens=False)

    assert [one["score"] for one in found] == pytest.approx(expected(checkpoint), abs=1e-5)


def test_an_adapter_that_peft_puts_on_a_checkpoint_gives_the_same_there_and_here(
    checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("RMW_HOME", str(tmp_path / "home"))
    torch.manual_seed(0)
    base = AutoModelForSequenceClassification.from_pretrained(checkpoint, dtype=torch.float32)
    adapted = get_peft_model(base, LoraConfig(task_type="SEQ_CLS", target_modules=["q_proj"], init_lora_weights=False))
    adapted.save_pretrained(str(tmp_path / "adapter"))
    tokenizer = AutoTokenizer.from_pretrained(checkpoint)
    tokenizer.save_pretrained(str(tmp_path / "adapter"))

    loaded = PeftModel.from_pretrained(
        AutoModelForSequenceClassification.from_pretrained(checkpoint, dtype=torch.float32), str(tmp_path / "adapter")
    )
    with torch.no_grad():
        tokens = tokenizer(rendered(tokenizer), padding=True, return_tensors="pt", add_special_tokens=False)
        theirs = loaded.eval()(**tokens).logits.squeeze(-1).tolist()

    ours = expected(tmp_path / "adapter")
    assert theirs == pytest.approx(ours, abs=1e-5)
    assert ours != pytest.approx(expected(checkpoint), abs=1e-2), "the adapter changes rewards"


def test_trl_trains_a_checkpoint_further_and_what_it_saves_is_scored_here(checkpoint: Path, tmp_path: Path):
    pair = {"prompt": USER, "chosen": talk("The Danube.")[1:], "rejected": talk("No.")[1:]}
    config = RewardConfig(
        output_dir=str(tmp_path / "trl"),
        max_steps=5,
        learning_rate=1e-2,
        per_device_train_batch_size=2,
        bf16=False,
        use_cpu=True,
        report_to=[],
        save_strategy="no",
        disable_tqdm=True,
    )
    trainer = RewardTrainer(str(checkpoint), args=config, train_dataset=Dataset.from_list([pair] * 8))
    trainer.train()
    trainer.save_model(str(tmp_path / "further"))

    (before, after) = (expected(folder, ["The Danube.", "No."]) for folder in (checkpoint, tmp_path / "further"))
    assert after[0] - after[1] > before[0] - before[1] + 0.1


def test_the_loop_of_the_rewardbench_command_gives_our_rewards_and_results(checkpoint: Path):
    """As rewardbench 0.1.4 does it: conversations rendered to text, padded on the left, the pipeline's own tokens.

    (``rewardbench/rewardbench.py`` and ``rewardbench/models/pipeline.py``; the real command was run once, see
    ``benchmarks/RESULTS.md``: its package needs transformers 4.51.)
    """
    tokenizer = AutoTokenizer.from_pretrained(checkpoint, padding_side="left")
    model = AutoModelForSequenceClassification.from_pretrained(checkpoint, dtype=torch.float32).eval()
    texts, found = rendered(tokenizer), []
    for start in range(0, len(texts), 2):
        tokens = tokenizer(texts[start : start + 2], truncation=False, padding=True, return_tensors="pt")
        with torch.no_grad():
            found += model(**tokens).logits.squeeze(-1).tolist()

    ours = expected(checkpoint)
    assert found == pytest.approx(ours, abs=1e-4)
    # Its rule is ours: a tie is a loss.
    assert [found[n] > found[n + 1] for n in range(6)] == [ours[n] > ours[n + 1] for n in range(6)]
