"""Several processes train what one trains: two of them over gloo on the CPU, started by the launchers that users have.

Tolerances: losses to 2e-5, weights to 3e-5, in float32; the only difference is the order in which floats are added.
Adam divides by the size of a gradient, so where one is all but zero its rounding moves a weight by a share of the
learning rate (3e-3).
"""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoConfig, AutoModelForCausalLM

from rm_workflow.catalog.models import Distributed
from rm_workflow.training import distributed, entry, held_out, launch, run_config, training_state
from rm_workflow.training.layouts import LAYOUTS, StepCollator
from rm_workflow.training.solutions import load_solutions
from rm_workflow_tests.training import toy, toy_solutions
from rm_workflow_tests.training.test_responses import toy_recipe, toy_rows, write_tokens
from rm_workflow_tests.training.test_resuming import metrics_of

LOSS_TOLERANCE = 2e-5
WEIGHT_TOLERANCE = 3e-5
SECONDS = 120

# Steps of 3 pairs, each a micro-batch of its own, and a last step of one pair: no step is even for two processes.
UNEVEN = {"batch_size": 3, "micro_batch_tokens": 1}
LORA = {"r": 4, "alpha": 8}
BLOCK = 150


@dataclass(frozen=True)
class Case:
    """A recipe that two processes train.

    Attributes:
        starts: how the processes hold the model at each start, and the step in which one of them is asked to end.
        precision: bf16 takes a base that is stored in bf16, whose frozen weights stay so.
        base: of ``bases``; None takes the one of the precision.
    """

    num_lines: int
    values: dict
    starts: tuple[tuple[str, int | None], ...] = (("ddp", None),)
    data: str = "pairs"
    objective: str = "bradley_terry"
    precision: str = "fp32"
    base: str | None = None


