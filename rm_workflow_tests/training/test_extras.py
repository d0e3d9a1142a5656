import pytest

from rm_workflow.errors import UserError
from rm_workflow.training import extras


@pytest.fixture
def installed(monkeypatch):
    packages = set()
    monkeypatch.setattr(extras, "find_spec", lambda name: object() if name in packages else None)
    return packages


@pytest.mark.parametrize(
    "optimizer", ["adamw_bnb_8bit", "paged_adamw_32bit", "paged_adamw_8bit", "lion_32bit", "paged_lion_8bit"]
)
def test_an_optimizer_of_bitsandbytes_needs_it(optimizer, installed):
    training = {"optimizer": optimizer, "report_to": []}
    with pytest.raises(UserError, match=f"training.optimizer {optimizer} needs the package bitsandbytes; install it"):
        extras.check(training)
    installed.add("bitsandbytes")
    extras.check(training)


@pytest.mark.parametrize("optimizer", ["adamw_torch", "adamw_torch_fused", "adafactor", "sgd"])
def test_the_other_optimizers_need_nothing(optimizer, installed):
    extras.check({"optimizer": optimizer, "report_to": []})


def test_every_optimizer_of_the_catalogue_is_one_that_transformers_knows():
    from typing import get_args

    from transformers.training_args import OptimizerNames

    from rm_workflow.catalog.models import Optimizer

    assert set(get_args(Optimizer)) <= {name.value for name in OptimizerNames}


def test_a_tracker_that_is_not_installed_is_refused_before_anything_is_loaded(installed):
    training = {"optimizer": "adamw_torch", "report_to": ["tensorboard"]}
    with pytest.raises(UserError, match=r"names tensorboard, whose package is not installed; install it \(pip install"):
        extras.check(training)
    installed.add("tensorboardX")
    extras.check(training)
