"""A reward model that was made elsewhere as the files of a checkpoint: copied, with its token recipe written beside it.

An adapter is merged into its base first, so that the copy needs nothing outside its folder.
"""

import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from rm_workflow.artifacts import Built, Check, ExternalFile
from rm_workflow.errors import UserError
from rm_workflow.keys import content_id, file_sha256
from rm_workflow.models.base import ADAPTER_CONFIG
from rm_workflow.models.loading import LoadedCheckpoint, base_of, load_checkpoint
from rm_workflow.models.readout import READOUT
from rm_workflow.models.reward_model import transformers_model
from rm_workflow.models.saved_config import carry_older_keys, read_object
from rm_workflow.models.tokens import TOKEN_RECIPE, Encoder

MODEL = "model"
# What a folder may hold of a model; anything else, as a card or training states, stays where it is.
SUFFIXES = (".json", ".safetensors", ".jinja", ".txt", ".model")
FOLDER_DIGITS = 8
# Within the YAML block at the beginning of a card.
README_LICENCE = re.compile(
    r"""\A---\s*\n(?:(?!---).*\n)*?license:[ \t]*["']?([\w.+-]+)["']?[ \t]*(?:#.*)?$""", re.MULTILINE
)
LOADS_AGAIN = "The copied folder loads as a reward model with its own tokenizer and token recipe."


def model_files(folder: Path, hub_id: str | None) -> tuple[ExternalFile, ...]:
    """Return the files that a saved reward model is made of with their hashes; of an adapter those of its base too.

    Args:
        hub_id: of a model on the hub, by which its files are named; others are named by their folder and the first
            digits of a hash of all of it, as many folders are called ``model`` or ``final``.
    """
    own = [(path.name, path) for path in _paths(folder)]
    if (folder / ADAPTER_CONFIG).is_file():
        base = base_of(folder)
        own += [(f"base/{path.name}", path) for path in _paths(base)]
        beside = (folder.parent / MODEL / name for name in (TOKEN_RECIPE, READOUT))
        own += [(f"beside/{path.name}", path) for path in beside if path.is_file()]
    hashed = [(name, path, file_sha256(path)) for name, path in own]
    whole = content_id(["model files", sorted([name, sha256] for name, _, sha256 in hashed)])
    named = hub_id or f"{folder.name}-{whole[:FOLDER_DIGITS]}"
    return tuple(ExternalFile(f"{named}/{name}", path, sha256) for name, path, sha256 in hashed)


def import_model(folder: Path, hub_id: str | None, label: str, out: Path) -> Built:
    """Write ``model/`` into ``out``: the model, its tokenizer and the token recipe by which it is scored.

    Args:
        folder: the saved model, or a LoRA adapter of one.
        hub_id: org/name on the hub, by which the token recipe of a published model is known.
        label: what it was called when it was imported.

    Raises:
        UserError: it is no reward model, or has no tokenizer or chat template to make a token recipe of.
    """
    loaded = load_checkpoint(folder, hub_id)
    if isinstance(loaded.encoder, UserError):
        raise loaded.encoder
    target = out / MODEL
    target.mkdir()
    if (folder / ADAPTER_CONFIG).is_file():
        _save_merged(loaded, loaded.encoder, target)
    else:
        for path in _paths(folder):
            shutil.copyfile(path, target / path.name)
        if not (target / TOKEN_RECIPE).is_file():
            loaded.encoder.save(target)
    loaded.readout.write(target)
    facts = {
        "base": _base(folder),
        # One reward at the end tells nothing of the loss that it was trained with.
        "objective": None if loaded.readout.kind == "end" else loaded.readout.objective,
        "imported_from": label,
        "licence": licence_of(folder),
        "token_recipe_origin": loaded.recipe_origin,
        "template_hash": loaded.encoder.template_hash,
        # Nothing is known of its training.
        **dict.fromkeys(("num_train_pairs", "num_steps", "seconds")),
    }
    del loaded  # two copies of a model in fp32 may not fit
    again = load_checkpoint(target)
    return Built(facts, (Check("loads_again", isinstance(again.encoder, Encoder), LOADS_AGAIN),))


def _save_merged(loaded: LoadedCheckpoint, encoder: Encoder, target: Path) -> None:
    model: Any = transformers_model(loaded.model)
    model.save_pretrained(str(target))
    encoder.save(target)
    carry_older_keys(target)


def _base(folder: Path) -> str:
    """Return the model that it was trained from, where its files say so, else its own architecture."""
    adapter = folder / ADAPTER_CONFIG
    if adapter.is_file():
        return str(read_object(adapter).get("base_model_name_or_path"))
    config = read_object(folder / "config.json")
    return str(config.get("_name_or_path") or config.get("model_type"))


def licence_of(folder: Path) -> str | None:
    """Return the licence that the model's README (as the hub writes them) or ``config.json`` names, or None."""
    readme = folder / "README.md"
    named = README_LICENCE.search(readme.read_text("utf-8", "replace")) if readme.is_file() else None
    config = folder / "config.json"
    found = named[1].strip() if named else read_object(config).get("license") if config.is_file() else None
    return found if isinstance(found, str) and found else None


def _paths(folder: Path) -> Iterator[Path]:
    return (path for path in sorted(folder.iterdir()) if path.is_file() and path.suffix in SUFFIXES)
