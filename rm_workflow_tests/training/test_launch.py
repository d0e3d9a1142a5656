import os
import shlex
import sys

import pytest

from rm_workflow.assets.flow import Flow
from rm_workflow.catalog.loading import load_catalog
from rm_workflow.catalog.models import Distributed
from rm_workflow.errors import UserError
from rm_workflow.settings import load_settings
from rm_workflow.training import launch


@pytest.fixture
def environment(monkeypatch):
    for name in [name for name in os.environ if name.startswith(("FSDP_", "ACCELERATE_"))]:
        monkeypatch.delenv(name)
    return monkeypatch


def test_one_process_needs_no_launcher():
    command = launch.command(Distributed(strategy="fsdp"), ["--out", "o"])
    assert command == [sys.executable, "-m", "rm_workflow.training.entry", "--out", "o"]


def test_accelerate_understands_the_command_of_several_processes():
    from accelerate.commands.launch import launch_command_parser

    for strategy in ("ddp", "fsdp"):
        command = launch.command(Distributed(processes=8, strategy=strategy), ["--out", "o"])
        assert command[:3] == [sys.executable, "-m", "accelerate.commands.launch"]
        parsed = launch_command_parser().parse_args(command[3:])
        assert parsed.num_processes == 8
        assert parsed.num_machines == 1
        assert parsed.mixed_precision == "no"
        assert parsed.module
        assert parsed.training_script == "rm_workflow.training.entry"
        assert parsed.training_script_args == ["--out", "o"]
        assert (parsed.use_fsdp, parsed.multi_gpu) == (strategy == "fsdp", strategy == "ddp")
        assert parsed.fsdp_version == "2" or strategy == "ddp"


def test_of_several_machines_each_gets_its_command_and_none_is_started_from_here():
    from accelerate.commands.launch import launch_command_parser

    spread = Distributed(machines=4, processes=8, strategy="fsdp")
    with pytest.raises(UserError, match="machines is 4, so start the trainer by hand on each of them") as refused:
        launch.refuse_machines(spread, ["--out", "a folder"])
    words = shlex.split(str(refused.value).rpartition("has ended: ")[2].replace("RANK", "2"))
    parsed = launch_command_parser().parse_args(words[3:])
    assert (parsed.num_machines, parsed.num_processes, parsed.machine_rank) == (4, 32, 2)
    assert (parsed.main_process_ip, parsed.main_process_port) == ("FIRST_MACHINE", 29500)
    assert parsed.training_script_args == ["--out", "a folder"]
    launch.refuse_machines(Distributed(processes=8), [])


def test_the_launchers_wish_for_fsdp_is_taken_from_it(environment):
    assert launch.take_strategy() == "ddp"
    environment.setenv("ACCELERATE_USE_FSDP", "true")
    environment.setenv("FSDP_VERSION", "2")
    environment.setenv("FSDP_OFFLOAD_PARAMS", "false")
    assert launch.take_strategy() == "fsdp"
    # transformers and accelerate would cut the model by themselves.
    assert not [name for name in os.environ if name.startswith(("FSDP_", "ACCELERATE_USE_FSDP"))]


@pytest.mark.parametrize(
    ("variables", "message"),
    [
        ({"ACCELERATE_USE_DEEPSPEED": "true"}, "DeepSpeed, which this trainer does not run under"),
        ({"ACCELERATE_USE_FSDP": "true", "FSDP_VERSION": "1"}, "add --fsdp_version 2"),
        ({"ACCELERATE_USE_FSDP": "true", "FSDP_OFFLOAD_PARAMS": "true"}, "which is not built"),
    ],
)
def test_what_a_launcher_may_not_ask_for_is_refused(variables, message, environment):
    for name, value in variables.items():
        environment.setenv(name, value)
    with pytest.raises(UserError, match=message):
        launch.take_strategy()


def test_ranks_are_those_of_the_launcher(monkeypatch):
    for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK"):
        monkeypatch.delenv(name, raising=False)
    assert (launch.rank(), launch.local_rank(), launch.size()) == (0, 0, 1)
    assert launch.is_main()
    for name, value in {"RANK": "9", "WORLD_SIZE": "16", "LOCAL_RANK": "1"}.items():
        monkeypatch.setenv(name, value)
    assert (launch.rank(), launch.local_rank(), launch.size()) == (9, 1, 16)
    assert not launch.is_main()


@pytest.mark.parametrize(("visible", "seen"), [(None, "0"), ("", ""), ("3", "3"), ("2,3", "2")])
def test_a_process_alone_sees_one_gpu(visible, seen, monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "unset")
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES") if visible is None else monkeypatch.setenv(
        "CUDA_VISIBLE_DEVICES", visible
    )
    launch.see_one_gpu()
    assert os.environ["CUDA_VISIBLE_DEVICES"] == seen


def test_processes_and_strategy_are_part_of_no_key():
    catalog = load_catalog(load_settings())
    recipe = catalog.recipes["quickstart"]
    many = Distributed(processes=8, strategy="fsdp")
    spread = recipe.model_copy(update={"training": recipe.training.model_copy(update={"distributed": many})})
    other = recipe.model_copy(update={"training": recipe.training.model_copy(update={"seed": 7})})
    key = Flow(catalog).checkpoint(recipe).requested
    assert Flow(catalog).checkpoint(spread).requested == key
    assert Flow(catalog).checkpoint(other).requested != key


def test_a_process_that_computes_after_the_others_knows_of_no_launcher_and_has_their_threads(environment):
    place = {
        "RANK": "0",
        "LOCAL_RANK": "0",
        "WORLD_SIZE": "8",
        "LOCAL_WORLD_SIZE": "4",
        "MASTER_ADDR": "a",
        "MASTER_PORT": "1",
        "TORCHELASTIC_RUN_ID": "none",
        "ACCELERATE_USE_FSDP": "true",
        "GROUP_RANK": "0",
    }
    kept = {"HF_HOME": "/models", "LD_LIBRARY_PATH": "/lib", "OMP_WAIT_POLICY": "passive"}
    for name, value in {**place, **kept, "OMP_NUM_THREADS": "2", "CUDA_VISIBLE_DEVICES": "3"}.items():
        environment.setenv(name, value)
    found = launch.environment_of_one()
    assert not place.keys() & found.keys()
    assert kept.items() <= found.items()
    assert (found["OMP_NUM_THREADS"], found["CUDA_VISIBLE_DEVICES"], found["HF_HUB_OFFLINE"]) == ("8", "", "1")
    environment.delenv("RANK")
    assert launch.environment_of_one()["OMP_NUM_THREADS"] == "2"
