"""Which launchers there are and how one is chosen; what runs under Ray is in ``test_ray_launcher.py``."""

import os
import signal
import sys
import time
from inspect import signature

import pytest

from rm_workflow.assets.access import check_access
from rm_workflow.assets.flow import Flow
from rm_workflow.catalog.loading import load_catalog
from rm_workflow.catalog.models import Distributed
from rm_workflow.errors import UserError
from rm_workflow.settings import load_settings
from rm_workflow.training import launchers
from rm_workflow.training.launchers import (
    Launcher,
    Training,
    _process_group,
    _ray_cluster,
    _ray_data,
    local,
    ray,
)
from rm_workflow.training.launchers._process_group import ProcessGroup
from rm_workflow.training.process import GRACE_LINE


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch):
    monkeypatch.setenv("RMW_HOME", str(tmp_path / "home"))


def test_every_file_without_an_underscore_offers_all_that_is_asked_of_a_launcher():
    asked = {name: signature(function) for name, function in vars(Launcher).items() if not name.startswith("_")}
    assert {"local", "ray"} <= set(launchers.names())
    for name in launchers.names():
        launcher = launchers.get(name)
        for function, of_launcher in asked.items():
            parameters = list(signature(getattr(launcher, function)).parameters)
            assert ["self", *parameters] == list(of_launcher.parameters), f"{name}.{function}"


def test_local_is_the_launcher_where_none_is_named(monkeypatch):
    monkeypatch.delenv("RMW_LAUNCHER", raising=False)
    assert load_settings().launcher == "local"
    monkeypatch.setenv("RMW_LAUNCHER", "ray")
    assert load_settings().launcher == "ray"


def test_an_unknown_launcher_is_refused_with_the_nearest_name():
    with pytest.raises(UserError, match=r"RMW_LAUNCHER is 'rya', and there is no such launcher \(did you mean 'ray'"):
        launchers.get("rya")


def test_a_launcher_that_is_not_installed_is_told_before_any_work_with_how_to_install_it(monkeypatch):
    monkeypatch.setattr(ray, "find_spec", lambda name: None)
    monkeypatch.setenv("RMW_LAUNCHER", "ray")
    settings = load_settings()
    catalog = load_catalog(settings)
    flow, recipe = Flow(catalog), catalog.recipes["quickstart"]
    with pytest.raises(UserError, match=r"not installed; install it \(pip install 'rm-workflow\[ray\]'\)"):
        check_access([flow.checkpoint(recipe)], catalog, settings)
    # What trains nothing needs none.
    check_access([flow.mixture(recipe)], catalog, settings)


@pytest.mark.parametrize("kind", ["tokens", "checkpoint", "scores"])
def test_all_that_a_launcher_does_asks_for_it_first(monkeypatch, kind):
    monkeypatch.setattr(ray, "find_spec", lambda name: None)
    monkeypatch.setenv("RMW_LAUNCHER", "ray")
    settings = load_settings()
    catalog = load_catalog(settings)
    step = getattr(Flow(catalog), kind)(catalog.recipes["quickstart"])
    with pytest.raises(UserError, match="RMW_LAUNCHER is ray, whose package is not installed"):
        check_access([step], catalog, settings)


@pytest.mark.parametrize("text", ["soon", "-1", "inf", "nan", ""])
def test_a_wait_for_a_cluster_that_is_no_number_of_seconds_is_refused(monkeypatch, text):
    monkeypatch.setenv("RMW_RAY_WAIT", text)
    with pytest.raises(UserError, match=rf"^RMW_RAY_WAIT is '{text}', which is no number of seconds; set it to one"):
        _ray_cluster.longest_wait()
    monkeypatch.setenv("RMW_RAY_WAIT", "0.5")
    assert _ray_cluster.longest_wait() == 0.5
    monkeypatch.delenv("RMW_RAY_WAIT")
    assert _ray_cluster.longest_wait() == 300


