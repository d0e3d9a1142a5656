"""Tiny models and tokenizers with random weights, for tests that need no language."""

from pathlib import Path
from typing import Any

from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast

CORPUS = [
    "The river is long. Name a river. The Danube. Human: Assistant: user assistant system",
    "What is the capital of France? Paris is the capital of France. Yes. No.",
]
SPECIAL = ["<unk>", "<s>", "</s>", "<pad>", "<|im_start|>", "<|im_end|>"]
LLAMA_LIKE = (
    "{{ bos_token }}{% for m in messages %}{{ '[' + m['role'] + '] ' + m['content'] + eos_token }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '[assistant] ' }}{% endif %}"
)


def tiny_tokenizer(
    template: str | None = None, *, adds_bos: bool = False, special: list[str] = SPECIAL, **names: str | None
) -> PreTrainedTokenizerFast:
    """Return a byte-level BPE tokenizer of about 400 tokens; ``adds_bos`` as Llama and Gemma do."""
    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    added = [AddedToken(text, special=True, normalized=False) for text in special]
    trainer = trainers.BpeTrainer(
        vocab_size=400, special_tokens=added, initial_alphabet=sorted(alphabet), show_progress=False
    )
    backend.train_from_iterator(CORPUS, trainer)
    if adds_bos:
        backend.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    named = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>", **names}
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=backend, **{key: value for key, value in named.items() if value is not None}
    )
    tokenizer.chat_template = template
    return tokenizer


def tiny_config(model_type: str, vocab_size: int = 420):
    """Return a config of two layers and hidden size 32."""
    from transformers import AutoConfig

    shape = {
        "vocab_size": vocab_size,
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 8,
        "max_position_embeddings": 512,
        "pad_token_id": 3,
        "bos_token_id": 1,
        "eos_token_id": 2,
    }
    return AutoConfig.for_model(model_type, **shape)


def write_tiny_model(
    folder: Path, tokenizer: PreTrainedTokenizerFast, model_type: str = "llama", seed: int = 0, dtype: Any = None
) -> Path:
    """Save a random causal model with its tokenizer and return the folder."""
    import torch
    from transformers import AutoModelForCausalLM

    torch.manual_seed(seed)
    model = AutoModelForCausalLM.from_config(tiny_config(model_type, len(tokenizer)))
    model.to(dtype or torch.float32).save_pretrained(str(folder))
    tokenizer.save_pretrained(str(folder))
    return folder