FSDP = (("fsdp", None),)
CASES = {
    "ddp": Case(3, {**UNEVEN, "learning_rate": 3e-3}, data="few"),
    "fsdp": Case(3, {"learning_rate": 3e-3}, FSDP),
    "fsdp_lora": Case(3, {**UNEVEN, "lora": LORA}, FSDP, "few"),
    # A pair is a micro-batch of its own in both, so that bf16 rounds the same.
    "fsdp_frozen_bf16": Case(3, {**UNEVEN, "lora": LORA}, FSDP, "few", precision="bf16"),
    "kwise": Case(
        4, {"layout": "kwise", "batch_size": 5, "learning_rate": 3e-3, "micro_batch_tokens": 400}, data="prompts"
    ),
    "ranking": Case(
        6, {"batch_size": 2, "epochs": 2, "learning_rate": 3e-3}, data="ratings", objective="plackett_luce"
    ),
    "regression": Case(6, {"lora": LORA, "epochs": 2}, FSDP, data="ratings", objective="regression"),
    "process": Case(8, {"epochs": 2, "learning_rate": 3e-3}, data="solutions", objective="generative_prm"),
    # The vocabulary that a verdict is read from is the embedding too.
    "process_fsdp_tied": Case(
        8, {"epochs": 2, "learning_rate": 3e-3}, FSDP, data="solutions", objective="generative_prm", base="tied"
    ),
    # A line is of two steps, and the states of three starts lie between two lines and between two evaluations.
    "ended": Case(
        7,
        {
            **UNEVEN,
            "epochs": 2,
            "learning_rate": 3e-3,
            "schedule": "cosine",
            "logging_steps": 2,
            "validation": {"share": 0.2, "steps": 3, "metric": "loss"},
        },
        (("ddp", 4), ("fsdp", 7), ("fsdp", None)),
    ),
}
# Two processes alone: their draws are not those of one.
DROPOUT = {**UNEVEN, "lora": {**LORA, "dropout": 0.2}, "epochs": 5, "logging_steps": 4}
DROPOUT_STARTS = {"dropout": (("ddp", None),), "dropout_ended": (("ddp", 15), ("ddp", None))}
# All cases in one start of two processes, because TRL loads slowly; in the last case the second process has no memory
# after the third step. Arguments: folders of the cases.
TRAIN_ALL = """
import gc, json, os, sys
from pathlib import Path
from rm_workflow.training import process
process.set_environment()
import torch
from rm_workflow.training import checkpoint, distributed, entry, reloading
from rm_workflow.training.trainer import PairTrainer
distributed.leave = lambda: None  # the processes meet once
is_second, stop, full = os.environ["RANK"] == "1", None, None
stock = PairTrainer.compute_loss
def compute_loss(self, *arguments, **named):
    if is_second and self.state.global_step + 1 == stop:
        process.ENDING.asked = 15
    if is_second and self.state.global_step == full:
        raise torch.OutOfMemoryError
    return stock(self, *arguments, **named)
PairTrainer.compute_loss = compute_loss
*folders, last = map(Path, sys.argv[1:])
# What the imports have left need not be looked through again by each of accelerate's collections.
gc.freeze()
for folder in folders:
    for strategy, stop in json.loads((folder / "starts.json").read_text("utf-8")):
        os.environ["ACCELERATE_USE_FSDP"] = str(strategy == "fsdp").lower()
        try:
            tokens, base = ((folder / name).resolve() for name in ("tokens", "base"))
            out = folder / "out"
            checkpoint.train(folder / "run_config.json", tokens, base, out, reload=reloading.here)
        except process.Terminated:
            pass
if not is_second:
    print("the last case", file=sys.stderr, flush=True)
stop, full = None, 3
options = {"run-config": "run_config.json", "tokens": "tokens", "base": "base", "out": "out"}
entry._end(entry.main([word for option, name in options.items() for word in (f"--{option}", str(last / name))]))
"""
# The second of two processes is ended by the system after the third step.
LOSE_ONE = """
import os, sys
from rm_workflow.training import entry, process
process.set_environment()
from rm_workflow.training.trainer import PairTrainer
step = PairTrainer.training_step
def failing(self, *arguments):
    if os.environ["RANK"] == "1" and self.state.global_step == 3:
        os.kill(os.getpid(), 9)
    return step(self, *arguments)
PairTrainer.training_step = failing
entry._end(entry.main(sys.argv[1:]))
"""
TORCHRUN = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "--standalone"]
FAILING = {"epochs": 3, "batch_size": 4, "save": {"steps": 2}}
# Starts the launcher as the asset does.
STARTER = """
import os, subprocess, sys
subprocess.Popen([*sys.argv[1:], "--parent-pid", str(os.getpid())]).wait()
"""


def finished(command):
    return subprocess.run(command, capture_output=True, text=True, timeout=SECONDS)


def write_case(folder, config, tokens, base, starts=()):
    (folder / "out").mkdir(parents=True)
    (folder / "tokens").symlink_to(tokens)
    (folder / "base").symlink_to(base)
    (folder / "starts.json").write_text(json.dumps(starts), "utf-8")
    toy.write_run_config(folder / "run_config.json", config)


def write_toy_case(folder, encoder, tokens, base, **values):
    write_case(folder, toy.resolved(toy.recipe(**values), encoder, 22), tokens, base, (("ddp", None),))


def options(folder):
    values = {
        "--run-config": folder / "run_config.json",
        "--tokens": folder / "tokens",
        "--base": folder / "base",
        "--out": folder / "out",
    }
    return [str(part) for option in values.items() for part in option]


def lines(out):
    return [json.loads(line) for line in (out / "metrics.jsonl").read_text("utf-8").splitlines()]


