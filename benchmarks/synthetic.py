"""Synthetic rated lists at scale: realistic lengths, repeats and ties, seeded, in the schema of UltraFeedback."""

import json
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

NUM_PROMPTS = 64_000
COMPLETIONS = 4
NUM_WORDS = 20_000
ASPECTS = ("instruction_following", "honesty", "truthfulness", "helpfulness")
# Share of prompts that repeat an earlier one with its completions, and of completions that repeat a neighbour.
REPEATED_PROMPTS = 0.02
REPEATED_COMPLETIONS = 0.01


def write_rated_lists(path: Path, num_prompts: int = NUM_PROMPTS, seed: int = 0) -> None:
    """Write ``num_prompts`` rows of four completions, about 1.5 kB each, as JSON Lines."""
    with path.open("w", encoding="utf-8") as file:
        for row in rated_lists(num_prompts, seed):
            file.write(json.dumps(row, ensure_ascii=False) + "\n")


def rated_lists(num_prompts: int, seed: int = 0) -> Iterator[dict[str, Any]]:
    """Yield rows in the schema of UltraFeedback; word frequencies fall as 1 / rank, as in real text."""
    draw = random.Random(seed)
    words = _words(draw)
    kept: list[dict[str, Any]] = []
    for _ in range(num_prompts):
        if kept and draw.random() < REPEATED_PROMPTS:
            yield draw.choice(kept)
            continue
        row = _row(draw, words)
        if len(kept) < 1000:
            kept.append(row)
        yield row


def _words(draw: random.Random) -> tuple[list[str], list[float]]:
    letters = "etaoinshrdlucmfwypvbgkjqxz"
    names = ["".join(draw.choices(letters, range(26, 0, -1), k=draw.randint(2, 10))) for _ in range(NUM_WORDS)]
    total, cumulative = 0.0, []
    for rank in range(1, NUM_WORDS + 1):
        total += 1 / rank
        cumulative.append(total)
    return names, cumulative


def _row(draw: random.Random, words: tuple[list[str], list[float]]) -> dict[str, Any]:
    texts = [_text(draw, words, draw.randint(120, 380)) for _ in range(COMPLETIONS)]
    if draw.random() < REPEATED_COMPLETIONS:
        texts[1] = texts[0]
    return {
        "source": "synthetic",
        "instruction": _text(draw, words, draw.randint(8, 80)),
        "models": [f"m-{index}" for index in range(COMPLETIONS)],
        "completions": [
            {
                "model": f"m-{index}",
                "response": text,
                "annotations": {aspect: {"Rating": _rating(draw), "Rationale": "none"} for aspect in ASPECTS},
            }
            for index, text in enumerate(texts)
        ],
    }


def _text(draw: random.Random, words: tuple[list[str], list[float]], num_words: int) -> str:
    return " ".join(draw.choices(words[0], cum_weights=words[1], k=num_words))


def _rating(draw: random.Random) -> str:
    return "N/A" if draw.random() < 0.02 else str(draw.randint(1, 5))
