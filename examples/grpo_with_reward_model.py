"""GRPO with TRL, rewarded by a checkpoint of this project: ``python examples/grpo_with_reward_model.py REWARD``.

REWARD is the ``model`` folder of a checkpoint, or the address of a running ``rmw serve``, as http://127.0.0.1:8420::

    rmw serve quickstart_checkpoint &
    python examples/grpo_with_reward_model.py http://127.0.0.1:8420 --policy HuggingFaceTB/SmolLM2-135M-Instruct

Without ``--policy`` it trains a tiny policy with random weights, which takes less than a minute on one core: a policy
that begins with noise finds what the reward model likes within 60 steps, whatever that is. That is the point of the
example and its warning: a reward that rises says nothing of replies that are good. Watch their length, and keep a
second reward model, or people, to look at what is made.
"""

import argparse
import json
from pathlib import Path

import torch
from datasets import Dataset
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedModel,
    PrinterCallback,
)
from trl.trainer.grpo_config import GRPOConfig
from trl.trainer.grpo_trainer import GRPOTrainer

from rm_workflow.serving.client import RewardFunction

PROMPTS = ["Name a river.", "Is Paris a river?", "What is the capital of France?", "Name a long river."]
GENERATIONS = 8


def reward_function(named: str) -> RewardFunction:
    """Return the reward of a server or of a folder."""
    if named.startswith(("http://", "https://")):
        return RewardFunction.of_server(named)
    return RewardFunction.of_checkpoint(named)


def tiny_policy(vocab_size: int, pad_token_id: int, eos_token_id: int) -> PreTrainedModel:
    """Return a policy with random weights."""
    config = LlamaConfig(
        vocab_size=vocab_size,
        pad_token_id=pad_token_id,
        eos_token_id=eos_token_id,
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=2,
        num_attention_heads=4,
    )
    return LlamaForCausalLM(config)


def train(reward: str, tokenizer: str, policy: str | None, steps: int, seed: int, out: Path) -> list[float]:
    """Train a policy and return the mean reward of each step."""
    torch.manual_seed(seed)
    tokens = AutoTokenizer.from_pretrained(tokenizer, padding_side="left")
    model = (
        AutoModelForCausalLM.from_pretrained(policy)
        if policy
        else tiny_policy(len(tokens), tokens.pad_token_id, tokens.eos_token_id)
    )
    config = GRPOConfig(
        output_dir=str(out),
        max_steps=steps,
        learning_rate=1e-5 if policy else 1e-2,
        lr_scheduler_type="constant",
        per_device_train_batch_size=4 * GENERATIONS,
        num_generations=GENERATIONS,
        max_completion_length=64 if policy else 16,
        beta=0.0,
        seed=seed,
        bf16=False,
        use_cpu=not torch.cuda.is_available(),
        logging_steps=1,
        save_strategy="no",
        report_to=[],
        disable_tqdm=True,
    )
    trainer = GRPOTrainer(
        model,
        reward_funcs=reward_function(reward),
        args=config,
        train_dataset=Dataset.from_dict({"prompt": PROMPTS * 8}),
        processing_class=tokens,
    )
    trainer.remove_callback(PrinterCallback)  # a line of 30 figures a step
    trainer.train()
    return [entry["reward"] for entry in trainer.state.log_history if "reward" in entry]


def main() -> None:
    """Train, and print whether the mean reward rose."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("reward", help="model folder of a checkpoint, or the address of rmw serve")
    parser.add_argument("--policy", help="a causal model to train; default: a tiny one with random weights")
    parser.add_argument("--tokenizer", help="default: that of the policy, or of the reward model's folder")
    parser.add_argument("--steps", type=int, default=100)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=Path("grpo_out"))
    given = parser.parse_args()
    tokenizer = given.tokenizer or given.policy or given.reward
    if tokenizer.startswith("http"):
        parser.error("a server has no tokenizer to build a tiny policy with: name --policy or --tokenizer")
    rewards = train(given.reward, tokenizer, given.policy, given.steps, given.seed, given.out)
    quarter = max(1, len(rewards) // 4)
    first, last = sum(rewards[:quarter]) / quarter, sum(rewards[-quarter:]) / quarter
    given.out.mkdir(parents=True, exist_ok=True)
    (given.out / "rewards.json").write_text(json.dumps(rewards) + "\n", "utf-8")
    print(f"mean reward of the first quarter of {len(rewards)} steps: {first:.3f}, of the last: {last:.3f}")


if __name__ == "__main__":
    main()
