"""The package without its checkout: a wheel in an environment of its own makes a project and builds its data."""

import json
import os
import site
import subprocess
import sys
import zipfile
from collections.abc import Mapping
from pathlib import Path

import pytest

PROJECT = Path(__file__).parents[1]


def run(*command: str, cwd: Path, env: Mapping[str, str] | None = None) -> str:
    done = subprocess.run(command, cwd=cwd, env=env, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


def tracked() -> list[str]:
    listed = run("git", "ls-files", "-z", "--cached", "--others", "--exclude-standard", cwd=PROJECT).split("\0")
    return [name for name in listed if name and (PROJECT / name).is_file()]


def plain() -> dict[str, str]:
    """Return the environment without what leads to the checkout or to another home."""
    return {key: value for key, value in os.environ.items() if not key.startswith(("RMW_", "PYTHON", "DAGSTER"))}


def dependencies() -> list[str]:
    """Return the folders that hold what the wheel depends on: those of the environment that runs the tests."""
    return [path for path in (*site.getsitepackages(), site.getusersitepackages()) if Path(path).is_dir()]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Build the wheel from the tracked files alone, in a folder of its own."""
    source, out = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("dist")
    for name in tracked():
        if name.startswith("rm_workflow/") or name in ("pyproject.toml", "README.md", "LICENSE"):
            target = source / name
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes((PROJECT / name).read_bytes())
    offline = ("--no-deps", "--no-build-isolation", "--no-index")
    run(sys.executable, "-m", "pip", "wheel", "--quiet", *offline, "-w", str(out), ".", cwd=source)
    (built,) = out.glob("*.whl")
    return built


@pytest.fixture(scope="module")
def rmw(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the command of a new environment that has the wheel; its dependencies are those of the tests."""
    folder = tmp_path_factory.mktemp("environment")
    run(sys.executable, "-m", "venv", "--without-pip", str(folder), cwd=folder)
    python = folder / "bin/python"
    here = Path(run(str(python), "-c", "import site; print(site.getsitepackages()[0])", cwd=folder).strip())
    target = ("--python", str(python), "install", "--quiet", "--no-deps", "--no-index", str(wheel))
    run(sys.executable, "-m", "pip", *target, cwd=folder, env=plain())
    # The folders are looked at after the environment's own, and their .pth files (an editable install) are not read.
    (here / "dependencies.pth").write_text("\n".join(dependencies()) + "\n")
    return folder / "bin/rmw"


@pytest.mark.slow
def test_the_wheel_holds_the_whole_package_and_no_tests(wheel: Path):
    held = zipfile.ZipFile(wheel).namelist()
    assert [name for name in tracked() if name.startswith("rm_workflow/") and name not in held] == []
    assert [name for name in held if "tests" in name or name.startswith("benchmarks")] == []
    assert [name for name in held if name.endswith("licenses/LICENSE")]


@pytest.mark.slow
def test_a_project_of_the_wheel_alone_plans_and_counts(rmw: Path, tmp_path: Path):
    kept = plain()
    where = "import rm_workflow; print(rm_workflow.__file__)"
    used = run(str(rmw.with_name("python")), "-c", where, cwd=tmp_path, env=kept)
    assert Path(used.strip()).is_relative_to(rmw.parents[1]), "the checkout is on the path, not the wheel"

    begun = json.loads(run(str(rmw), "init", "myproject", "--json", cwd=tmp_path, env=kept))
    assert begun["kind"] == "project"
    project = tmp_path / "myproject"
    planned = json.loads(run(str(rmw), "plan", "quickstart", "--json", cwd=project, env=kept))
    assert planned["recipe"] == "quickstart"
    counted = json.loads(run(str(rmw), "counts", "quickstart", "--json", cwd=project, env=kept))
    assert counted["mixtures"]["quickstart_mixture"]["train"] == 420
    assert (project / "data/home/artifacts/quickstart_mixture").is_dir()
