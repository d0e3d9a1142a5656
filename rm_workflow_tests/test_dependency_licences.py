from importlib import metadata

from rm_workflow.dependency_licences import as_markdown, installed_requirements, licence_of


def test_every_installed_dependency_is_listed_with_what_it_states():
    found = {one.metadata["Name"].lower(): licence_of(one) for one in installed_requirements()}
    assert {"torch", "dagster", "duckdb", "numpy"} <= set(found)  # numpy is needed by others too
    assert "pytest" not in found  # an extra
    assert found["duckdb"] == "MIT License"
    assert found["transformers"].startswith("Apache")
    lines = as_markdown().splitlines()
    assert len(lines) == len(found) + 2
    assert f"| duckdb | {metadata.version('duckdb')} | MIT License |" in as_markdown()
