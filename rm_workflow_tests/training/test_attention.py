import pytest
import torch
from torch.nn.attention.flex_attention import create_mask, flex_attention
from torch.nn.functional import scaled_dot_product_attention
from transformers import AutoModelForSequenceClassification

from rm_workflow.models.reward_model import rewards
from rm_workflow.training import attention
from rm_workflow.training.data import load_pairs
from rm_workflow.training.layouts import bundles, one_row
from rm_workflow_tests.models.tiny import tiny_config
from rm_workflow_tests.training import toy

# A prompt with two replies, a long conversation that shares nothing, and a prompt with a reply of one token.
SEGMENTS = [(0, 40, -1), (40, 70, 0), (70, 95, 0), (95, 580, -1), (580, 639, -1), (639, 640, 4)]
LENGTH = 640


def attends(query, key):
    """The rule as the module states it, one query and one key at a time."""
    (own,) = [segment for segment in SEGMENTS if segment[0] <= query < segment[1]]
    begins = [own] if own[2] < 0 else [own, SEGMENTS[own[2]]]
    return key <= query and any(begin <= key < end for begin, end, _ in begins)


@pytest.fixture(scope="module")
def dense():
    return torch.tensor([[attends(query, key) for key in range(LENGTH)] for query in range(LENGTH)])


def tensors():
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(1, 2, LENGTH, 16, generator=generator, requires_grad=True) for _ in range(3)]


def by_segment(query, key, value):
    module = torch.nn.Module()
    found, _ = attention.by_segment(module, query, key, value, torch.tensor(SEGMENTS)[None, None])
    return found.transpose(1, 2)


def test_attention_by_segment_and_its_gradients_are_those_of_the_dense_mask(dense):
    found, expected = [], []
    for attend, kept in (
        (by_segment, found),
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


@pytest.mark.filterwarnings("ignore:flex_attention called without")
def test_a_body_gives_the_same_rewards_through_transformers_flex_attention(encoder, tmp_path, monkeypatch):
    monkeypatch.setattr(torch, "compile", lambda function, **options: function)
    pairs = load_pairs(toy.write_tokens(tmp_path, encoder, toy.rows_of_prompts(4, 3)))
    row = one_row(pairs, list(bundles(pairs, range(len(pairs)), "kwise", 10**6)), encoder.pad_token_id, 128)
    config = tiny_config("llama", len(encoder.tokenizer))
    config.num_labels = 1
    torch.manual_seed(0)
    model = AutoModelForSequenceClassification.from_config(config)
    where = (row["input_ids"], row["end_index"], row["row_index"], row["position_ids"])
    with torch.no_grad():
        attention.use_segments(model, "cpu")
        expected = rewards(model, *where, row["segments"][None, None])
        attention.use_segments(model, "cuda")
        assert model.config._attn_implementation == "flex_attention"
        found = rewards(model, *where, attention.block_mask(row["segments"], row["input_ids"].shape[1]))
    assert (found - expected).abs().max() <= 1e-5 * expected.abs().max()


def test_a_saved_model_does_not_name_our_attention(encoder, tmp_path):
    config = tiny_config("llama", len(encoder.tokenizer))
    model = AutoModelForSequenceClassification.from_config(config)
    attention.use_segments(model, "cpu")
    model.save_pretrained(tmp_path)
    assert attention.SEGMENTS not in (tmp_path / "config.json").read_text("utf-8")
    attention.use_plain(model)
    assert model.config._attn_implementation == "sdpa"