@pytest.fixture(scope="module")
def data(tiny_base, tokens, encoder, tmp_path_factory):
    """For each kind of data a function that resolves a recipe on it, and its tokens."""
    root = tmp_path_factory.mktemp("data")
    rows = toy.rows_of_prompts(4, 3, 2, 4, 2)
    prompts = toy.write_tokens(root / "prompts", encoder, rows)
    raw = [*toy_rows(6), *toy_rows(2, "test.jsonl", 50)]
    ratings, facts = write_tokens(root, tiny_base, raw, {"ratings": ["h", "c"]})

    few = toy.write_tokens(root / "few", encoder, toy.rows(7))

    def of_few(case):
        recipe = toy.recipe(case.objective, logging_steps=1, **case.values)
        return toy.resolved(recipe, encoder, 7, case.precision)

    def of_pairs(case):
        recipe = toy.recipe(case.objective, **{"logging_steps": 1, **case.values})
        if recipe.training.validation is None:
            return toy.resolved(recipe, encoder, 22, case.precision)
        kept = held_out.facts_for_training(tokens, {}, recipe.training.validation)
        return toy.resolved(recipe, encoder, kept["train_per_epoch"], validation=kept["validation"])

    def of_prompts(case):
        return toy.resolved(toy.recipe(case.objective, logging_steps=1, **case.values), encoder, len(rows))

    def of_ratings(case):
        recipe = toy_recipe(case.objective, logging_steps=1, **case.values)
        return run_config.resolve(recipe, facts, "cpu", "fp32")

    solutions, facts_of_solutions = toy_solutions.write_tokens(
        root / "solutions",
        tiny_base,
        [*toy_solutions.solved(11), *toy_solutions.solved(4, "test", 40)],
        "generative_prm",
        max_length=BLOCK,
    )

    def of_solutions(case):
        recipe = toy_solutions.recipe(case.objective, BLOCK, logging_steps=1, batch_size=2, **case.values)
        read = load_solutions(solutions, case.objective)
        return run_config.resolve(recipe, facts_of_solutions, "cpu", case.precision, read)

    return {
        "few": (of_few, few),
        "pairs": (of_pairs, tokens),
        "prompts": (of_prompts, prompts),
        "ratings": (of_ratings, ratings),
        "solutions": (of_solutions, solutions),
    }


@pytest.fixture(scope="module")
def bases(tiny_base, tmp_path_factory):
    """For each precision a base, that of bf16 stored in bf16, and one whose vocabulary is its embedding."""
    torch.manual_seed(0)
    tied = AutoConfig.from_pretrained(str(tiny_base), tie_word_embeddings=True)
    models = {
        "bf16": AutoModelForCausalLM.from_pretrained(str(tiny_base), dtype=torch.bfloat16),
        "tied": AutoModelForCausalLM.from_config(tied),
    }
    found = {"fp32": tiny_base}
    for name, model in models.items():
        found[name] = tmp_path_factory.mktemp(name)
        for file in tiny_base.iterdir():
            shutil.copy(file, found[name])
        model.save_pretrained(str(found[name]))
    return found


@dataclass(frozen=True)
class Trained:
    """The folders of all cases, trained by two processes (``together``) and by one (``alone``)."""

    root: Path
    said: str
    said_in_the_last_case: str
    code: int


@pytest.fixture(scope="module")
def trained(bases, data, encoder, tokens, tmp_path_factory):
    root = tmp_path_factory.mktemp("trained")
    script = root / "train_all.py"
    script.write_text(TRAIN_ALL, "utf-8")
    for name, case in CASES.items():
        resolve, folder = data[case.data]
        for where in ("together", "alone"):
            write_case(root / where / name, resolve(case), folder, bases[case.base or case.precision], case.starts)
    config = toy.resolved(toy.recipe(**DROPOUT), encoder, 22)
    for name, starts in DROPOUT_STARTS.items():
        write_case(root / "together" / name, config, tokens, bases["fp32"], starts)
    write_toy_case(root / "together" / "failing", encoder, tokens, bases["fp32"], **FAILING)
    command = launch.command(Distributed(processes=2), [])
    command[command.index("-m", 3) : command.index("-m", 3) + 2] = [str(script)]
    folders = [str(root / "together" / name) for name in (*CASES, *DROPOUT_STARTS, "failing")]
    with subprocess.Popen([*command, *folders], stderr=subprocess.PIPE, text=True) as launcher:
        try:
            # Meanwhile, since two processes often wait for each other.
            for name in CASES:
                folder = root / "alone" / name
                toy.train(folder / "run_config.json", folder / "tokens", (folder / "base").resolve(), folder / "out")
            _, told = launcher.communicate(timeout=SECONDS)
        finally:
            launcher.kill()
    said, _, of_last = told.partition("the last case\n")
    assert of_last, told
    return Trained(root, said, of_last, launcher.returncode)


