"""How a checkpoint is trained: token recipe, objective, optimisation."""

from typing import Annotated, Literal

from pydantic import Field, model_validator

from rm_workflow.catalog.models.entry import Entry, Positive, Share

Objective = Literal[
    "bradley_terry",
    "margin_bt",
    "scaled_bt",
    "plackett_luce",
    "regression",
    "scalar_orm",
    "token_prm",
    "generative_orm",
    "generative_prm",
]
# Which kind of mixture each of these is trained on (``rm_workflow/training/objectives.py``).
PAIR_OBJECTIVES = ("bradley_terry", "margin_bt", "scaled_bt")
RATING_OBJECTIVES = ("plackett_luce", "regression")
OUTCOME_OBJECTIVES = ("scalar_orm", "generative_orm")
RESPONSE_OBJECTIVES = (*RATING_OBJECTIVES, *OUTCOME_OBJECTIVES)
STEP_OBJECTIVES = ("token_prm", "generative_prm")


class TokenRecipe(Entry):
    """How a conversation becomes token ids; stored with a checkpoint and applied wherever it is used.

    Attributes:
        template: ``native`` (the base model's own chat template), ``chatml`` or ``hh_transcript``.
        system_turn: what happens to a system turn.
        max_length: tokens of prompt and reply together.
        over_length: ``drop`` the pair, or ``truncate_prompt_left`` on both sides alike.
        date: the date that templates may print, pinned (``26 Jul 2024`` style).
    """

    template: Literal["native", "chatml", "hh_transcript"] = "native"
    system_turn: Literal["native", "merge_into_user", "drop"] = "native"
    max_length: Annotated[int, Field(ge=8)] = 2048
    over_length: Literal["drop", "truncate_prompt_left"] = "drop"
    date: str = "26 Jul 2024"


class Lora(Entry):
    """LoRA adapter shape; the reward head is always trained whole (arXiv 2106.09685).

    Attributes:
        r: rank.
        alpha: scale; what the adapter adds is multiplied by alpha / r.
        dropout: share of the adapter's inputs that are masked while training.
        target_modules: names of the layers that get one, or ``all-linear``.
    """

    r: Positive = 32
    alpha: Positive = 64
    dropout: Share = 0.0
    target_modules: str | list[str] = "all-linear"


class Save(Entry):
    """When the state of a training run is written, from which it goes on after it was ended.

    A signal (SIGTERM, Ctrl-C) writes one too. Saving by time never takes more than 2 % of the time.

    Attributes:
        minutes: a state every so many minutes; null saves by steps alone.
        steps: a state every so many optimiser steps; null saves by time alone.
        keep: newest states that are kept.
    """

    minutes: Annotated[float, Field(gt=0)] | None = 10
    steps: Positive | None = None
    keep: Positive = 2


class Validation(Entry):
    """Evaluation while training, on train pairs that are held out; the test split is never used to choose by.

    Attributes:
        share: least share of the train pairs that is held out, in whole groups.
        max_pairs: no more groups are held out once they have so many pairs.
        steps: an evaluation every so many optimiser steps, and after the last one.
        metric: what the best weights are chosen by: lowest ``loss`` or highest ``accuracy``, the first of equals.
        keep_best: the best weights become the checkpoint; else the last ones.
        patience: stop after so many evaluations with nothing better; null trains to the end.
        seed: of the choice of groups.
    """

    share: Annotated[float, Field(gt=0, lt=1)] = 0.05
    max_pairs: Positive = 1000
    steps: Positive = 50
    metric: Literal["loss", "accuracy"] = "loss"
    keep_best: bool = True
    patience: Positive | None = None
    seed: int = 0


Optimizer = Literal[
    "adamw_torch",
    "adamw_torch_fused",
    "adafactor",
    "sgd",
    "adamw_bnb_8bit",
    "paged_adamw_32bit",
    "paged_adamw_8bit",
    "lion_32bit",
    "lion_8bit",
    "paged_lion_32bit",
    "paged_lion_8bit",
]


class Distributed(Entry):
    """Processes that train one checkpoint together. Changes the result by rounding alone and is part of no key.

    Attributes:
        machines: more than one are started by hand, each with a command that the run prints.
        processes: on each machine, one for each GPU.
        strategy: ``ddp`` holds the whole model in each process; ``fsdp`` cuts weights, gradients and optimiser states
            into as many parts as there are processes.
    """

    machines: Positive = 1
    processes: Positive = 1
    strategy: Literal["ddp", "fsdp"] = "ddp"

    @property
    def num_processes(self) -> int:
        """Return the processes on all machines."""
        return self.machines * self.processes


