"""A tiny reward model saved as training saves one."""

from collections.abc import Sequence
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification, AutoModelForTokenClassification

from rm_workflow.catalog.models import TokenRecipe
from rm_workflow.models.readout import KINDS
from rm_workflow.models.solutions import SolutionEncoder
from rm_workflow.models.tokens import Encoder
from rm_workflow_tests.models.tiny import SPECIAL, tiny_config, tiny_tokenizer

CHATML = TokenRecipe(template="chatml", max_length=128)
# transformers gives every qwen2 folder a Qwen2Tokenizer, which adds the last token where it is missing.
WITH_END_OF_TEXT = (*SPECIAL, "<|endoftext|>")


def write_checkpoint(
    folder: Path,
    model_type: str = "llama",
    recipe: TokenRecipe = CHATML,
    seed: int = 0,
    num_labels: int = 1,
    special: Sequence[str] = WITH_END_OF_TEXT,
) -> Path:
    """Save a random reward model whose rewards differ by about 1, with its tokenizer and token recipe."""
    tokenizer = tiny_tokenizer(special=list(special))
    tokenizer.save_pretrained(str(folder))
    torch.manual_seed(seed)
    config = tiny_config(model_type, len(tokenizer))
    config.num_labels = num_labels
    model = AutoModelForSequenceClassification.from_config(config)
    with torch.no_grad():
        model.score.weight.normal_(0.0, 0.1)
        for name, weight in model.named_parameters():
            if "proj" in name:
                weight.normal_(0.0, 0.3)
    model.save_pretrained(str(folder))
    Encoder.load(folder, recipe).save(folder)
    return folder


def write_solution_model(
    folder: Path, objective: str, model_type: str = "llama", recipe: TokenRecipe = CHATML, seed: int = 0
) -> Path:
    """Save a random outcome or process model whose probabilities spread, with tokenizer, token recipe and readout."""
    tokenizer = tiny_tokenizer(special=list(WITH_END_OF_TEXT))
    tokenizer.save_pretrained(str(folder))
    torch.manual_seed(seed)
    config = tiny_config(model_type, len(tokenizer))
    is_causal = KINDS[objective] == "signs"
    if not is_causal:
        config.num_labels = 1
    model = (AutoModelForCausalLM if is_causal else AutoModelForTokenClassification).from_config(config)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if "proj" in name or "head" in name or "score.weight" in name:
                weight.normal_(0.0, 0.3)
    model.save_pretrained(str(folder))
    encoder = Encoder.load(folder, recipe)
    encoder.save(folder)
    SolutionEncoder(encoder, objective).readout.write(folder)
    return folder
