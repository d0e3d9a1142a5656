"""How a reward is read from a model: at the end of a reply, at the end of each step, or as the token of a verdict.

- ``end``: ``AutoModelForSequenceClassification`` with one label, the logit of its head at the last token.
- ``steps`` (token_prm): ``AutoModelForTokenClassification`` with one label, the logit of its head where a step ends;
  sigmoid(logit) is the probability that the step is right.
- ``signs`` (generative_orm, generative_prm): ``AutoModelForCausalLM``, the two logits of ``+`` and ``-`` where the
  template puts the verdict; the softmax over these two is the probability that the step, or the whole solution, is
  right.

``readout.json`` stands beside the weights of the last two::

    {"format": 1, "objective": "generative_prm", "signs": ["+", "-"], "sign_ids": [1524, 12]}

``sign_ids`` may be missing where a folder was made by others: the tokenizer and the template tell them.
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from rm_workflow.errors import UserError
from rm_workflow.models.saved_config import read_object

if TYPE_CHECKING:
    from torch import Tensor, nn

Kind = Literal["end", "steps", "signs"]
SolutionObjective = Literal["generative_orm", "generative_prm", "token_prm"]

READOUT = "readout.json"
FORMAT = 1
GOOD, BAD = "+", "-"
AUTO_CLASSES: dict[Kind, str] = {
    "end": "AutoModelForSequenceClassification",
    "steps": "AutoModelForTokenClassification",
    "signs": "AutoModelForCausalLM",
}
KINDS: dict[str, Kind] = {"generative_orm": "signs", "generative_prm": "signs", "token_prm": "steps"}
STEPWISE = frozenset({"generative_prm", "token_prm"})
# Largest difference between a logit read here and that of the model's own forward pass, beside its size.
SAME_LOGIT = 1e-4


@dataclass(frozen=True)
class Readout:
    """How the rewards of one model are read.

    Attributes:
        objective: what it was trained for; ``end`` stands for all that give one reward at the end of a reply.
        sign_ids: of ``signs``, the token ids of ``+`` and ``-`` where the template puts them.
    """

    objective: str = "end"
    sign_ids: tuple[int, int] | None = None

    @property
    def kind(self) -> Kind:
        """Return what is read."""
        return KINDS.get(self.objective, "end")

    @property
    def is_stepwise(self) -> bool:
        """Tell whether each step of a solution has a score."""
        return self.objective in STEPWISE

    @property
    def has_drawn_head(self) -> bool:
        """Tell whether a base model lacks the head, so that one is drawn."""
        return self.kind != "signs"

    def logits(self, model: "nn.Module", hidden: "Tensor") -> "Tensor":
        """Return the logit of "right" against "wrong", fp32 [...], of hidden states [..., H]."""
        from rm_workflow.models import reward_model

        if self.sign_ids is None:
            return reward_model.head_rewards(model, hidden)
        scored = _capped(model, reward_model.head_outputs_of(model, hidden, list(self.sign_ids)))
        return scored[..., 0] - scored[..., 1]

    def write(self, folder: Path) -> None:
        """Write ``readout.json`` where plain transformers would not know how to read the reward."""
        if self.kind != "end":
            (folder / READOUT).write_text(json.dumps(self.as_json(), indent=1) + "\n", "utf-8")

    def as_json(self) -> dict[str, Any]:
        """Return what ``readout.json`` holds."""
        signs = {"signs": [GOOD, BAD], "sign_ids": list(self.sign_ids)} if self.sign_ids else {}
        return {"format": FORMAT, "objective": self.objective, **signs}


END = Readout()


def sign_log_probs(model: "nn.Module", hidden: "Tensor", sign_ids: tuple[int, int]) -> "Tensor":
    """Return log p(+) and log p(-) over the whole vocabulary, fp32 [N, 2], of hidden states [N, H]."""
    from rm_workflow.models import reward_model

    logits = _capped(model, reward_model.head_outputs(model, hidden))
    found: Tensor = logits.log_softmax(-1)[:, list(sign_ids)]
    return found


def _capped(model: "nn.Module", logits: "Tensor") -> "Tensor":
    """Return logits as Gemma 2 caps them; other models' are as they are."""
    from rm_workflow.models import reward_model

    cap = getattr(reward_model.transformers_model(model).config.get_text_config(), "final_logit_softcapping", None)
    return logits if cap is None else cap * (logits / cap).tanh()


def check_signs(model: "nn.Module", sign_ids: tuple[int, int]) -> None:
    """Refuse a causal model whose logits are more than a linear map of its last hidden state.

    Raises:
        UserError: what is read here differs from the model's own forward pass.
    """
    import torch

    from rm_workflow.models import reward_model

    plain: Any = reward_model.transformers_model(model)
    ids = torch.tensor([[*sign_ids, sign_ids[0]]], device=next(plain.parameters()).device)
    with torch.no_grad():
        logits = plain(input_ids=ids, use_cache=False).logits[0, -1, list(sign_ids)].float()
        hidden = reward_model.hidden_states(plain, ids, torch.tensor([2]), torch.tensor([0]))
        found = _capped(plain, reward_model.head_outputs_of(plain, hidden, list(sign_ids)))[0]
    gap = float((found - logits).abs().max() / (1 + logits.abs().max()))
    if not gap <= SAME_LOGIT:
        raise UserError(
            f"the logits of this causal model are no linear map of its last hidden state (they differ by {gap:.1e}), "
            "so its verdicts cannot be read; take a base model of another family"
        )


def stored_readout(folder: Path) -> Readout | None:
    """Return what ``readout.json`` in a folder says, or None where there is none.

    Raises:
        UserError: a field is wrong.
    """
    path = folder / READOUT
    if not path.is_file():
        return None
    found = read_object(path)
    objective, ids = found.get("objective"), found.get("sign_ids")
    if objective not in KINDS:
        raise UserError(f"{path}: objective is {objective!r}; write one of {', '.join(KINDS)}")
    if KINDS[objective] == "steps" or ids is None:
        return Readout(objective)
    if not isinstance(ids, list) or [type(one) for one in ids] != [int, int]:
        raise UserError(f"{path}: sign_ids is {ids!r}; write the two token ids of + and -, or leave it out")
    return Readout(objective, (ids[0], ids[1]))
