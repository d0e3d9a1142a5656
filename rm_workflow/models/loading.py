"""A saved reward model from a folder: ours, a published one, or a LoRA adapter of either; refused in one sentence.

What makes a folder a reward model: ``config.json``, safetensors with a ``score`` head of one label, and a pad token.
"""

from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rm_workflow.artifacts import MANIFEST, ArtifactStore
from rm_workflow.errors import UserError
from rm_workflow.models import reward_model
from rm_workflow.models.base import (
    ADAPTER_CONFIG,
    BASE,
    CONFIG,
    PICKLES,
    find_base,
    model_folder,
    refuse_own_code,
    refuse_parts_elsewhere,
)
from rm_workflow.models.published import Origin, load_encoder, published
from rm_workflow.models.readout import END, READOUT, Kind, Readout, check_signs, stored_readout
from rm_workflow.models.saved_config import read_object
from rm_workflow.models.solutions import SolutionEncoder
from rm_workflow.models.tokens import TOKEN_RECIPE, Encoder
from rm_workflow.settings import load_settings

if TYPE_CHECKING:
    from transformers import PreTrainedModel

HEAD = "score"
ENCODER_HEAD = "classifier."
TOKENIZER = "tokenizer.json"
ADAPTER_WEIGHTS = "adapter_model.safetensors"


@dataclass(frozen=True)
class LoadedCheckpoint:
    """A reward model with what turns conversations into its tokens.

    Attributes:
        encoder: turns conversations into tokens; or why there is none, as where the folder has no tokenizer.
        recipe_origin: whether the token recipe was stored with the model, is a published one or a guess.
        readout: how its rewards are read.
    """

    model: "PreTrainedModel"
    pad_token_id: int
    encoder: Encoder | UserError
    recipe_origin: Origin | None
    readout: Readout = END


def load_checkpoint(folder: Path, hub_id: str | None = None) -> LoadedCheckpoint:
    """Load a Hugging Face sequence-classification folder or a LoRA adapter of one, in fp32, merged, on the CPU.

    A folder with ``readout.json``, or a published outcome or process model, is loaded as ``models/readout.py`` says.

    Args:
        hub_id: org/name on the hub, by which the token recipe of a published model is known.

    Raises:
        UserError: no head or several labels, pickled weights, no pad token, code of its own, a file that is cut off or
            broken, an adapter whose base is not there.
    """
    if not folder.is_dir():
        raise UserError(f"checkpoint folder {folder} does not exist; name a folder with a saved reward model")
    _refuse_pickles(folder)
    readout = _readout(folder, hub_id)
    if (folder / ADAPTER_CONFIG).is_file():
        _refuse_pickled_adapter(folder)
        base = base_of(folder)
        if readout.has_drawn_head:
            _check_head(folder, base)
        model = _merged(folder, base, readout.kind)
    else:
        base = None
        _check_config(folder)
        refuse_parts_elsewhere(folder, str(folder))
        _check_layers(folder)
        if readout.has_drawn_head:
            _check_head(folder)
            _check_num_labels(folder)
        model = reward_model.load_reward_model(folder, kind=readout.kind)
    if not hasattr(model.config.get_text_config(), "max_position_embeddings"):
        raise UserError(
            f"{base or folder} ({CONFIG}) names no max_position_embeddings, so the longest text that it can read is "
            "not known; take a reward model of another family"
        )
    named_pad = model.config.get_text_config().pad_token_id
    # A causal model that generates may go without; nothing is pooled by it.
    if named_pad is None and base is None and readout.has_drawn_head:
        raise UserError(f"{folder / CONFIG}: pad_token_id is missing; set it to a token that no text holds")
    encoder, origin = _encoder(folder, base, hub_id, model, named_pad)
    pad = encoder.pad_token_id if isinstance(encoder, Encoder) else named_pad
    if pad is None:
        raise UserError(f"{folder} names no pad token, and none can be chosen; {encoder}")
    embedding: Any = model.get_input_embeddings()
    _check_pad(folder, pad, embedding.num_embeddings)
    if readout.kind == "signs":
        readout = _with_signs(folder, model, readout, encoder)
    return LoadedCheckpoint(model, int(pad), encoder, origin, readout)


