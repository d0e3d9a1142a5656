"""A micro-batch that does not fit; the memory is a stand-in with room for so many tokens."""

import pytest
import torch

from rm_workflow.errors import UserError
from rm_workflow.training import memory
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
