"""A file of a person's is never written over by a verb that writes another kind."""

from collections.abc import Callable
from pathlib import Path

import pytest

from rm_workflow.cli import replacing
from rm_workflow.errors import UserError
from rm_workflow_tests.cli.conftest import Answer, Project

Rmw = Callable[..., Answer]

OWN = {
    replacing.refuse_other_than_picture: replacing.PNG + b"...",
    replacing.refuse_other_than_page: b"<!DOCTYPE html>\n<html>",
    replacing.refuse_other_than_card: b"---\ntags:\n- rm-workflow\nmodel-index: []\n---\n\n# toy\n",
    replacing.refuse_other_than_scores: b'{"id": 1, "scores": [0.5]}\n',
}
FOREIGN = [b"notes\n", b"---\ntitle: a diary\n---\n", b'{"prompt": "Hi?"}\n', b"[" * 100_000, b"\x89PNG", b"\xff\xfe"]


@pytest.mark.parametrize("refuse", OWN)
def test_a_file_of_the_same_kind_may_be_replaced(tmp_path: Path, refuse: Callable[[Path], None]):
    refuse(tmp_path / "none")
    refuse(tmp_path)
    for content in (b"", OWN[refuse]):
        (tmp_path / "file").write_bytes(content)
        refuse(tmp_path / "file")


@pytest.mark.parametrize("refuse", OWN)
def test_a_file_of_another_kind_may_not(tmp_path: Path, refuse: Callable[[Path], None]):
    for content in [*FOREIGN, *(own for other, own in OWN.items() if other is not refuse)]:
        (tmp_path / "file").write_bytes(content)
        with pytest.raises(UserError, match=r"file is there already and is no .*; name another file, or remove this"):
            refuse(tmp_path / "file")


@pytest.mark.parametrize(
    "verb",
    [("history", "--plot"), ("report", "-o"), ("evaluate", "toy_checkpoint", "--benchmark", "rewardbench", "-o")],
)
def test_a_verb_refuses_the_file_before_it_begins(project: Project, rmw: Rmw, verb: tuple[str, ...]):
    (project.folder / "notes\x1b[2J.txt").write_text("mine")
    answer = rmw(*verb, "notes\x1b[2J.txt")
    assert answer.code == 1
    assert r"notes\x1b[2J.txt is there already and is no " in answer.error
    assert (project.folder / "notes\x1b[2J.txt").read_text() == "mine"