def _readout(folder: Path, hub_id: str | None) -> Readout:
    """Return how rewards are read: as the folder (or the model beside an adapter) says, or as is known of its name."""
    is_adapter = (folder / ADAPTER_CONFIG).is_file()
    for place in (folder, folder.parent / "model") if is_adapter else (folder,):
        stored = stored_readout(place)
        if stored:
            return stored
    entry = published(hub_id)
    return Readout(entry.objective) if entry else END


def _with_signs(folder: Path, model: "PreTrainedModel", readout: Readout, encoder: Encoder | UserError) -> Readout:
    """Return a readout with the ids of its verdicts, which the tokenizer and the template tell."""
    if isinstance(encoder, Encoder):
        found = SolutionEncoder(encoder, readout.objective).readout
        if readout.sign_ids not in (None, found.sign_ids):
            raise UserError(
                f"{folder / READOUT}: sign_ids is {list(readout.sign_ids or ())}, and the tokenizer has "
                f"{list(found.sign_ids or ())} there; use the tokenizer that the checkpoint was trained with"
            )
        readout = found
    if readout.sign_ids is None:
        raise UserError(f"{folder / READOUT}: sign_ids is missing, and there is no token recipe that tells; {encoder}")
    check_signs(model, readout.sign_ids)
    return readout


def _encoder(
    folder: Path, base: Path | None, hub_id: str | None, model: "PreTrainedModel", pad_token_id: int | None
) -> tuple[Encoder | UserError, Origin | None]:
    """Return the stored token recipe (an adapter's stands in ``model`` beside it too), a published one or a guess.

    Token ids can be scored without any of them, so what is missing is told when a text is to be scored.
    """
    places = (folder, folder.parent / "model") if base else (folder,)
    stored = next((place for place in places if (place / TOKEN_RECIPE).is_file()), None)
    if stored:
        return Encoder.from_checkpoint(stored), "stored"
    places = (folder, base) if base else (folder,)
    tokenizer = next((place for place in places if (place / TOKENIZER).is_file()), None)
    if tokenizer is None:
        return UserError(f"{folder} has no {TOKEN_RECIPE} and no tokenizer; save them there"), None
    window: int = model.config.get_text_config().max_position_embeddings
    try:
        return load_encoder(tokenizer, hub_id, window, pad_token_id, str(folder))
    except UserError as error:
        return error, None


def _refuse_pickles(folder: Path) -> None:
    if any(folder.glob("*.safetensors")):
        return
    pickles = sorted(path.name for path in folder.iterdir() if path.suffix in PICKLES)
    found = f"only pickled weights ({pickles[0]}), which can run code when they are read" if pickles else "no weights"
    raise UserError(f"{folder} holds {found}; save the model as safetensors there")


def _refuse_pickled_adapter(folder: Path) -> None:
    """Refuse an adapter without its own safetensors file, beside which any other may stand: peft then unpickles."""
    if not (folder / ADAPTER_WEIGHTS).is_file():
        raise UserError(f"{folder} has no {ADAPTER_WEIGHTS}; save the adapter as safetensors there")


def _check_config(folder: Path) -> None:
    if not (folder / CONFIG).is_file():
        raise UserError(f"{folder} has no {CONFIG}; name a folder with a saved reward model")
    refuse_own_code(folder / CONFIG, str(folder / CONFIG))
    config = read_object(folder / CONFIG)
    body = config.get("text_config") or config
    if isinstance(body, dict):
        # Asked here too because torch refuses such a model before it is made.
        _check_pad(folder, body.get("pad_token_id"), body.get("vocab_size"))


def _check_layers(folder: Path) -> None:
    """Refuse a number of layers that the weights cannot have: transformers would make them all before it looks."""
    config = read_object(folder / CONFIG)
    layers = (config.get("text_config") or config).get("num_hidden_layers")
    num_tensors = sum(1 for _ in _weight_names(folder))
    if isinstance(layers, int) and not 0 < layers <= num_tensors:
        raise UserError(
            f"{folder / CONFIG}: num_hidden_layers is {layers}, and the weights are {num_tensors} tensors; fetch or "
            "save the model again"
        )


