import numpy as np
import pytest
import torch
from torch.nn.attention.flex_attention import create_mask, flex_attention
from torch.nn.functional import scaled_dot_product_attention
from transformers import AutoModelForSequenceClassification

from rm_workflow.models import attention
from rm_workflow.models.reward_model import rewards
from rm_workflow.models.segments import Row
from rm_workflow_tests.models.tiny import tiny_config

# A prompt with two replies, a long conversation that shares nothing, and a prompt with a reply of one token. NESTED
# goes on from replies, as solutions that take the same first steps; GPUs do without.
SEGMENTS = [(0, 40, -1), (40, 70, 0), (70, 95, 0), (95, 580, -1), (580, 639, -1), (639, 640, 4)]
NESTED = [(0, 40, -1), (40, 70, 0), (70, 95, 1), (95, 260, 1), (260, 300, 3), (300, 580, 0), (580, 640, -1)]
LENGTH = 640


def attends(query, key, segments):
    """The rule as the module states it, one query and one key at a time."""
    (own,) = [segment for segment in segments if segment[0] <= query < segment[1]]
    begins = [own]
    while begins[-1][2] >= 0:
        begins.append(segments[begins[-1][2]])
    return key <= query and any(begin <= key < end for begin, end, _ in begins)


def dense_mask(segments):
    return torch.tensor([[attends(query, key, segments) for key in range(LENGTH)] for query in range(LENGTH)])


@pytest.fixture(scope="module")
def dense():
    return dense_mask(SEGMENTS)


def tensors():
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(1, 2, LENGTH, 16, generator=generator, requires_grad=True) for _ in range(3)]


def by_segment(query, key, value, segments=SEGMENTS):
    module = torch.nn.Module()
    found, _ = attention.by_segment(module, query, key, value, torch.tensor(segments)[None, None])
    return found.transpose(1, 2)


@pytest.mark.parametrize("segments", [SEGMENTS, NESTED])
def test_attention_by_segment_and_its_gradients_are_those_of_the_dense_mask(segments):
    found, expected, dense = [], [], dense_mask(segments)
    for attend, kept in (
        (lambda q, k, v: by_segment(q, k, v, segments), found),
        (lambda q, k, v: scaled_dot_product_attention(q, k, v, attn_mask=dense), expected),
    ):
        inputs = tensors()
        attended = attend(*inputs)
        (attended**2).sum().backward()
        kept += [attended, *(tensor.grad for tensor in inputs)]
    for ours, theirs in zip(found, expected, strict=True):
        assert (ours - theirs).norm() <= 1e-5 * theirs.norm()


def test_the_block_mask_of_a_gpu_is_the_dense_mask(dense):
    mask = attention.block_mask(torch.tensor(SEGMENTS), LENGTH)
    assert torch.equal(create_mask(mask.mask_mod, 1, 1, LENGTH, LENGTH, device="cpu")[0, 0], dense)


def test_blocks_are_left_out_where_nothing_is_attended_to_and_full_where_all_is(dense):
    mask = attention.block_mask(torch.tensor(SEGMENTS), LENGTH)
    blocks = dense.view(5, 128, 5, 128).transpose(1, 2).flatten(2)
    full = torch.zeros(5, 5, dtype=torch.bool)
    for query, count in enumerate(mask.full_kv_num_blocks[0, 0].tolist()):
        full[query, mask.full_kv_indices[0, 0, query, :count].long()] = True
    assert torch.equal(full, blocks.all(dim=-1))
    assert full.any()
    assert torch.equal(mask.to_dense()[0, 0].bool(), blocks.any(dim=-1))
    assert not blocks.any(dim=-1).all()


@pytest.mark.filterwarnings("ignore:flex_attention called without")
def test_flex_attention_under_the_block_mask_is_attention_by_segment():
    with torch.no_grad():
        query, key, value = (tensor.detach() for tensor in tensors())
        flexible = flex_attention(query, key, value, block_mask=attention.block_mask(torch.tensor(SEGMENTS), LENGTH))
        assert (flexible - by_segment(query, key, value)).abs().max() < 1e-5


def test_a_window_reaches_into_the_prompt_and_no_further(dense):
    inputs = tensors()
    query, key = torch.arange(95)[:, None], torch.arange(95)
    # The second reply counts its distance from the prompt as if it stood right behind it.
    near = query - key - 30 * ((query >= 70) & (key < 40)) < 16
    windowed = attention.by_segment(torch.nn.Module(), *inputs, torch.tensor(SEGMENTS)[None, None], sliding_window=16)[
        0
    ].transpose(1, 2)[:, :, :95]
    expected = scaled_dot_product_attention(*(tensor[:, :, :95] for tensor in inputs), attn_mask=dense[:95, :95] & near)
    assert (windowed - expected).abs().max() < 1e-5


def model_with_one_label():
    config = tiny_config("llama")
    config.num_labels = 1
    torch.manual_seed(0)
    return AutoModelForSequenceClassification.from_config(config)


@pytest.mark.filterwarnings("ignore:flex_attention called without")
def test_a_body_gives_the_same_rewards_through_transformers_flex_attention(monkeypatch):
    monkeypatch.setattr(torch, "compile", lambda function, **options: function)
    ids = np.random.default_rng(0).integers(6, 400, (6, 50), dtype=np.int32)
    ids[:4, :30] = ids[0, :30]
    row = Row()
    ends = torch.tensor([*row.add(ids[:4], 30), *row.add(ids[4:])])
    row.fill(128, 3)
    tensors, model = row.tensors(), model_with_one_label()
    where = (tensors["input_ids"], ends, torch.zeros(6, dtype=torch.int64), tensors["position_ids"])
    with torch.no_grad():
        attention.use_segments(model, "cpu")
        expected = rewards(model, *where, tensors["segments"][None, None])
        attention.use_segments(model, "cuda")
        assert model.config._attn_implementation == "flex_attention"
        found = rewards(model, *where, attention.block_mask(tensors["segments"], tensors["input_ids"].shape[1]))
    assert (found - expected).abs().max() <= 1e-5 * expected.abs().max()


def test_a_saved_model_does_not_name_our_attention(tmp_path):
    model = model_with_one_label()
    attention.use_segments(model, "cpu")
    model.save_pretrained(tmp_path)
    assert attention.SEGMENTS not in (tmp_path / "config.json").read_text("utf-8")
    attention.use_plain(model)
    assert model.config._attn_implementation == "sdpa"
