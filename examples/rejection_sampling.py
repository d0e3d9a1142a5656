"""Rejection sampling (RAFT, arXiv 2304.06767): a policy writes, the reward model chooses, TRL trains on the choice.

    python examples/rejection_sampling.py CKPT --policy HuggingFaceTB/SmolLM2-135M-Instruct --prompts prompts.jsonl

CKPT is named as for ``rmw rank``; ``prompts.jsonl`` holds rows with ``prompt``, a text or messages. Four files are
written, each from the one before it; a run that was killed goes on with the first that is not whole::

    candidates.jsonl  {"prompt": [...], "responses": ["...", "...", "...", "..."]}
    ranked.jsonl      the same with "scores" and "best"                  rmw rank
    sft.jsonl         {"messages": [...]}: the best reply                TRL's SFTTrainer
    dpo.jsonl         {"prompt": [...], "chosen": [...], "rejected": [...], "score_gap"}: best and worst   DPOTrainer

The next round samples from the policy that was trained on them.
"""

import argparse
import json
import subprocess
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import torch
from datasets import load_dataset
from transformers import AutoModelForCausalLM, AutoTokenizer

from rm_workflow.durable_files import replaced

Message = dict[str, str]
Row = dict[str, Any]


def messages_of(prompt: str | list[Message]) -> list[Message]:
    """Return a prompt as messages."""
    return [{"role": "user", "content": prompt}] if isinstance(prompt, str) else prompt


def candidates(prompts: Iterable[Row], policy: str, number: int, max_tokens: int, seed: int) -> Iterator[Row]:
    """Yield each prompt with so many sampled replies; equal and empty ones are left out."""
    tokenizer = AutoTokenizer.from_pretrained(policy)
    model: Any = AutoModelForCausalLM.from_pretrained(policy)
    model.eval()
    torch.manual_seed(seed)
    for row in prompts:
        turns = messages_of(row["prompt"])
        asked: Any = tokenizer.apply_chat_template(
            turns, add_generation_prompt=True, return_tensors="pt", return_dict=True
        )
        with torch.inference_mode():
            written = model.generate(
                **asked,
                do_sample=True,
                num_return_sequences=number,
                max_new_tokens=max_tokens,
                top_k=0,
                temperature=1.0,
            )
        replies = tokenizer.batch_decode(written[:, asked["input_ids"].shape[1] :], skip_special_tokens=True)
        responses = list(dict.fromkeys(reply.strip() for reply in replies if reply.strip()))
        if responses:
            yield {"prompt": turns, "responses": responses}


def sft_rows(ranked: Iterable[Row]) -> Iterator[Row]:
    """Yield the best reply of each prompt as a conversation."""
    for row in ranked:
        yield {"messages": [*row["prompt"], {"role": "assistant", "content": row["responses"][row["best"]]}]}


def dpo_rows(ranked: Iterable[Row], min_margin: float) -> Iterator[Row]:
    """Yield the best and the worst reply of each prompt whose rewards differ by enough."""
    for row in ranked:
        worst = min(range(len(row["scores"])), key=row["scores"].__getitem__)
        gap = row["scores"][row["best"]] - row["scores"][worst]
        if gap > min_margin:
            sides = {"chosen": row["best"], "rejected": worst}
            replies = {
                side: [{"role": "assistant", "content": row["responses"][index]}] for side, index in sides.items()
            }
            yield {"prompt": row["prompt"], **replies, "score_gap": gap}


def read(path: Path) -> list[Row]:
    """Return the rows of a JSONL file."""
    with path.open("rb") as file:
        return [json.loads(line) for line in file]


def write(path: Path, rows: Iterable[Row]) -> None:
    """Write a JSONL file that appears whole or not at all."""
    with replaced(path) as draft, draft.open("w", encoding="utf-8") as file:
        file.writelines(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)


def main() -> None:
    """Sample, rank, export, and load the export as TRL does."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("checkpoint", help="the reward model, named as for rmw rank")
    parser.add_argument("--policy", required=True, help="a causal model with a chat template")
    parser.add_argument("--prompts", type=Path, required=True, help="JSONL with prompt")
    parser.add_argument("--number", type=int, default=4, help="replies to each prompt")
    parser.add_argument("--max-tokens", type=int, default=256)
    parser.add_argument("--min-margin", type=float, default=0.0, help="of the pairs for DPO")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=Path("raft_out"))
    given = parser.parse_args()
    given.out.mkdir(parents=True, exist_ok=True)
    sampled, ranked = given.out / "candidates.jsonl", given.out / "ranked.jsonl"
    if not sampled.exists():
        write(sampled, candidates(read(given.prompts), given.policy, given.number, given.max_tokens, given.seed))
    rmw = [sys.executable, "-m", "rm_workflow.cli.main"]
    subprocess.run([*rmw, "rank", given.checkpoint, str(sampled), "-o", str(ranked)], check=True)
    rows = read(ranked)
    write(given.out / "sft.jsonl", sft_rows(rows))
    write(given.out / "dpo.jsonl", dpo_rows(rows, given.min_margin))
    mean = sum(sum(row["scores"]) / len(row["scores"]) for row in rows) / len(rows)
    best = sum(row["scores"][row["best"]] for row in rows) / len(rows)
    print(f"{len(rows)} prompts: mean reward of all replies {mean:.3f}, of the best ones {best:.3f}")
    for name in ("sft", "dpo"):
        loaded = load_dataset("json", data_files=str(given.out / f"{name}.jsonl"), split="train")
        print(f"{name}.jsonl: {len(loaded)} rows of {', '.join(loaded.column_names)}")


if __name__ == "__main__":
    main()
