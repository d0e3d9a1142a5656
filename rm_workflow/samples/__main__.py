"""``python -m rm_workflow.samples [FOLDER]``: write the embedded sample (default: the project's data/samples)."""

import sys
from pathlib import Path

from rm_workflow.errors import UserError
from rm_workflow.samples.generate import write
from rm_workflow.settings import load_settings


def main(arguments: list[str]) -> int:
    """Write the files and return the exit code."""
    if len(arguments) > 1 or any(argument.startswith("-") for argument in arguments):
        print("usage: python -m rm_workflow.samples [FOLDER]", file=sys.stderr)
        return 2
    try:
        target = Path(arguments[0]) if arguments else _default_folder()
        write(target)
    except (UserError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    print(f"wrote the sample to {target}", file=sys.stderr)
    return 0


def _default_folder() -> Path:
    project = load_settings().project
    if project is None:
        raise UserError("no parent folder holds workspace.yaml; name the folder to write the sample to")
    return project / "data" / "samples"


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
