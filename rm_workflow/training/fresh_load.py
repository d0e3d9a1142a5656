"""Loads saved models as a stranger would: ``python -m rm_workflow.training.fresh_load FOLDER PID``.

``reloading.py`` starts it, PID, and waits. Models are loaded one after another, on the CPU, by transformers and peft as
they are installed; of this project only the watch over the process that waits is imported. FOLDER holds::

    probe.safetensors    input_ids [rows, tokens], right-padded, and where rewards are read: row_index, end_index [N]
    loads.json           what to load, one ``Load`` each
    loaded.safetensors   written: the rewards [N] of each, by number
    loaded.json          written last: the weights that each did not find in its files
    error.txt            written where a model cannot be loaded or computed: one line
"""

import json
import os
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification, AutoModelForTokenClassification
from transformers.utils import logging

from rm_workflow.training import process

CLASSES: Mapping[str, Any] = {
    "end": AutoModelForSequenceClassification,
    "steps": AutoModelForTokenClassification,
    "signs": AutoModelForCausalLM,
}
PROBED = ("input_ids", "end_index", "row_index")
PROBE, LOADS, REWARDS, LOADED, ERROR = (
    *("probe.safetensors", "loads.json", "loaded.safetensors", "loaded.json", "error.txt"),
)


@dataclass(frozen=True)
class Load:
    """One model to load.

    Attributes:
        model: folder of the model or, with an adapter, of its base.
        dtype: of the loaded weights, as torch names it.
        adapter: folder of a PEFT adapter that is put on the model, which then needs one label and a pad by hand.
        kind: what rewards are: ``end`` the logit of each row, ``steps`` a logit at each place, ``signs`` the difference
            of two logits of the vocabulary there.
        sign_ids: these two.
    """

    model: str
    dtype: str
    adapter: str | None = None
    pad_token_id: int | None = None
    kind: str = "end"
    sign_ids: Sequence[int] | None = None


@dataclass(frozen=True)
class Loaded:
    """What a loaded model said.

    Attributes:
        rewards: fp32, [N].
        missing: names of weights that its files lack.
    """

    rewards: Tensor
    missing: list[str]


def loaded(load: Load, probe: Mapping[str, Tensor]) -> Loaded:
    """Load a model and return the rewards that it gives a padded batch."""
    one_label = {} if load.adapter is None or load.kind == "signs" else {"num_labels": 1}
    model, report = CLASSES[load.kind].from_pretrained(
        load.model, dtype=getattr(torch, load.dtype), local_files_only=True, output_loading_info=True, **one_label
    )
    if load.adapter is None:
        return Loaded(_rewards(model, probe, load), sorted(report["missing_keys"]))
    # Takes longer to import than all else, and only a LoRA needs it.
    from peft import PeftModel

    # A base's own config may name no pad or its end token; padded rows need the recipe's.
    model.config.pad_token_id = load.pad_token_id
    return Loaded(_rewards(PeftModel.from_pretrained(model, load.adapter), probe, load), [])


@torch.no_grad()
def _rewards(model: Any, probe: Mapping[str, Tensor], load: Load) -> Tensor:
    """Return the logits of the model's own forward pass, fp32, shape [N]."""
    if load.kind != "end":
        rows = range(len(probe["input_ids"]))
        return torch.cat([_of_row(model.eval(), probe, row, load.sign_ids) for row in rows])
    attention_mask = (torch.arange(probe["input_ids"].shape[1]) <= probe["end_index"][:, None]).long()
    logits: Tensor = model.eval()(input_ids=probe["input_ids"], attention_mask=attention_mask).logits
    return logits.float().squeeze(-1)


def _of_row(model: Any, probe: Mapping[str, Tensor], row: int, sign_ids: Sequence[int] | None) -> Tensor:
    """Return the logits at the places of one row, which is computed alone and without its padding."""
    places = probe["end_index"][probe["row_index"] == row]
    # The logits of a whole vocabulary at each token would fill the memory.
    kept = {"logits_to_keep": places} if sign_ids else {}
    ids = probe["input_ids"][row : row + 1, : int(places.max()) + 1]
    logits: Tensor = model(input_ids=ids, **kept).logits[0].float()
    return logits[:, sign_ids[0]] - logits[:, sign_ids[1]] if sign_ids else logits[places, 0]


def ask(folder: Path, loads: list[Load], probe: Mapping[str, Tensor]) -> None:
    """Write what ``main`` reads."""
    save_file({name: probe[name].contiguous() for name in PROBED}, folder / PROBE)
    (folder / LOADS).write_text(json.dumps([asdict(load) for load in loads]), "utf-8")


def answer(folder: Path) -> list[Loaded]:
    """Read what ``main`` wrote."""
    rewards = load_file(folder / REWARDS)
    missing = json.loads((folder / LOADED).read_text("utf-8"))
    return [Loaded(rewards[str(number)], names) for number, names in enumerate(missing)]


def main(folder: Path, parent: int) -> int:
    """Load what the folder asks for, write what was found and return the exit code."""
    process.end_with_parent(parent)
    logging.set_verbosity_error()  # type: ignore[no-untyped-call]
    logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    probe = load_file(folder / PROBE)
    found = []
    for asked in json.loads((folder / LOADS).read_text("utf-8")):
        load = Load(**asked)
        try:
            found.append(loaded(load, probe))
        except Exception as error:
            words = " ".join(str(error).split())
            place = load.adapter or load.model
            (folder / ERROR).write_text(f"{place} ({load.dtype}): {type(error).__name__}: {words}", "utf-8")
            return 1
    save_file({str(number): one.rewards for number, one in enumerate(found)}, folder / REWARDS)
    (folder / LOADED).write_text(json.dumps([one.missing for one in found]), "utf-8")
    return 0


if __name__ == "__main__":
    code = main(Path(sys.argv[1]), int(sys.argv[2]))
    sys.stdout.flush()
    # Past Python's own shutdown, which takes long with these libraries loaded and has nothing left to do.
    os._exit(code)
