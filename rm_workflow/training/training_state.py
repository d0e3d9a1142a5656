"""Training states on disk: whole and proven by hashes, or not there at all.

::

    OUT/states/step_00000120/
        weights.safetensors      what is trained
        optimizer.safetensors    tensors of the optimizer
        progress.json            all else of optimizer, schedule and counters
        rng_0.json               random generators, a file for each process
        trainer_state.json       transformers' own
        metrics.jsonl            the lines up to this step
        COMPLETE.json            bytes and sha256 of each file above; written last

A state is written to a hidden folder, brought to the disk and renamed. transformers 5.23 writes in place and resumes
from the highest number (huggingface/transformers#40790), so a run that was killed while saving is stuck.
"""

import contextlib
import json
import re
import shutil
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rm_workflow.durable_files import fsync_names, fsync_tree
from rm_workflow.errors import UserError
from rm_workflow.keys import file_sha256

STATES = "states"
FORMAT = 3
COMPLETE = "COMPLETE.json"
STAGING = ".staging-"
STATE_NAME = re.compile(r"step_(\d{8})")
BEST_NAME = re.compile(r"best_(\d{8})")


@dataclass(frozen=True)
class StoredState:
    """A folder whose files are what its marker says."""

    folder: Path
    step: int

    def read(self, name: str) -> Any:
        """Return one of its JSON files."""
        return json.loads((self.folder / name).read_text("utf-8"))


def state_name(step: int) -> str:
    """Return the folder's name of the state after ``step`` optimiser steps."""
    return f"step_{step:08d}"


def best_name(step: int) -> str:
    """Return the folder's name of the best weights, those after ``step`` optimiser steps."""
    return f"best_{step:08d}"


def write_state(states: Path, name: str, fill: Callable[[Path], None]) -> Path:
    """Write a folder that appears whole or not at all and return it.

    Args:
        fill: writes the files into the folder that it is given.

    Raises:
        UserError: the disk refuses it; states that were there before are untouched.
    """
    states.mkdir(parents=True, exist_ok=True)
    staging, target = states / f"{STAGING}{name}", states / name
    try:
        shutil.rmtree(staging, ignore_errors=True)
        staging.mkdir()
        fill(staging)
        _write_marker(staging)
        fsync_tree(staging)
        _remove(target)
        staging.rename(target)
        fsync_names(states, states.parent)
    except OSError as error:
        shutil.rmtree(staging, ignore_errors=True)
        raise UserError(
            f"cannot write the training state {target}: {error.strerror or error}; make room and run again, which goes "
            "on from the state before"
        ) from error
    return target


def _write_marker(folder: Path) -> None:
    files = {
        path.name: {"bytes": path.stat().st_size, "sha256": file_sha256(path)} for path in sorted(folder.iterdir())
    }
    (folder / COMPLETE).write_text(json.dumps({"format": FORMAT, "files": files}, indent=1), "utf-8")


def fault(folder: Path) -> str | None:
    """Return what is wrong with a state, or None where every byte, those of the marker too, is as it was written."""
    if not (folder / COMPLETE).is_file():
        return f"it has no {COMPLETE}"
    try:
        marker = json.loads((folder / COMPLETE).read_text("utf-8"))
        if marker["format"] != FORMAT:
            return f"it has format {marker['format']} and this version reads format {FORMAT}"
        return _fault_of_files(folder, marker["files"])
    except (ValueError, KeyError, TypeError, AttributeError):
        return f"its {COMPLETE} is damaged"
    except OSError as error:
        return f"it cannot be read: {error.strerror or error}"


def _fault_of_files(folder: Path, files: Mapping[str, Mapping[str, Any]]) -> str | None:
    for name, entry in files.items():
        path = folder / name
        if not path.is_file():
            return f"{name} is missing"
        if path.stat().st_size != entry["bytes"]:
            return f"{name} has {path.stat().st_size} bytes instead of {entry['bytes']}"
        if file_sha256(path) != entry["sha256"]:
            return f"the sha256 of {name} is not what was written"
    # A damaged name in the marker can be that of another file, and the file it stood for would go unproven.
    unnamed = sorted({path.name for path in folder.iterdir()} - {*files, COMPLETE})
    return f"{unnamed[0]} is not in its {COMPLETE}" if unnamed else None


def newest_whole(states: Path, say: Callable[[str], None]) -> StoredState | None:
    """Return the newest state that is whole; newer ones that are not are removed, and ``say`` is told why.

    Raises:
        UserError: all states are of another format, so another version wrote them; they are left as they are.
    """
    _refuse_other_format(states)
    for step, folder in sorted(_numbered(states, STATE_NAME), reverse=True):
        reason = fault(folder)
        if reason is None:
            return StoredState(folder, step)
        say(f"the training state {folder.name} is not used, because {reason}; trying the one before")
        # It would count as one of those to keep.
        _remove(folder)
    return None


def _refuse_other_format(states: Path) -> None:
    formats = [_format_of(folder) for _, folder in _numbered(states, STATE_NAME)]
    # A single other number among ours is a damaged one.
    if formats and all(isinstance(number, int) and number != FORMAT for number in formats):
        raise UserError(
            f"{states} holds training states of format {formats[0]} and this version reads format {FORMAT}; go on with "
            "the version of rm_workflow that wrote them, or delete that folder to train from the start"
        )


def _format_of(folder: Path) -> Any:
    try:
        return json.loads((folder / COMPLETE).read_text("utf-8"))["format"]
    except (OSError, ValueError, KeyError, TypeError):
        return None


def whole_best(states: Path, step: int) -> Path | None:
    """Return the folder of the best weights, those after ``step``, where it is whole."""
    folder = states / best_name(step)
    return folder if fault(folder) is None else None


def sweep(states: Path) -> None:
    """Remove what a killed save left."""
    for folder in states.glob(f"{STAGING}*"):
        shutil.rmtree(folder, ignore_errors=True)


def prune(states: Path, keep: int, best_steps: Collection[int]) -> None:
    """Keep the ``keep`` newest states and the best weights of ``best_steps``.

    Args:
        best_steps: also those that a kept state still speaks of, so that going back to it finds them.
    """
    for _, folder in sorted(_numbered(states, STATE_NAME), reverse=True)[keep:]:
        _remove(folder)
    for step, folder in _numbered(states, BEST_NAME):
        if step not in best_steps:
            _remove(folder)


def kept_states(states: Path, keep: int) -> list[StoredState]:
    """Return the ``keep`` newest states, newest first, unread."""
    return [StoredState(folder, step) for step, folder in sorted(_numbered(states, STATE_NAME), reverse=True)[:keep]]


def goes_on(out: Path) -> str:
    """Return what to say, after why a run ended, of the state in ``out`` that its command goes on from, if any."""
    states = kept_states(out / STATES, 1)
    return f"; the same command goes on after step {states[0].step}" if states else ""


def _numbered(states: Path, pattern: re.Pattern[str]) -> list[tuple[int, Path]]:
    if not states.is_dir():
        return []
    matches = [(pattern.fullmatch(path.name), path) for path in states.iterdir()]
    return [(int(match[1]), path) for match, path in matches if match]


def _remove(folder: Path) -> None:
    """Remove a folder; where the disk refuses, it stays, which is no reason to end a run."""
    # Without its marker first, so that a removal that is cut short leaves nothing that looks whole.
    with contextlib.suppress(OSError):
        (folder / COMPLETE).unlink(missing_ok=True)
        shutil.rmtree(folder, ignore_errors=True)
