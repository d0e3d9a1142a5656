import pytest
import torch

from rm_workflow.models.reward_model import load_reward_model
from rm_workflow.training import speed
from rm_workflow.training.trainer import add_lora


def test_flops_of_a_token_are_six_for_each_weight_of_the_body(tiny_base):
    model = load_reward_model(tiny_base)
    counted = {name: p.numel() for name, p in model.named_parameters() if "embed" not in name and "score" not in name}
    assert speed.flops_per_token(model) == 6 * sum(counted.values())
    for name, parameter in model.named_parameters():
        parameter.requires_grad = "layers.0" in name
    first = sum(number for name, number in counted.items() if "layers.0" in name)
    assert speed.flops_per_token(model) == 4 * sum(counted.values()) + 2 * first


def test_the_formula_agrees_with_counted_flops(tiny_base):
    from torch.utils.flop_counter import FlopCounterMode

    model = load_reward_model(tiny_base)
    tokens = torch.randint(4, 300, (2, 16))
    with FlopCounterMode(display=False) as counter:
        model.model(tokens).last_hidden_state.sum().backward()
    counted = counter.get_total_flops() / tokens.numel()
    # The counter also has attention's own products, which the formula leaves out, and not the gradient of the first
    # layer's input, which nothing needs.
    assert speed.flops_per_token(model) == pytest.approx(counted, rel=0.25)


def test_lora_costs_less_than_full_tuning(tiny_base):
    full = speed.flops_per_token(load_reward_model(tiny_base))
    lora = {"r": 2, "alpha": 4, "dropout": 0.0, "target_modules": "all-linear"}
    assert 4 / 6 * full < speed.flops_per_token(add_lora(load_reward_model(tiny_base), lora, "base")) < full


@pytest.mark.parametrize(
    ("name", "tflops"),
    [("NVIDIA H200", 989), ("NVIDIA A100-SXM4-80GB", 312), ("NVIDIA GeForce RTX 5090", 209.5), ("Tesla T4", None)],
)
def test_the_peak_is_that_of_the_device_or_unknown(name, tflops):
    assert speed.peak_flops_of(name) == (tflops and tflops * 1e12)
    assert speed.peak_flops("cpu", "bf16") is None
    assert speed.peak_flops("cuda", "fp32") is None


def test_mfu_is_the_share_of_the_peak():
    # 7e9 parameters at 10,000 tokens/s of an H100: 6 * 7e9 * 1e4 / 989e12
    assert speed.Speed(6 * 7e9, 989e12, "cuda").mfu(10_000) == pytest.approx(0.4247, abs=1e-4)
    assert speed.Speed(6 * 7e9, None, "cpu").mfu(10_000) is None