@pytest.mark.parametrize("name", CASES)
def test_two_processes_take_the_steps_of_one(name, trained):
    root = trained.root
    together, alone = root / "together" / name / "out", root / "alone" / name / "out"
    ours, theirs = lines(together), lines(alone)
    assert len(ours) == len(theirs) == CASES[name].num_lines
    for our, their in zip(ours, theirs, strict=True):
        assert our["loss"] == pytest.approx(their["loss"], abs=LOSS_TOLERANCE, rel=LOSS_TOLERANCE)
        assert our["grad_norm"] == pytest.approx(their["grad_norm"], rel=1e-3)
        for exact in ("step", "epoch", "accuracy", "pairs", "tokens", "total_pairs", "sources"):
            assert our[exact] == their[exact], exact
        assert 0 < our["useful_share"] <= 1
        steps = our["steps_per_second"] * our["seconds"]
        assert steps == pytest.approx(their["steps_per_second"] * their["seconds"])
    saved, reference = (load_file(out / "model" / "model.safetensors") for out in (together, alone))
    assert saved.keys() == reference.keys()
    for weight, value in reference.items():
        assert (saved[weight] - value).abs().max() <= WEIGHT_TOLERANCE, weight


@pytest.mark.parametrize("name", CASES)
def test_the_result_says_how_it_was_trained_and_was_proven_by_a_reload(name, trained):
    root = trained.root
    result, alone = (
        json.loads((root / where / name / "out" / "result.json").read_text("utf-8")) for where in ("together", "alone")
    )
    assert (result["num_processes"], result["strategy"]) == (2, CASES[name].starts[-1][0])
    assert (alone["num_processes"], alone["strategy"]) == (1, "none")
    assert result["reload"]["passed"]
    assert result["reload"]["max_difference"] < 1e-5
    for same in ("num_steps", "num_pairs", "num_tokens", "num_parameters", "num_trainable_parameters", "layout"):
        assert result[same] == alone[same], same
    assert result.get("attributes") == alone.get("attributes")
    for part in ("adapter", "attributes.safetensors", "validation.jsonl"):
        assert (root / "together" / name / "out" / part).exists() == (root / "alone" / name / "out" / part).exists()


def test_processes_go_on_from_a_state_however_they_held_the_model(trained):
    root, said = trained.root, trained.said
    result, alone = (
        json.loads((root / where / "ended" / "out" / "result.json").read_text("utf-8"))
        for where in ("together", "alone")
    )
    assert result["resumed_from"] == [3, 6]
    assert said.count("resuming after step") == 3
    ours, theirs = (
        [json.loads(line) for line in (root / where / "ended" / "out" / "validation.jsonl").read_text().splitlines()]
        for where in ("together", "alone")
    )
    assert [row["step"] for row in ours] == [3, 6, 9, 12]
    for our, their in zip(ours, theirs, strict=True):
        assert our["loss"] == pytest.approx(their["loss"], abs=LOSS_TOLERANCE)
        for exact in ("step", "accuracy", "pairs", "sources", "is_best"):
            assert our[exact] == their[exact], exact
    assert result["validation"]["step"] == alone["validation"]["step"]


