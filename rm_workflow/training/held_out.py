"""Train pairs that are held out to choose a checkpoint by; the test split is never used for that. Imports no torch.

Whole groups are held out, chosen by a hash of their id, so that no question is on both sides.
"""

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import fields, replace
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt
import pyarrow.compute as pc
import pyarrow.parquet as pq

from rm_workflow.catalog.models import Validation
from rm_workflow.errors import UserError
from rm_workflow.keys import content_id
from rm_workflow.training.data import PairKeys, load_pair_keys, load_pairs

OF_RESPONSES = frozenset({"token_ids", "starts", "prompt_length", "response_ids"})

Positions = npt.NDArray[np.int64]
Keys = TypeVar("Keys", bound=PairKeys)


def split(tokens: Path, validation: Validation | None) -> tuple[Positions, Positions]:
    """Return the positions, among the train pairs of a tokens artifact, of those to train on and of those held out.

    Raises:
        UserError: nothing is left on one of the sides.
    """
    table = pq.read_table(tokens / "pairs.parquet", columns=["split", "group_id"])
    groups = table.filter(pc.equal(table["split"], "train"))["group_id"].to_pylist()
    if validation is None:
        return np.arange(len(groups)), np.arange(0)
    chosen = chosen_groups(groups, validation)
    is_held_out = np.asarray([group in chosen for group in groups], dtype=np.bool_)
    if not is_held_out.any() or is_held_out.all():
        raise UserError(
            f"training.validation holds out {int(is_held_out.sum())} of {len(groups)} train pairs "
            f"({len(set(groups))} groups), which leaves nothing on one side; change its share or leave it out"
        )
    return np.flatnonzero(~is_held_out), np.flatnonzero(is_held_out)


def chosen_groups(groups: Sequence[str], validation: Validation) -> set[str]:
    """Return the first groups, in the order of their keyed hashes, that hold as many pairs as are asked for.

    Args:
        groups: [pairs] the group of each pair.
    """
    wanted = min(math.ceil(validation.share * len(groups)), validation.max_pairs)
    sizes = Counter(groups)
    chosen: set[str] = set()
    held_out = 0
    for group in sorted(sizes, key=lambda group: content_id(["validation", validation.seed, group])):
        if held_out >= wanted:
            break
        chosen.add(group)
        held_out += sizes[group]
    return chosen


def subset(pairs: Keys, positions: Positions) -> Keys:
    """Return the pairs, or keys of pairs, at these positions, with all responses."""
    names = [field.name for field in fields(pairs) if field.name not in OF_RESPONSES]
    return replace(pairs, **{name: _take(getattr(pairs, name), positions) for name in names})


def _take(values: Any, positions: Positions) -> Any:
    return values[positions] if isinstance(values, np.ndarray) else [values[position] for position in positions]


def keys_for_training(tokens: Path, validation: Validation | None) -> PairKeys:
    """Return what decides the steps: the keys of the train pairs without what is held out."""
    return subset(load_pair_keys(tokens), split(tokens, validation)[0])


def facts_for_training(tokens: Path, facts: Mapping[str, Any], validation: Validation | None) -> dict[str, Any]:
    """Return the facts of a tokens artifact as training sees them: without what is held out, which is counted."""
    if validation is None:
        return {**facts, "validation": 0}
    trained, held_out = split(tokens, validation)
    pairs = subset(load_pairs(tokens), trained)
    return {
        **facts,
        "train_per_epoch": int(pairs.repeat.sum()),
        "train_tokens": pairs.num_tokens,
        "validation": len(held_out),
    }
