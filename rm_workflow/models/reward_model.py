"""The reward model: a pretrained body, one linear head, and the reward read at an explicit end index.

Shapes: R rows, T tokens, N responses, H hidden size. Head and rewards are fp32 whatever the body computes in: bf16
rewards near 16 step by 0.06 to 0.125, so different replies would tie.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor, nn

from rm_workflow.errors import UserError
from rm_workflow.models.readout import AUTO_CLASSES, Kind
from rm_workflow.models.saved_config import CONFIG, read_object

# Precision and device are asked for before every reuse of an artifact, where transformers is not needed.
if TYPE_CHECKING:
    from transformers import PreTrainedModel

Precision = Literal["bf16", "fp32"]


def load_reward_model(
    model_folder: Path,
    head_init_std: float | None = None,
    seed: int = 0,
    pad_token_id: int | None = None,
    kind: Kind = "end",
) -> "PreTrainedModel":
    """Load a local model as ``AutoModelForSequenceClassification`` with one label, in fp32, in evaluation mode.

    A head that the folder holds is kept; a missing one is drawn from N(0, head_init_std) with ``seed``, whatever the
    state of the global generators.

    Args:
        head_init_std: standard deviation of a fresh head; None is 1/(H + 1), as OpenRLHF.
        pad_token_id: the pad of the token recipe, written into the config; None keeps the config's.
        kind: of ``readout.py``; other kinds are other auto classes, and a causal model has its head in the folder.

    Raises:
        UserError: a file is broken, the weights do not fit the config, or the saved head has more than one label.
    """
    model, report = _load_model(model_folder, kind)
    for name, saved, wanted in sorted(report["mismatched_keys"]):
        many_labels = name == "score.weight" and saved[0] != 1
        mend = (
            "take a model whose head, if any, has one label"
            if many_labels
            else "put back the config.json of these weights, or fetch or save the model again"
        )
        raise UserError(
            f"{model_folder}: its weight {name} is {list(saved)} where a reward model of its config.json has "
            f"{list(wanted)}; {mend}"
        )
    missing = set(report["missing_keys"])
    head = head_module(model)
    head_weights = set() if kind == "signs" else {f"score.{name}" for name, _ in head.named_parameters()}
    if missing - head_weights:
        raise UserError(
            f"{model_folder}: {len(missing - head_weights)} weights are missing from its safetensors files, for "
            f"instance {min(missing - head_weights)}; fetch or save the model again"
        )
    if missing:
        _draw_head(head, head_init_std or 1 / (head.in_features + 1), seed)
    if pad_token_id is not None:
        model.config.pad_token_id = pad_token_id
        model.config.get_text_config().pad_token_id = pad_token_id
    loaded: PreTrainedModel = model.eval()
    return loaded


def _load_model(model_folder: Path, kind: Kind) -> tuple[Any, dict[str, Any]]:
    """Return the model and what transformers says of its weights."""
    from huggingface_hub.errors import StrictDataclassError

    try:
        read_object(model_folder / CONFIG)
        with _quiet_transformers():
            loaded: tuple[Any, dict[str, Any]] = _auto_class(kind).from_pretrained(
                str(model_folder),
                **_one_label(kind),
                dtype=torch.float32,
                use_safetensors=True,
                trust_remote_code=False,
                local_files_only=True,
                output_loading_info=True,
                # Answered by the caller: transformers' own sentence points to a log.
                ignore_mismatched_sizes=True,
            )
    except StrictDataclassError as error:
        reason = " ".join(str(error).split())
        raise UserError(f"{model_folder / CONFIG}: {reason}; mend it, or fetch or save the model again") from error
    except UserError:
        raise
    except Exception as error:  # a broken file makes transformers fail wherever it meets the fault
        raise UserError(
            f"{model_folder} cannot be loaded as a reward model ({type(error).__name__}: {first_line(error)}); mend "
            f"its {CONFIG}, or fetch or save the model again"
        ) from error
    return loaded


@contextmanager
def _quiet_transformers() -> Iterator[None]:
    """Keep transformers from printing its table of weights that do not fit, which our own sentences tell."""
    from transformers.utils import logging

    before = logging.get_verbosity()
    logging.set_verbosity_error()  # type: ignore[no-untyped-call]
    try:
        yield
    finally:
        logging.set_verbosity(before)


def _auto_class(kind: Kind) -> Any:
    import transformers

    return getattr(transformers, AUTO_CLASSES[kind])


def _one_label(kind: Kind) -> dict[str, Any]:
    return {} if kind == "signs" else {"num_labels": 1}


def empty_reward_model(model_folder: Path, pad_token_id: int, kind: Kind = "end") -> "PreTrainedModel":
    """Return the model that ``load_reward_model`` gives, with places for its weights on ``meta`` and no weights."""
    from accelerate import init_empty_weights
    from transformers import AutoConfig

    config = AutoConfig.from_pretrained(
        str(model_folder), **_one_label(kind), local_files_only=True, trust_remote_code=False
    )
    # Buffers, as the frequencies of rotary positions, are computed and stand in no file.
    with init_empty_weights(include_buffers=False):
        model: Any = _auto_class(kind).from_config(config, dtype=torch.float32)
    # A place that stands under two names was made twice.
    model.tie_weights()
    model.config.pad_token_id = pad_token_id
    model.config.get_text_config().pad_token_id = pad_token_id
    empty: PreTrainedModel = model.eval()
    return empty


def _draw_head(head: nn.Linear, std: float, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        head.weight.copy_(torch.empty(head.weight.shape).normal_(0.0, std, generator=generator))
        if head.bias is not None:
            head.bias.zero_()


def widen_head(model: "PreTrainedModel", num_outputs: int, std: float | None = None, seed: int = 0) -> None:
    """Replace the head by a fresh one of several outputs, to be combined before the model is saved.

    Args:
        std: standard deviation of the fresh head; None is 1/(H + 1).
    """
    old = head_module(model)
    head = nn.Linear(old.in_features, num_outputs, bias=old.bias is not None)
    _draw_head(head, std or 1 / (head.in_features + 1), seed)
    transformers_model(model).score = head


def combine_head(model: nn.Module, weights: Tensor) -> None:
    """Make one output of several, the sum of weight x output.

    Args:
        weights: [A].
    """
    head = head_module(model)
    with torch.no_grad():
        head.weight = nn.Parameter((weights.to(head.weight) @ head.weight)[None])
        if head.bias is not None:
            head.bias = nn.Parameter((weights.to(head.bias) @ head.bias)[None])
    head.out_features = 1


def keep_head_fp32(model: nn.Module) -> None:
    """Turn the head back to fp32 after a body was cast to a smaller dtype."""
    head_module(model).to(torch.float32)


def store_bf16(model: nn.Module) -> None:
    """Keep the weights of linear layers in bf16, the head apart: what autocast would make of them in every pass."""
    head = head_module(model)
    for module in model.modules():
        if isinstance(module, nn.Linear) and module is not head:
            module.to(torch.bfloat16)


def rewards(
    model: nn.Module,
    input_ids: Tensor,
    end_index: Tensor,
    row_index: Tensor | None = None,
    position_ids: Tensor | None = None,
    attention_mask: Any = None,
) -> Tensor:
    """Return the reward of each response, fp32 [N], differentiable.

    The same as plain transformers on right-padded rows (which pools at the last token that is not the pad), but with no
    need to guess the end. Works on a plain model, inside PEFT or a data-parallel wrapper, and under autocast.

    Args:
        input_ids: [R, T], right-padded: nothing real attends to the padding of a causal body, so it needs no mask.
        end_index: [N], index of the token whose hidden state is scored.
        row_index: [N], row of each response; None where each row is one response.
        position_ids: [R, T], or None for 0 .. T-1.
        attention_mask: what ``attention.arguments`` gives for a row of segments; None for plain causal attention.
    """
    scored = outputs(model, input_ids, end_index, row_index, position_ids, attention_mask)
    return _one_reward(scored)


def outputs(
    model: nn.Module,
    input_ids: Tensor,
    end_index: Tensor,
    row_index: Tensor | None = None,
    position_ids: Tensor | None = None,
    attention_mask: Tensor | None = None,
) -> Tensor:
    """Return what the head says of each response, fp32 [N, A]; A is 1 but while several attributes are trained."""
    return head_outputs(model, hidden_states(model, input_ids, end_index, row_index, position_ids, attention_mask))


def hidden_states(
    model: nn.Module,
    input_ids: Tensor,
    end_index: Tensor,
    row_index: Tensor | None = None,
    position_ids: Tensor | None = None,
    attention_mask: Any = None,
) -> Tensor:
    """Return the last hidden states [N, H] of a body at the places that ``rewards`` names."""
    classifier = transformers_model(model)
    body = getattr(classifier, classifier.base_model_prefix)
    hidden_RTH = body(
        input_ids, attention_mask=attention_mask, position_ids=position_ids, use_cache=False
    ).last_hidden_state
    if row_index is None:
        row_index = torch.arange(hidden_RTH.shape[0], device=hidden_RTH.device)
    hidden: Tensor = hidden_RTH[row_index, end_index]
    return hidden


def head_rewards(model: nn.Module, hidden: Tensor) -> Tensor:
    """Return the fp32 rewards [...] of hidden states [..., H], outside any autocast."""
    return _one_reward(head_outputs(model, hidden))


def head_outputs(model: nn.Module, hidden: Tensor) -> Tensor:
    """Return all that the head says, fp32 [..., A]; of a causal model the logits of its vocabulary."""
    with torch.autocast(hidden.device.type, enabled=False):
        scored: Tensor = whole_head(model)(hidden.float())
    if scored.dtype != torch.float32:
        raise ValueError(f"the reward head must give fp32 numbers, not {scored.dtype}; call keep_head_fp32 first")
    return scored


def head_outputs_of(model: nn.Module, hidden: Tensor, rows: list[int]) -> Tensor:
    """Return some of what the head says, fp32 [..., rows], without computing the rest."""
    head = head_module(model)
    with torch.autocast(hidden.device.type, enabled=False):
        bias = None if head.bias is None else head.bias[rows].float()
        return nn.functional.linear(hidden.float(), head.weight[rows].float(), bias)


def _one_reward(scored: Tensor) -> Tensor:
    if scored.shape[-1] != 1:
        raise ValueError(f"the reward head must give one fp32 number, not {scored.shape[-1]}; call combine_head first")
    return scored.squeeze(-1)


def transformers_model(model: nn.Module) -> Any:
    """Return the transformers model inside PEFT and data-parallel wrappers (LoRA layers sit inside it)."""
    inner: Any = model
    # Asked of the class, because PEFT and some wrappers answer for attributes of the model inside them.
    while not hasattr(type(inner), "base_model_prefix"):
        if hasattr(inner, "get_base_model"):
            inner = inner.get_base_model()
        elif hasattr(inner, "module"):
            inner = inner.module
        else:
            raise ValueError(f"{type(model).__name__} wraps no transformers model")
    return inner


def head_module(model: nn.Module) -> nn.Linear:
    """Return the linear head in use; PEFT keeps a trained copy beside the original."""
    head = whole_head(model)
    if hasattr(head, "modules_to_save"):
        head = head.modules_to_save[head.active_adapter]
    assert isinstance(head, nn.Linear)
    return head


def whole_head(model: nn.Module) -> Any:
    """Return the head as it is called: that of a reward or, of a causal model, of its vocabulary."""
    inner = transformers_model(model)
    return inner.score if hasattr(inner, "score") else inner.get_output_embeddings()


def resolve_device(device: str) -> str:
    """Return "cpu" or "cuda" for the setting "auto", "cpu" or "cuda".

    Raises:
        UserError: cuda is asked for and there is none.
    """
    available = torch.cuda.is_available()
    if device == "cuda" and not available:
        raise UserError("RMW_DEVICE is cuda, but torch sees no CUDA device; set RMW_DEVICE to auto or cpu")
    return "cuda" if device != "cpu" and available else "cpu"


def resolve_precision(requested: str, device: str) -> Precision:
    """Return "bf16" or "fp32" for "auto", "bf16" or "fp32" on a device.

    Raises:
        UserError: bf16 is asked for where the device only emulates it, which is slower than fp32.
    """
    if requested == "bf16" and not has_bf16(device):
        raise UserError(f"precision bf16 is asked for, but this {device} does not compute in it; set precision to auto")
    if requested == "bf16" or (requested == "auto" and prefers_bf16(device)):
        return "bf16"
    return "fp32"


def has_bf16(device: str) -> bool:
    """Tell whether the device has bf16 arithmetic of its own; oneDNN says yes on every AVX-512 machine and emulates."""
    if device.startswith("cuda"):
        return torch.cuda.is_available() and torch.cuda.is_bf16_supported(including_emulation=False)
    onednn = hasattr(torch.ops.mkldnn, "_is_mkldnn_bf16_supported") and torch.ops.mkldnn._is_mkldnn_bf16_supported()
    return bool(onednn) and (torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported())


def prefers_bf16(device: str) -> bool:
    """Tell whether bf16 is faster than fp32 on the device, by a rule and not by the clock: it is part of keys.

    Of a CPU with AVX512_BF16 alone it is so on AMD (402 GFLOP/s of a product against some 60 on an EPYC) and not on
    Intel, whose virtual machines often hide AMX (70 against 105 on a Xeon).
    """
    if not device.startswith("cpu"):
        return has_bf16(device)
    return has_bf16(device) and (torch.cpu._is_amx_tile_supported() or "AuthenticAMD" in _cpu())


def _cpu() -> str:
    """Return what the kernel says of the processors, empty where it says nothing."""
    path = Path("/proc/cpuinfo")
    return path.read_text("utf-8", errors="replace") if path.is_file() else ""


def first_line(error: Exception) -> str:
    """Return the first line of an error's text, else its kind."""
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__
