"""A change of building code without a new code version would reuse artifacts that the new code would not make.

``python -m rm_workflow_tests.test_code_versions`` notes the hashes anew, after the versions were looked at.
"""

import ast
import json
from pathlib import Path

import pytest

import rm_workflow
from rm_workflow.code_versions import CODE_VERSIONS, CodeVersion
from rm_workflow.keys import content_id

PACKAGE = Path(rm_workflow.__file__).parent
NOTED = Path(__file__).with_name("code_hashes.json")


def without_docstrings(tree: ast.AST) -> ast.AST:
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef):
            first = node.body[0] if node.body else None
            if isinstance(first, ast.Expr) and isinstance(first.value, ast.Constant):
                node.body = node.body[1:] or [ast.Pass()]
    return tree


def content(path: Path) -> str:
    text = path.read_text("utf-8")
    return ast.dump(without_docstrings(ast.parse(text))) if path.suffix == ".py" else text


def code_hash(code_version: CodeVersion) -> str:
    paths = sorted(path for pattern in code_version.files for path in PACKAGE.glob(pattern) if path.is_file())
    texts = [content(path) for path in paths]
    return content_id([[str(path.relative_to(PACKAGE)), text] for path, text in zip(paths, texts, strict=True)])


@pytest.mark.parametrize("kind", CODE_VERSIONS)
def test_changed_building_code_has_a_new_code_version(kind: str):
    noted = json.loads(NOTED.read_text("utf-8"))[kind]
    now = {"version": CODE_VERSIONS[kind].version, "hash": code_hash(CODE_VERSIONS[kind])}
    assert now == noted, (
        f"the code behind {kind} assets changed: if their output changes, raise its version in code_versions.py; "
        "then note the new hash with `python -m rm_workflow_tests.test_code_versions`"
    )


@pytest.mark.parametrize("kind", CODE_VERSIONS)
def test_every_listed_file_exists(kind: str):
    for pattern in CODE_VERSIONS[kind].files:
        assert list(PACKAGE.glob(pattern)), f"{kind}: {pattern} names no file"


if __name__ == "__main__":
    hashes = {kind: {"version": v.version, "hash": code_hash(v)} for kind, v in CODE_VERSIONS.items()}
    NOTED.write_text(json.dumps(hashes, indent=1) + "\n", "utf-8")
