"""Keys that older transformers read in a saved folder and transformers 5 no longer writes.

Without ``rope_theta`` transformers 4.51 takes its default of 10,000 and scores with it, silently.
"""

import json
from pathlib import Path
from typing import Any

from rm_workflow.errors import UserError

CONFIG = "config.json"
TOKENIZER_CONFIG = "tokenizer_config.json"


def read_object(path: Path) -> dict[str, Any]:
    """Return the JSON object of a file that was saved with a model.

    Raises:
        UserError: the file is no JSON, or no object.
    """
    try:
        found = json.loads(path.read_bytes())
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path}: it is no JSON ({error}); fetch or save the model again") from None
    if not isinstance(found, dict):
        raise UserError(f"{path}: it is no JSON object; fetch or save the model again")
    return found


def carry_older_keys(folder: Path) -> None:
    """Add ``rope_theta``, ``rope_scaling``, ``torch_dtype`` and ``tokenizer_class`` to the JSON files in ``folder``."""
    config = folder / CONFIG
    if config.is_file():
        _rewrite(config, _older_model_keys)
    tokenizer = folder / TOKENIZER_CONFIG
    if tokenizer.is_file():
        _rewrite(tokenizer, _older_tokenizer_keys)


def _rewrite(path: Path, added: Any) -> None:
    values = json.loads(path.read_text("utf-8"))
    path.write_text(json.dumps({**values, **added(values)}, ensure_ascii=False, indent=2) + "\n", "utf-8")


def _older_model_keys(config: dict[str, Any]) -> dict[str, Any]:
    added: dict[str, Any] = {}
    if "dtype" in config:
        added["torch_dtype"] = config["dtype"]
    rope = config.get("rope_parameters") or {}
    # Models with one rope per layer type nest these values and are unknown to the older versions anyway.
    if "rope_theta" in rope:
        added["rope_theta"] = rope["rope_theta"]
        scaling = {key: value for key, value in rope.items() if key != "rope_theta"}
        added["rope_scaling"] = scaling if scaling.get("rope_type", "default") != "default" else None
    return added


def _older_tokenizer_keys(config: dict[str, Any]) -> dict[str, Any]:
    # Only the generic class of transformers 5 is unknown to the older versions; a model's own class stays.
    if config.get("tokenizer_class", "TokenizersBackend") == "TokenizersBackend":
        return {"tokenizer_class": "PreTrainedTokenizerFast"}
    return {}
