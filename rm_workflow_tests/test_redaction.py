"""No secret is shown, wherever in a text it stands."""

import re
import time

import pytest

from rm_workflow.errors import UserError
from rm_workflow.redaction import redact

TOKEN = "hf_" + "Canary0" * 5


@pytest.mark.parametrize(
    "text",
    [
        f"{TOKEN}",
        f"Authorization: Bearer {TOKEN}, refused",
        f"https://example.org/x?token={TOKEN}&y=1",
        f"'{TOKEN}'",
    ],
)
def test_a_token_of_the_hub_is_known_by_its_form(text: str):
    assert "Canary" not in redact(text)
    assert "***" in redact(text)


@pytest.mark.parametrize(
    ("text", "masked"),
    [
        ("Authorization: Bearer sk-canary0", "Authorization: Bearer ***"),
        ("{'authorization': 'bearer eyJh.canary.x-y_z='}", "{'authorization': 'bearer ***'}"),
        ("key sk-proj-canary_0123456789abc.", "key ***."),
        ("github_pat_11CANARY0_canary0123456789", "***"),
        ("as ghp_canary0canary0canary0", "as ***"),
        ("https://example.org/x?token=canary&y=1", "https://example.org/x?token=***&y=1"),
        ("x?y=1&X-Amz-Signature=canary#z", "x?y=1&X-Amz-Signature=***#z"),
        ("x?X-Amz-Security-Token=canary%2F/+==", "x?X-Amz-Security-Token=***"),
        ("x?sv=2&sig=canary x?api_key=canary", "x?sv=2&sig=*** x?api_key=***"),
    ],
)
def test_a_secret_is_known_by_its_form_or_by_what_stands_before_it(text: str, masked: str):
    assert redact(text) == masked
    assert redact(masked) == masked


def test_a_password_in_an_address_is_masked_and_the_address_stays():
    assert redact("at https://me:sesame@mirror.example/x") == "at https://***@mirror.example/x"


@pytest.mark.parametrize(
    ("address", "masked"),
    [
        ("redis://:sesame@host", "redis://***@host"),
        ("https://u:p/sesame@host/x", "https://***@host/x"),
        ("https://u:p@sesame@host/x", "https://***@host/x"),
        ("https://ghp_sesame@host/x", "https://***@host/x"),
        ("https://host:8080/a@b", "https://host:8080/a@b"),
        ("https://host/a:b@c", "https://host/a:b@c"),
        ("https://u:sesame@[::1]:80/x", "https://***@[::1]:80/x"),
        ("https://u:sesame@@host/x", "https://***@host/x"),
        ("https://sesame@sesame@host/x", "https://***@host/x"),
        ("https://host/x,https://u:sesame@host/x", "https://host/x,https://***@host/x"),
        ("://@host", "://@host"),
    ],
)
def test_a_secret_in_an_address_is_masked_in_every_form(address: str, masked: str):
    assert redact(f"at {address}, twice {address}") == f"at {masked}, twice {masked}"


REPEATED = [
    "://a:", "://", "://a", "://a/", "://a@", "://a:b@", "://a:b@c/", "://a:1", "://a:1/", "://a:@", "@://a:b", "://:1",
    "hf_", "hf_a", "a:", "@", "1", "sk-", "sk-a ", "github_pat_", "ghp_a", "bearer ", "Bearer a", "Bearer\t", "?token",
    "?a=", "&token=", "token", "?", "?a.", "x-sig",
]  # fmt: skip


@pytest.mark.parametrize("before", ["", "://", "://a:b@@", "?a", "Bearer "])
def test_the_time_grows_with_the_length_whatever_is_repeated(before: str):
    texts = [before + (part * 60_000)[:60_000] for part in REPEATED]
    assert sum(map(len, texts)) > 1_000_000
    began = time.process_time()
    for text in texts:
        redact(text)
    assert time.process_time() - began < 1


def test_of_a_long_sentence_beginning_and_end_are_kept_and_a_secret_in_it_is_masked_first():
    sentence = str(UserError(f"rows.jsonl: line 7: field x is {'://a:' * 40_000} {(TOKEN + ' ') * 9}; remove it"))
    assert sentence.startswith("rows.jsonl: line 7: field x is ")
    assert sentence.endswith("; remove it")
    assert re.search(r" \.\.\. 19\d,\d\d\d characters \.\.\. ", sentence)
    assert len(sentence) < 2_000
    assert "Canary" not in sentence
    assert str(UserError(sentence)) == sentence


@pytest.mark.parametrize(
    "name", ["HF_TOKEN", "WANDB_API_KEY", "AWS_SECRET_ACCESS_KEY", "DB_PASSWORD", "my_token", "GOOGLE_CREDENTIALS"]
)
def test_the_value_of_a_variable_named_like_a_secret_is_masked(monkeypatch: pytest.MonkeyPatch, name: str):
    monkeypatch.setenv(name, "canary-0123456789")
    assert redact("sent canary-0123456789.") == "sent ***."
    assert str(UserError("sent canary-0123456789.")) == "sent ***."


def test_a_longer_secret_is_masked_whole(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("A_TOKEN", "canary-0123")
    monkeypatch.setenv("B_TOKEN", "canary-0123-and-more")
    assert redact("canary-0123-and-more") == "***"


def test_ordinary_text_stays(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("A_TOKEN", "short")
    monkeypatch.setenv("TOKENIZERS_PARALLELISM", "false-but-long-enough")
    text = "a short text, false-but-long-enough, hf_datasets, https://example.org/a@b, user: name@example.org"
    text += ", a bearer of bad news, Bearer authentication failed, x?page=2&sort=token, task-force, sk-learn"
    assert redact(text) == text
