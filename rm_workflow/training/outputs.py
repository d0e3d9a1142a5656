"""The end of a training: its result, and the proof by which a later run knows that nothing it left is damaged since.

What a training leaves may lie in its folder for long before it is published: its run was killed, or the disk was full.
And where a run was killed after the publish, the same bytes stand in the artifact (hard links): a damage to the one is
a damage to both, and a publish that hashed the files anew would make it the truth.
"""

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from rm_workflow.durable_files import fsync
from rm_workflow.errors import UserError
from rm_workflow.keys import file_sha256
from rm_workflow.proofs import fault_of_file, read_sealed, sealed_json

RESULT = "result.json"
PROOF = "outputs.json"


def write_result(out: Path, result: Mapping[str, Any], outputs: Iterable[str]) -> None:
    """Write the proof of all that was left, then ``result.json``, whose name says that the training has ended.

    Args:
        outputs: names of files and folders in ``out``, on the disk by now; those that are not there are left out.
    """
    draft = out / "result.draft"
    _write(draft, json.dumps(result, indent=1, allow_nan=False))
    tops = [out / name for name in outputs]
    left = [path for top in tops for path in (top, *sorted(top.rglob("*"))) if path.is_file()]
    files = {str(path.relative_to(out)): _entry(path) for path in left}
    _write(out / PROOF, sealed_json({"files": {**files, RESULT: _entry(draft)}}))
    draft.rename(out / RESULT)
    # What the result stands for is removed next.
    fsync(out)


def fault(out: Path) -> str | None:
    """Return what is wrong with what an ended training has left, or None where every byte is as it was written."""
    try:
        files: dict[str, Any] = read_sealed(out / PROOF, "delete it")["files"]
    except FileNotFoundError:
        return f"it has no {PROOF}"
    except UserError as error:
        return str(error)
    faults = ((name, fault_of_file(out / name, entry)) for name, entry in files.items())
    return next((f"{name} {what}" for name, what in faults if what), None)


def _entry(path: Path) -> dict[str, Any]:
    return {"bytes": path.stat().st_size, "sha256": file_sha256(path)}


def _write(path: Path, text: str) -> None:
    path.write_text(text, "utf-8")
    fsync(path)
