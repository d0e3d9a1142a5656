"""Layouts and speed on a GPU, in one call of a few minutes: ``python -m benchmarks.gpu [SHAPE ...]``.

Nothing is read or fetched: models have the shapes of published ones and random weights, conversations random tokens
with the lengths of chat data (log-normal; prompt and reply medians of 120 and 160 tokens, at most 1,024 together).
For each shape: that every layout gives the rewards of ``padded``, in float32; then the three sides of
``against_trl.py``, for two and for four responses a prompt; of 7B with all weights our side alone. What is printed is
appended to ``benchmarks/RESULTS.md`` with date and versions. On a CPU it runs too; ``tiny`` is the shape for that.
"""

import contextlib
import datetime
import io
import platform
import sys
import tempfile
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import numpy as np

from benchmarks import against_trl, end
from benchmarks.layouts import with_four_responses
from benchmarks.recipe import PreparedRecipe

if TYPE_CHECKING:
    from rm_workflow.training.data import TrainPairs

RESULTS = Path(__file__).with_name("RESULTS.md")
PAD = 0
NUM_PAIRS = 512
NUM_STEPS = 5
LONGEST = 1024


@dataclass(frozen=True)
class Shape:
    """A published model's shape, and how it is trained here.

    Attributes:
        fits_once: one GPU holds it once only, so it is timed without a rival.
    """

    family: str
    hidden_size: int
    intermediate_size: int
    num_layers: int
    num_heads: int
    num_key_value_heads: int
    vocab_size: int
    lora: bool
    batch_size: int
    micro_batch_tokens: int
    fits_once: bool = False


SHAPES = {
    "tiny": Shape("llama", 64, 128, 2, 4, 2, 512, False, 8, 2048),
    "qwen2_0.5b": Shape("qwen2", 896, 4864, 24, 14, 2, 151_936, False, 64, 32_768),
    "qwen2_1.5b": Shape("qwen2", 1536, 8960, 28, 12, 2, 151_936, False, 64, 16_384),
    "qwen2_7b_lora": Shape("qwen2", 3584, 18_944, 28, 28, 4, 152_064, True, 32, 8192),
    "qwen2_7b": Shape("qwen2", 3584, 18_944, 28, 28, 4, 152_064, False, 32, 8192, fits_once=True),
    "llama_8b_lora": Shape("llama", 4096, 14_336, 32, 32, 8, 128_256, True, 32, 8192),
}
DEFAULT = ("qwen2_0.5b", "qwen2_1.5b", "qwen2_7b_lora", "qwen2_7b")
# What the Qwen2.5-7B card trained in 9.2 hours on an RTX 5090.
CARD_PAIRS, CARD_SHAPE = 160_800, "qwen2_7b_lora"


def main(*names: str) -> None:
    """Check and time the shapes, print and note the result."""
    import torch

    from rm_workflow.training.checkpoint import quiet_libraries

    quiet_libraries()
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else f"{platform.machine()} CPU"
    versions = ", ".join(f"{name} {version(name)}" for name in ("torch", "transformers", "trl", "peft"))
    title = f"## {datetime.datetime.now(datetime.UTC):%Y-%m-%d}: {device}; {versions}"
    print(title, flush=True)
    parts = [title]
    for name in names or DEFAULT:
        with tempfile.TemporaryDirectory() as folder:
            parts.append(_measured(name, SHAPES[name], Path(folder)))
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
    with RESULTS.open("a", encoding="utf-8") as file:
        file.write("\n\n```text\n".join([parts[0], "\n".join(parts[1:])]) + "```\n\n")


def _measured(name: str, shape: Shape, folder: Path) -> str:
    """Return what is printed for one shape."""
    told = io.StringIO()
    with contextlib.redirect_stdout(told):
        prepared = _prepared(name, shape, folder)
        if shape.fits_once:
            against_trl.alone(prepared, NUM_STEPS)
        for what, one in () if shape.fits_once else _tasks(prepared):
            _check_layouts(what, one)
            speed = against_trl.compare(what, one, NUM_STEPS)
            if name == CARD_SHAPE and one is prepared:
                print(f"{name}: {CARD_PAIRS:,} pairs would take {CARD_PAIRS / speed / 3600:.1f} h")
    print(told.getvalue(), flush=True)
    return told.getvalue()


def _tasks(prepared: PreparedRecipe) -> list[tuple[str, PreparedRecipe]]:
    return [("two responses", prepared), ("four responses, all pairs", with_four_responses(prepared))]


