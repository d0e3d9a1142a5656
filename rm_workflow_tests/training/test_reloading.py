"""The saved files, loaded by a process that knows nothing of the trainer's."""

import gc
import os
import subprocess
import weakref

import pytest
import torch
from safetensors.torch import load_file, save_file

from rm_workflow.errors import UserError
from rm_workflow.models.reward_model import load_reward_model
from rm_workflow.training import checkpoint, fresh_load, process, reloading, saving
from rm_workflow.training.fresh_load import Load
from rm_workflow.training.layouts import padded_batch
from rm_workflow.training.trainer import add_lora
from rm_workflow_tests.training import toy

LORA = {"r": 4, "alpha": 8}
SIGN_AND_HIGHEST_EXPONENT_BIT = 0xC0


@pytest.fixture
def probe(pairs, encoder):
    return padded_batch(pairs, range(4), encoder.pad_token_id)


def flip_head(file):
    """Flip two bits of the first weight of the saved head."""
    weights = load_file(file)
    changed = weights["score.weight"].view(torch.uint8).flatten()
    changed[3] ^= SIGN_AND_HIGHEST_EXPONENT_BIT
    save_file(weights, file, {"format": "pt"})


def cut(file):
    file.write_bytes(file.read_bytes()[:-4])


def test_a_fresh_process_loads_all_kinds_and_sees_nothing_that_this_one_changed(
    tiny_base, encoder, probe, tmp_path, monkeypatch
):
    from transformers.models.llama.modeling_llama import LlamaRMSNorm

    model = add_lora(
        load_reward_model(tiny_base, 0.5, 0, encoder.pad_token_id),
        {**LORA, "dropout": 0.0, "target_modules": "all-linear"},
        str(tiny_base),
    )
    saving.save(model, encoder, "float32", tmp_path)
    folder = str(tmp_path / "model")
    adapter = Load(str(tiny_base), "float32", str(tmp_path / "adapter"), encoder.pad_token_id)
    loads = [Load(folder, "float32"), Load(folder, "bfloat16"), adapter]
    honest = reloading.here(loads, probe, print)
    monkeypatch.setattr(LlamaRMSNorm, "forward", lambda self, hidden: 0 * hidden)
    # A launcher's word that this is one of two processes: whoever believed it would wait for the other.
    for name, value in {"RANK": "1", "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "1"}.items():
        monkeypatch.setenv(name, value)
    patched = reloading.here(loads[:1], probe, print)
    found = reloading.in_a_fresh_process(loads, probe, print)
    assert not torch.allclose(patched[0].rewards, honest[0].rewards, atol=1e-3)
    for one, other in zip(found, honest, strict=True):
        assert torch.allclose(one.rewards, other.rewards, atol=1e-6)
        assert one.missing == other.missing == []
    assert not torch.equal(found[0].rewards, found[1].rewards)


@pytest.mark.parametrize(
    ("damage", "told"),
    [
        (flip_head, "the saved model gives other rewards than the trained model: .*; nothing is published"),
        (cut, "cannot be loaded by plain transformers: .*model .float32.: SafetensorError: .*; nothing is published"),
    ],
)
def test_a_checkpoint_that_is_damaged_after_saving_fails(
    damage, told, tiny_base, encoder, tokens, tmp_path, monkeypatch
):
    save = saving.save

    def save_and_damage(*arguments):
        save(*arguments)
        damage(tmp_path / "out" / "model" / "model.safetensors")

    monkeypatch.setattr(saving, "save", save_and_damage)
    config = toy.write_run_config(tmp_path / "r.json", toy.resolved(toy.recipe(), encoder, 22))
    with pytest.raises(UserError, match=told) as raised:
        checkpoint.train(config, tokens, tiny_base, tmp_path / "out")
    assert "\n" not in str(raised.value)
    assert not (tmp_path / "out" / "result.json").exists()


@pytest.mark.parametrize("lora", [None, LORA], ids=["full", "lora"])
def test_the_trained_model_and_its_optimizer_are_gone_before_another_is_loaded(
    lora, tiny_base, encoder, tokens, tmp_path, monkeypatch
):
    save, run, trained, left = saving.save, checkpoint.run_to_the_end, [], []

    def remembering(model, *rest):
        trained.extend(weakref.ref(part) for part in model.modules())
        save(model, *rest)

    def running(trainer):
        run(trainer)
        trained.extend(weakref.ref(part) for part in (trainer, trainer.optimizer.optimizer))

    def reload(*arguments):
        left.extend(part() for part in trained)
        return reloading.here(*arguments)

    monkeypatch.setattr(saving, "save", remembering)
    monkeypatch.setattr(checkpoint, "run_to_the_end", running)
    (tmp_path / "out").mkdir()
    config = toy.write_run_config(tmp_path / "r.json", toy.resolved(toy.recipe(lora=lora), encoder, 22))
    # Objects that refer to each other in a circle would be left until Python happens to collect them.
    gc.disable()
    try:
        checkpoint.train(config, tokens, tiny_base, tmp_path / "out", reload=reload)
    finally:
        gc.enable()
    assert len(left) > 10
    assert not any(part is not None for part in left)


def test_a_signal_ends_the_process_that_loads_and_waiting_is_said(tiny_base, probe, monkeypatch):
    started = []

    class Child(subprocess.Popen):
        def __init__(self, *arguments, **named):
            super().__init__(*arguments, **named)
            started.append(self)

    def say(line):
        told.append(line)
        os.kill(os.getpid(), process.signal.SIGTERM)

    told = []
    monkeypatch.setattr(reloading.subprocess, "Popen", Child)
    monkeypatch.setattr(reloading, "SAY_SECONDS", 0.1)
    handler = process.signal.signal(process.signal.SIGTERM, _terminated)
    try:
        with pytest.raises(process.Terminated):
            reloading.in_a_fresh_process([Load(str(tiny_base), "float32")], probe, say)
    finally:
        process.signal.signal(process.signal.SIGTERM, handler)
    assert told == ["the saved files are being loaded and proved in a fresh process: 0 min so far"]
    (child,) = started
    assert child.returncode == -process.signal.SIGKILL


def _terminated(number, frame):
    raise process.Terminated(number)


@pytest.mark.parametrize(
    ("code", "output", "told"),
    [
        (-9, "", "the process that loads the saved files was ended by signal SIGKILL; nothing is published"),
        (1, "a\nImportError: no torch\n", "ended with code 1, its last line: ImportError: no torch; nothing"),
    ],
)
def test_a_process_that_ends_before_it_has_loaded_is_told_in_one_sentence(code, output, told, tmp_path):
    (tmp_path / reloading.OUTPUT).write_text(output, "utf-8")
    assert told in reloading._reason(tmp_path, code)


def test_a_weight_that_the_files_lack_is_named(tiny_base, probe):
    # A causal model has no reward head.
    (found,) = reloading.here([Load(str(tiny_base), "float32")], {**probe}, print)
    assert found.missing == ["score.weight"]
    assert isinstance(found, fresh_load.Loaded)
