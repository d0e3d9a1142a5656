"""A tiny base model and the toy task in tokens, made once."""

from pathlib import Path

import pytest

from rm_workflow_tests.training import toy

NUM_PAIRS = 22


@pytest.fixture(scope="session")
def tiny_base(tmp_path_factory) -> Path:
    from rm_workflow_tests.models.tiny import tiny_tokenizer, write_tiny_model

    return write_tiny_model(tmp_path_factory.mktemp("tiny"), tiny_tokenizer(adds_bos=False))


@pytest.fixture(scope="session")
def encoder(tiny_base):
    from rm_workflow.models.tokens import Encoder

    return Encoder.load(tiny_base, toy.TOKENS)


@pytest.fixture(scope="session")
def tokens(tmp_path_factory, encoder) -> Path:
    return toy.write_tokens(tmp_path_factory.mktemp("tokens"), encoder, toy.rows(NUM_PAIRS))


@pytest.fixture(scope="session")
def pairs(tokens):
    from rm_workflow.training.data import load_pairs

    return load_pairs(tokens)