# How a training is run and told. Up to rounding, and to which masks a dropout draws, the result is the same, so these
# are part of no key: an ended run goes on, and a checkpoint stands, when they change.
UNKEYED_TRAINING_FIELDS = frozenset(
    {"distributed", "layout", "logging_steps", "micro_batch_tokens", "report_to", "save"}
)


class Training(Entry):
    """Optimisation of one checkpoint. Names are those of TRL and transformers.

    Attributes:
        lora: adapter shape, or null for full fine-tuning.
        learning_rate: the highest, which warm-up ends at.
        batch_size: pairs in one optimiser step, over all devices; prompts or responses where ``batch_unit`` says so.
        batch_unit: what is counted: ``pairs``, for plackett_luce ``prompts`` (with all their responses), for
            regression and scalar_orm ``responses``.
        grouping: ``pairs`` shuffles single pairs; ``prompts`` keeps all pairs of a prompt in one step and fills a step
            with whole prompts up to ``batch_size``.
        layout: how pairs lie in rows (``rm_workflow/training/layouts.py``); ``auto`` shares what responses begin with
            where that saves enough tokens. Never changes the result beyond rounding.
        micro_batch_tokens: tokens in one forward pass on one device, padding included; never changes the result beyond
            rounding.
        epochs: passes over the train pairs; fractions are allowed.
        schedule: how the learning rate falls after warm-up.
        warmup: steps if >= 1, share of all steps if below.
        weight_decay: of the optimizer.
        max_grad_norm: longer gradients are cut to this norm.
        precision: ``auto`` is bf16 autocast where that is faster than fp32, which a rule says, not a clock.
        activation_checkpointing: compute activations again in the backward pass, for less memory and more time.
        head_init_std: standard deviation of the fresh reward head; null is 1/(hidden size + 1) (OpenRLHF).
        center_rewards_coefficient: weight of mean((r_chosen + r_rejected)^2), see TRL; null leaves it out.
        label_smoothing: assumed share of pairs whose label is the wrong way round (arXiv 2401.06080).
        attribute_weights: for regression: attribute -> its factor in the one reward of the saved model, below 0 for
            what is not wanted; null takes the mean of all.
        logging_steps: figures are written every so many optimiser steps.
        save: when states are written from which an ended run goes on.
        validation: held-out pairs, best weights, early stop; null evaluates nothing while training.
        optimizer: those with bnb, lion, paged or 8bit in their names need the package bitsandbytes.
        compile: compile the body with torch.compile; pays for long runs, and digits may differ from those without.
        report_to: trackers that get the figures of each logging step beside ``metrics.jsonl``.
        save_dtype: dtype of a merged or full model on disk.
        seed: of the head, of the order of pairs and of dropout.
        distributed: processes that train together; never changes the result beyond rounding.
    """

    lora: Lora | None = None
    learning_rate: Annotated[float, Field(gt=0)]
    batch_size: Positive
    grouping: Literal["pairs", "prompts"] = "pairs"
    layout: Literal["auto", "padded", "grouped", "packed", "shared", "kwise"] = "auto"
    micro_batch_tokens: Positive = 4096
    batch_unit: Literal["pairs", "prompts", "responses", "blocks"] = "pairs"
    epochs: Annotated[float, Field(gt=0, le=1000)] = 1
    schedule: Literal["linear", "cosine", "constant", "constant_with_warmup"] = "cosine"
    warmup: Annotated[float, Field(ge=0)] = 0.03
    weight_decay: Annotated[float, Field(ge=0)] = 0.0
    max_grad_norm: Annotated[float, Field(gt=0)] = 1.0
    optimizer: Optimizer = "adamw_torch"
    precision: Literal["auto", "bf16", "fp32"] = "auto"
    activation_checkpointing: bool = False
    compile: bool = False
    head_init_std: Annotated[float, Field(gt=0)] | None = None
    center_rewards_coefficient: Annotated[float, Field(ge=0)] | None = None
    label_smoothing: Annotated[float, Field(ge=0, lt=0.5)] = 0.0
    attribute_weights: dict[str, float] | None = None
    logging_steps: Positive = 5
    save: Save = Save()
    validation: Validation | None = None
    report_to: list[Literal["tensorboard", "trackio", "wandb"]] = []
    save_dtype: Literal["float32", "bfloat16"] = "float32"
    seed: int = 0
    distributed: Distributed = Distributed()

    @model_validator(mode="after")
    def _prompts_hold_pairs(self) -> "Training":
        if self.grouping == "prompts" and self.batch_unit != "pairs":
            raise ValueError(
                f"grouping prompts is about pairs and batch_unit is {self.batch_unit}; take grouping out, or set "
                "batch_unit to pairs"
            )
        return self