@pytest.mark.parametrize("text", ["half", "0", "1.5", "-2", ""])
def test_cpus_of_a_worker_that_are_no_number_of_them_are_refused(monkeypatch, text):
    monkeypatch.setenv("RMW_RAY_CPUS", text)
    with pytest.raises(UserError, match=rf"^RMW_RAY_CPUS is '{text}', which is no number of CPUs; set it to one"):
        _ray_data.resources("cpu")
    monkeypatch.setenv("RMW_RAY_CPUS", "4")
    assert _ray_data.resources("cuda") == {"CPU": 4, "GPU": 1}


def test_the_machines_of_a_cluster_get_our_variables_but_for_secrets_that_they_do_not_need(monkeypatch):
    secret = {"RMW_SERVE_TOKEN": "of the server", "RMW_ENDPOINT_API_KEY": "of a generator", "AWS_SECRET": "of another"}
    of_training = {"HF_TOKEN": "of the hub", "WANDB_API_KEY": "of the tracker"}
    for name, value in {**secret, **of_training, "RMW_THREADS": "2"}.items():
        monkeypatch.setenv(name, value)
    of_trainers, of_workers = _ray_cluster.carried_variables(), _ray_data.carried_variables()
    assert of_trainers.items() >= {**of_training, "RMW_THREADS": "2"}.items()
    assert of_workers["RMW_THREADS"] == "2"
    assert not secret.keys() & of_trainers.keys()
    assert not {**secret, **of_training}.keys() & of_workers.keys()


def test_of_several_machines_local_starts_none(tmp_path):
    with pytest.raises(UserError, match="start the trainer by hand on each of them"):
        local.start(Training(["--out", "o"], Distributed(machines=2), tmp_path), print)


def test_a_group_tells_its_lines_its_code_and_leaves_no_process():
    told: list[str] = []
    script = "import sys, subprocess; print('a', file=sys.stderr); subprocess.Popen(['sleep', '60']); sys.exit(3)"
    group = ProcessGroup([sys.executable, "-c", script], {}, told.append)
    assert group.wait() == 3
    group.stop()
    assert told == ["a"]
    with pytest.raises(ProcessLookupError):
        _signal_group(group)


@pytest.mark.parametrize(("ends_others", "seconds", "found"), [(True, 0.5, "lives"), (False, 30, "ended")])
def test_a_command_that_ends_others_itself_has_them_until_then(ends_others, seconds, found):
    script = (
        "import signal, subprocess, sys, time\n"
        "def end(*_):\n"
        "    try:\n"
        f"        other.wait({seconds}); found = 'ended'\n"
        "    except subprocess.TimeoutExpired:\n"
        "        found = 'lives'\n"
        "    print(found, file=sys.stderr, flush=True); sys.exit(0)\n"
        "other = subprocess.Popen(['sleep', '60'])\n"
        "signal.signal(signal.SIGTERM, end); print('ready', file=sys.stderr, flush=True); time.sleep(60)\n"
    )
    told: list[str] = []
    group = ProcessGroup([sys.executable, "-c", script], {}, told.append, ends_others=ends_others)
    while not told:
        time.sleep(0.02)
    group.stop()
    assert told == ["ready", found]
    with pytest.raises(ProcessLookupError):
        _signal_group(group)


def _signal_group(group: ProcessGroup) -> None:
    # Those that were killed are there until init has asked for their codes.
    for _ in range(50):
        os.killpg(group._process.pid, 0)
        time.sleep(0.1)


@pytest.mark.parametrize(("asked", "code"), [(2, 143), (0, -signal.SIGKILL)])
def test_a_trainer_that_asks_for_time_to_save_gets_it(monkeypatch, asked, code):
    monkeypatch.setattr(_process_group, "GRACE_SECONDS", 0.5)
    monkeypatch.setattr(_process_group, "MORE_SECONDS", 0.0)
    script = (
        "import signal, sys, time\n"
        "def end(*_):\n"
        f"    print({GRACE_LINE!r} + '{asked}', file=sys.stderr, flush=True); time.sleep(1.0); sys.exit(143)\n"
        "signal.signal(signal.SIGTERM, end); print('ready', file=sys.stderr, flush=True); time.sleep(60)\n"
    )
    told: list[str] = []
    group = ProcessGroup([sys.executable, "-c", script], {}, told.append)
    while not told:
        time.sleep(0.02)
    group.stop()
    assert group.wait() == code