def test_a_run_that_was_ended_equals_one_that_was_not_bit_for_bit(trained):
    out, whole = (trained.root / "together" / name / "out" for name in ("dropout_ended", "dropout"))
    assert json.loads((out / "result.json").read_text("utf-8"))["resumed_from"] == [14]
    assert metrics_of(out) == metrics_of(whole)
    saved, reference = (load_file(folder / "model" / "model.safetensors") for folder in (out, whole))
    assert all(torch.equal(saved[name], reference[name]) for name in reference)


def test_one_of_the_processes_speaks(trained):
    said = trained.said
    starts = [*(case.starts for case in CASES.values()), *DROPOUT_STARTS.values()]
    assert said.count("training toy: ") == sum(map(len, starts))
    assert said.count("saved and loaded again") == len(starts)
    known = ("training", "layout", "step", "saved", "resuming", "validation", "the weights after")
    others = [line for line in said.splitlines() if not line.startswith(known) and "held out" not in line]
    assert not others


def errors_in(said):
    return [line for line in said.splitlines() if line.startswith(("error: ", "ended by "))]


def test_where_one_process_has_no_memory_all_end_with_its_sentence_and_the_state_to_go_on_from(trained):
    assert trained.code == 1
    (error,) = errors_in(trained.said_in_the_last_case)
    assert re.fullmatch(
        r"error: out of memory in a micro-batch of \d+ tokens; set training.micro_batch_tokens to \d+ or less "
        r"\(it changes no result\); the same command goes on after step 2",
        error,
    )
    # That of the launcher.
    assert trained.said_in_the_last_case.count("Traceback") == 1, trained.said_in_the_last_case
    out = trained.root / "together" / "failing" / "out"
    assert [state.step for state in training_state.kept_states(out / "states", 9)] == [2]
    assert not (out / "result.json").exists()


@pytest.mark.slow
def test_a_signal_to_the_launcher_ends_all_processes_with_one_state_from_which_its_command_goes_on(
    tiny_base, encoder, tokens, tmp_path
):
    folder = tmp_path / "dropout"
    write_toy_case(folder, encoder, tokens, tiny_base, **DROPOUT)
    command = launch.command(Distributed(processes=2), options(folder))
    launcher = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    try:
        wait_for(lambda: (folder / "out" / "metrics.jsonl").is_file() and len(lines(folder / "out")) > 2)
        launcher.terminate()
        _, said = launcher.communicate(timeout=SECONDS)
    finally:
        launcher.kill()
        wait_for(lambda: not trainers_of(folder))
    (state,) = (folder / "out" / "states").glob("step_*")
    step = int(state.name.removeprefix("step_"))
    assert said.count("ended by SIGTERM") == 1
    assert f"ended by SIGTERM; nothing is published; the same command goes on after step {step}" in said
    assert {path.name for path in state.glob("rng_*")} == {"rng_0.json", "rng_1.json"}
    assert not (folder / "out" / "result.json").exists()
    done = finished(command)
    assert done.returncode == 0, done.stderr
    assert json.loads((folder / "out" / "result.json").read_text("utf-8"))["resumed_from"] == [step]


@pytest.mark.slow
def test_where_the_system_ends_one_process_the_others_end_with_a_sentence(tiny_base, tokens, encoder, tmp_path):
    write_toy_case(tmp_path / "case", encoder, tokens, tiny_base, **FAILING)
    script = tmp_path / "lose_one.py"
    script.write_text(LOSE_ONE, "utf-8")
    done = finished([*TORCHRUN, str(script), *options(tmp_path / "case")])
    assert done.returncode == 1
    (error,) = errors_in(done.stderr)
    before, after = entry.LOST.split("{}")
    assert error.startswith(f"error: {before}")
    assert error.endswith(f"{after}; the same command goes on after step 2")
    assert not (tmp_path / "case" / "out" / "result.json").exists()