def _check_pad(folder: Path, pad_token_id: Any, num_embeddings: Any) -> None:
    if isinstance(pad_token_id, int) and isinstance(num_embeddings, int) and pad_token_id >= num_embeddings:
        raise UserError(
            f"{folder}: its pad token {pad_token_id} has no embedding in the model (it has {num_embeddings:,}); take "
            "another pad token"
        )


def _check_head(folder: Path, base: Path | None = None) -> None:
    """Refuse a folder without a trained head; transformers would draw a random one and only warn."""
    if not any(map(_is_of_head, _weight_names(folder))) and not (base and any(map(_is_of_head, _weight_names(base)))):
        if any(name.startswith(ENCODER_HEAD) for name in _weight_names(folder)):
            raise UserError(
                f"{folder} has its head under {ENCODER_HEAD}*, as encoders like BERT and DeBERTa have; scored are "
                f"decoders with a {HEAD}.weight, so take a reward model of that kind"
            )
        raise UserError(
            f"{folder} has no reward head (no {HEAD}.weight in its safetensors files); it is a base model or was saved "
            "without its head, so train it or save it again (a model that writes + and - is told by a "
            f'{READOUT} with {{"objective": "generative_prm"}} or "generative_orm")'
        )


def _is_of_head(name: str) -> bool:
    return name == f"{HEAD}.weight" or f".{HEAD}." in name


def _check_num_labels(folder: Path) -> None:
    config = read_object(folder / CONFIG)
    labels = config.get("num_labels") or len(config.get("id2label") or (0, 1))
    if labels != 1:
        raise UserError(f"{folder / CONFIG}: the head has {labels} labels (num_labels); a reward model has 1")


def _weight_names(folder: Path) -> Iterator[str]:
    from safetensors import SafetensorError, safe_open

    for path in sorted(folder.glob("*.safetensors")):
        try:
            with safe_open(path, framework="pt") as file:
                yield from file.keys()
        except SafetensorError as error:
            reason = reward_model.first_line(error)
            raise UserError(f"{path}: it is no whole safetensors file ({reason}); fetch or save it again") from error


def base_of(folder: Path) -> Path:
    """Return the folder of an adapter's base: the one that its artifact was made from, else the one that it names."""
    config = read_object(folder / ADAPTER_CONFIG)
    named, revision = config.get("base_model_name_or_path"), config.get("revision")
    if not named:
        raise UserError(f"{folder / ADAPTER_CONFIG}: base_model_name_or_path is missing; write the base model there")
    recorded = _recorded_base(folder)
    if recorded:
        return recorded
    try:
        # A folder has no revisions.
        return find_base(f"{named}@{revision}" if revision and not Path(named).is_dir() else named, load_settings())
    except UserError as error:
        raise UserError(f"{folder / ADAPTER_CONFIG}: base_model_name_or_path: {error}") from error


def _recorded_base(folder: Path) -> Path | None:
    """Return the base that the artifact with this adapter was made from, where both are still here, or None.

    A hub id names weights that may be others: those of a package were quantised, and the hub moves on.
    """
    manifest = folder.absolute().parent / MANIFEST
    if not manifest.is_file():
        return None
    used = next((one for one in read_object(manifest).get("inputs", ()) if one.get("kind") == "base"), None)
    if used is None:
        return None
    # The folder of a checkpoint may have been copied out of its RMW_HOME.
    for artifacts in (manifest.parents[2], ArtifactStore(load_settings().home).artifacts):
        base = artifacts / used["asset"] / used["version"]
        if (base / BASE).is_file():
            with suppress(UserError):
                return model_folder(base)
    return None


def _merged(folder: Path, base: Path, kind: Kind) -> "PreTrainedModel":
    """Load the base of an adapter, put the adapter on it and merge both."""
    from peft import PeftModel

    try:
        adapted: Any = PeftModel.from_pretrained(reward_model.load_reward_model(base, kind=kind), str(folder))
    except (RuntimeError, ValueError, KeyError, OSError) as error:
        reason = reward_model.first_line(error)
        raise UserError(f"{folder} cannot be loaded as a reward adapter of {base}: {reason}") from error
    merged: PreTrainedModel = adapted.merge_and_unload()
    return merged
