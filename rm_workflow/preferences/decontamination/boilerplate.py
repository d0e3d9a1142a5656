"""Texts that tell nothing about where a prompt came from: the wording of templates and instructions.

``boilerplate.txt`` lists such texts, one a line; a user adds files of the same form
(``mixture.guard.boilerplate_files``). What stands in many prompts is boilerplate too, and found by counting
(``hits.py``).
"""

from collections.abc import Sequence
from importlib import resources
from pathlib import Path

from rm_workflow.errors import UserError


def listed_texts(paths: Sequence[Path]) -> list[str]:
    """Return the texts of the package's list and of the user's files.

    Raises:
        UserError: a file cannot be read.
    """
    built_in = resources.files(__package__).joinpath("boilerplate.txt").read_text("utf-8")
    texts = [built_in, *map(_read, paths)]
    return [line.strip() for text in texts for line in text.split("\n") if line.strip()]


def _read(path: Path) -> str:
    try:
        return path.read_text("utf-8-sig")
    except OSError as error:
        raise UserError(
            f"{path.name} cannot be read ({error.strerror}); mend mixture.guard.boilerplate_files"
        ) from error
    except UnicodeDecodeError as error:
        raise UserError(f"{path.name} is not UTF-8 at byte {error.start}; convert it") from error