@pytest.mark.slow
def test_all_processes_end_with_the_step_that_asked_for_them(tiny_base, tokens, encoder, tmp_path):
    folder = tmp_path / "case"
    write_toy_case(folder, encoder, tokens, tiny_base, epochs=1000)
    command = launch.command(Distributed(processes=2, strategy="fsdp"), options(folder))
    starter = subprocess.Popen([sys.executable, "-c", STARTER, *command])
    try:
        wait_for(lambda: (folder / "out" / "metrics.jsonl").is_file())
        assert trainers_of(folder)
        starter.kill()
        starter.wait()
        wait_for(lambda: not trainers_of(folder), seconds=40)
    finally:
        starter.kill()
        for pid in trainers_of(folder):
            os.kill(pid, signal.SIGKILL)
    assert not (folder / "out" / "result.json").exists()


def trainers_of(folder):
    """Return the pids of the launcher and of all trainers that write to a folder."""
    found = []
    for file in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            words = file.read_bytes().decode().split("\0")
        except (FileNotFoundError, ProcessLookupError):
            continue
        if str(folder / "out") in words and "-c" not in words:
            found.append(int(file.parent.name))
    return found


def wait_for(condition, seconds=90.0):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "waited too long"
        time.sleep(0.1)


STEP = (3, 20, 1, 7, 8, 14, 11, 2, 5, 16, 7)


def shares_of(whole, num_processes, positions):
    rows = [{"pair": position} for position in positions]
    shares = [distributed.ShareCollator(whole, rank, num_processes)(rows) for rank in range(num_processes)]
    return [share["micro_batches"] for share in shares]


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("budget", [1, 100, 200, 4096])
@pytest.mark.parametrize("num_processes", [2, 3, 8])
def test_the_shares_of_all_processes_are_the_step_in_equal_numbers_of_passes(
    layout, budget, num_processes, pairs, encoder
):
    whole = StepCollator(pairs, layout, budget, encoder.pad_token_id)
    passes = shares_of(whole, num_processes, STEP)
    needed = -(-len(list(whole.micro_batches(STEP))) // num_processes)
    assert {len(batches) for batches in passes} == {needed}
    counted = [batch for batches in passes for batch in batches if distributed.FILLER not in batch]
    fillers = [batch for batches in passes for batch in batches if distributed.FILLER in batch]
    seen = sorted(position for batch in counted for position in batch["pair"].tolist())
    assert seen == sorted(STEP)
    assert all(batch["weight"].sum() > 0 for batch in counted)
    assert all(batch["weight"].abs().sum() == 0 for batch in fillers)
    for batch in counted:
        assert batch["input_ids"].numel() <= budget or len(set(batch["pair"].tolist())) == 1


@pytest.mark.parametrize("layout", LAYOUTS)
def test_the_cost_of_a_share_is_what_it_computes(layout, pairs, encoder):
    whole = StepCollator(pairs, layout, 200, encoder.pad_token_id)
    for run in whole.cut(whole.units(STEP), 200):
        assert whole.cost(run) == whole.lay_out(run)["input_ids"].numel()


def test_a_step_is_cut_finer_rather_than_leaving_processes_idle(pairs, encoder):
    whole = StepCollator(pairs, "grouped", 4096, encoder.pad_token_id)
    assert len(list(whole.micro_batches(range(22)))) == 1
    costs = [whole.cost(run) for run in distributed.evened(whole, range(22), 4)]
    assert len(costs) == 4
    assert max(costs) <= 1.3 * sum(costs) / 4


def test_shares_are_balanced_by_tokens_and_by_number():
    assert distributed.balanced([5, 1, 1, 1, 1, 5], 2) == [[0, 1, 3], [5, 2, 4]]
    assert distributed.balanced([9, 1, 1, 1], 2) == [[0, 3], [1, 2]]
    assert distributed.balanced([4], 3) == [[0], [], []]
