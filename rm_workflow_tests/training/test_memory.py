"""A micro-batch that does not fit; the memory is a stand-in with room for so many tokens."""

import pytest
import torch
from safetensors.torch import load_file

from rm_workflow.catalog.models import Validation
from rm_workflow.errors import UserError
from rm_workflow.training import checkpoint, held_out, memory, proving
from rm_workflow.training.trainer import PairTrainer
from rm_workflow_tests.training import toy
from rm_workflow_tests.training.test_trainer import make_trainer


def with_room_for(trainer, tokens, error=torch.OutOfMemoryError):
    stock, tried = trainer.pair_rewards, []

    def pair_rewards(model, inputs):
        tried.append(inputs["input_ids"].numel())
        if tried[-1] > tokens:
            raise error("DefaultCPUAllocator: can't allocate memory: you tried to allocate 8 bytes")
        return stock(model, inputs)

    trainer.pair_rewards = pair_rewards
    return tried


@pytest.mark.parametrize("error", [torch.OutOfMemoryError, RuntimeError])
def test_the_budget_that_was_seen_to_fit_is_suggested(error, tiny_base, encoder, pairs, tmp_path):
    trainer = make_trainer(tiny_base, encoder, pairs, tmp_path, micro_batch_tokens=4096, layout="grouped")
    tried = with_room_for(trainer, 200, error)
    with pytest.raises(UserError, match=r"out of memory in a micro-batch of (\d+) tokens; set training") as raised:
        trainer.train()
    suggested = int(str(raised.value).split("micro_batch_tokens to ")[1].split(",")[0])
    assert suggested <= 200 < 2 * suggested
    assert tried[0] > 200
    # With what is suggested the same run has room.
    again = make_trainer(tiny_base, encoder, pairs, tmp_path, micro_batch_tokens=suggested, layout="grouped")
    with_room_for(again, 200, error)
    again.train()
    assert again.state.global_step == 3


def test_where_one_pair_does_not_fit_other_means_are_named(tiny_base, encoder, pairs, tmp_path):
    trainer = make_trainer(tiny_base, encoder, pairs, tmp_path, micro_batch_tokens=4096)
    with_room_for(trainer, 10)
    with pytest.raises(UserError, match=r"even with one pair at a time \(up to \d+ tokens\); lower tokens.max_length"):
        trainer.train()


@pytest.mark.parametrize("error", [torch.OutOfMemoryError, MemoryError])
@pytest.mark.parametrize("owner", [torch.optim.AdamW, PairTrainer, proving], ids=["optimizer", "validate", "proof"])
def test_memory_that_ends_anywhere_else_is_told_in_one_sentence(
    owner, error, tiny_base, encoder, tokens, tmp_path, monkeypatch
):
    name = {torch.optim.AdamW: "step", PairTrainer: "validate", proving: "prove_layout"}[owner]

    def fail(*arguments, **named):
        raise error("no room")

    monkeypatch.setattr(checkpoint if owner is proving else owner, name, fail)
    validation = {"share": 0.2, "steps": 1}
    facts = held_out.facts_for_training(tokens, {}, Validation(**validation))
    recipe = toy.recipe(validation=validation)
    config = toy.resolved(recipe, encoder, facts["train_per_epoch"], validation=facts["validation"])
    run_config, out = toy.write_run_config(tmp_path / "r.json", config), tmp_path / "out"
    out.mkdir()
    with pytest.raises(UserError, match=r"out of memory: weights, gradients .* do not fit .*; train a LoRA"):
        toy.train(run_config, tokens, tiny_base, out)


def test_a_micro_batch_that_does_not_fit_in_a_later_step_loses_no_step(tiny_base, encoder, pairs, tmp_path):
    trainer = make_trainer(tiny_base, encoder, pairs, tmp_path, micro_batch_tokens=4096, layout="grouped", epochs=3)
    stock, weights = trainer.training_step, {}

    def training_step(model, *rest):
        if trainer.state.global_step == 2:
            weights.update({name: tensor.clone() for name, tensor in model.state_dict().items()})
            with_room_for(trainer, 200)
        return stock(model, *rest)

    trainer.training_step = training_step
    told = r"micro_batch_tokens to \d+, .*; the same command goes on after step 2$"
    with pytest.raises(UserError, match=told), memory.told_in_one_sentence(tmp_path):
        checkpoint.run_to_the_end(trainer)
    stored = load_file(tmp_path / "states/step_00000002/weights.safetensors")
    assert stored.keys() == weights.keys()
    assert all(torch.equal(stored[name], weights[name]) for name in stored)


def test_weights_that_an_optimizer_may_have_moved_in_part_are_not_written(
    tiny_base, encoder, pairs, tmp_path, monkeypatch
):
    trainer = make_trainer(tiny_base, encoder, pairs, tmp_path, epochs=3)
    stock = torch.optim.AdamW.step

    def step(optimizer, *arguments):
        if trainer.state.global_step == 2:
            raise torch.OutOfMemoryError
        return stock(optimizer, *arguments)

    monkeypatch.setattr(torch.optim.AdamW, "step", step)
    with pytest.raises(torch.OutOfMemoryError):
        checkpoint.run_to_the_end(trainer)
    assert not (tmp_path / "states").exists()


def test_other_errors_are_not_taken_for_a_lack_of_memory(tiny_base, encoder, pairs, tmp_path):
    trainer = make_trainer(tiny_base, encoder, pairs, tmp_path)

    def broken(model, inputs):
        raise RuntimeError("shapes do not fit")

    trainer.pair_rewards = broken
    with pytest.raises(RuntimeError, match="shapes do not fit"):
        trainer.train()


def test_the_tensors_of_the_failed_step_are_gone_before_a_smaller_one_is_tried():
    import weakref

    held = []

    def compute():
        filled = torch.ones(3)
        held.append(weakref.ref(filled))
        raise torch.OutOfMemoryError

    class Trainer:
        pass

    def advice(trainer, batch):
        assert held[0]() is None
        return "advice"

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(memory, "advice", advice)
        with pytest.raises(UserError, match="advice"):
            memory.guarded(Trainer(), {}, compute)