def _prepared(name: str, shape: Shape, folder: Path) -> PreparedRecipe:
    """Write a base model with random weights and draw its pairs."""
    import torch
    from transformers import AutoConfig, AutoModelForSequenceClassification

    from rm_workflow.catalog.models import Training

    config = AutoConfig.for_model(
        shape.family,
        hidden_size=shape.hidden_size,
        intermediate_size=shape.intermediate_size,
        num_hidden_layers=shape.num_layers,
        num_attention_heads=shape.num_heads,
        num_key_value_heads=shape.num_key_value_heads,
        vocab_size=shape.vocab_size,
        max_position_embeddings=4096,
        pad_token_id=PAD,
        num_labels=1,
    )
    on_gpu = torch.cuda.is_available()
    with torch.device("cuda" if on_gpu else "cpu"):
        model: Any = AutoModelForSequenceClassification.from_config(  # type: ignore[no-untyped-call]
            config, dtype=torch.bfloat16
        )
    model.save_pretrained(folder / "base")
    del model
    lora = {"r": 32, "alpha": 64} if shape.lora else None
    training = Training.model_validate(
        {
            "lora": lora,
            "learning_rate": 1e-5,
            "batch_size": shape.batch_size,
            "micro_batch_tokens": shape.micro_batch_tokens,
        }
    )
    run_config = {
        "recipe": name,
        "base": str(folder / "base"),
        "objective": "bradley_terry",
        "attributes": [],
        "training": training.model_dump(),
        "device": "cuda" if on_gpu else "cpu",
        "precision": "bf16" if on_gpu else "fp32",
        "seed": 0,
        "num_train_pairs": NUM_PAIRS,
        "num_steps": 1000,
        "warmup_steps": 0,
    }
    encoder = SimpleNamespace(tokenizer=_tokenizer(), pad_token_id=PAD)
    return PreparedRecipe(name, run_config, encoder, _pairs(shape.vocab_size), folder / "base")


def _tokenizer() -> Any:
    """Return a tokenizer of no use but to name the pad, which both trainers ask for."""
    from tokenizers import Tokenizer
    from tokenizers.models import WordLevel
    from transformers import PreTrainedTokenizerFast

    return PreTrainedTokenizerFast(  # type: ignore[no-untyped-call]
        tokenizer_object=Tokenizer(WordLevel({"<pad>": PAD, "<eos>": 1}, unk_token="<eos>")),
        pad_token="<pad>",
        eos_token="<eos>",
    )


def _pairs(vocab_size: int) -> "TrainPairs":
    """Return pairs of random tokens with the lengths of chat data."""
    from rm_workflow.training.data import TrainPairs

    rng = np.random.default_rng(0)
    rows, prompt_length = [], []
    for _ in range(NUM_PAIRS):
        prompt = rng.integers(2, vocab_size, min(int(rng.lognormal(np.log(120), 0.8)) + 1, LONGEST // 2))
        for _ in range(2):
            reply = rng.integers(2, vocab_size, min(int(rng.lognormal(np.log(160), 0.7)) + 1, LONGEST // 2))
            rows.append(np.concatenate([prompt, reply]).astype(np.int32))
            prompt_length.append(len(prompt))
    keys = [str(number) for number in range(NUM_PAIRS)]
    return TrainPairs(
        pair_key=keys,
        pair_id=keys,
        prompt_id=keys,
        repeat=np.ones(NUM_PAIRS, dtype=np.int64),
        token_ids=np.concatenate(rows),
        starts=np.concatenate([[0], np.cumsum([len(row) for row in rows])]).astype(np.int64),
        prompt_length=np.asarray(prompt_length),
        response_ids=[str(number) for number in range(len(rows))],
        chosen=np.arange(0, 2 * NUM_PAIRS, 2),
        rejected=np.arange(1, 2 * NUM_PAIRS, 2),
        weight=np.ones(NUM_PAIRS, dtype=np.float32),
        score_gap=np.ones(NUM_PAIRS, dtype=np.float32),
        source=["random"] * NUM_PAIRS,
    )


def _check_layouts(what: str, prepared: PreparedRecipe) -> None:
    """Print how far the rewards of each layout lie from those of padded rows, in float32, of the largest."""
    import torch

    from rm_workflow.training import canaries
    from rm_workflow.training.layouts import LAYOUTS, padded_batch

    trainer = prepared.trainer("padded")
    step = trainer.steps[0][:12]
    model = trainer.trained_model.eval()
    apart: dict[str, float] = {}
    with torch.no_grad(), trainer.exactly():
        for layout in LAYOUTS:
            trainer.use_layout(layout, "asked for")
            for batch in trainer.collator.micro_batches(step):
                found = torch.cat(trainer.pair_rewards(model, trainer._prepare_inputs(dict(batch))))
                trainer.use_layout("padded", "the reference")
                padded = trainer._prepare_inputs(dict(padded_batch(prepared.pairs, batch["pair"].tolist(), PAD)))
                expected = torch.cat(trainer.pair_rewards(model, padded))
                trainer.use_layout(layout, "asked for")
                apart[layout] = max(apart.get(layout, 0.0), canaries.relative_difference(expected, found))
    told = ", ".join(f"{layout} {difference:.1e}" for layout, difference in apart.items())
    print(f"{prepared.name}: {what}: float32 rewards differ from padded rows by: {told}")


if __name__ == "__main__":
    main(*sys.argv[1:])
    end()
