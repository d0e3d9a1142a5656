"""``rmw serve`` as a process: what it answers, what it refuses, how it ends."""

import json
import os
import shutil
import signal
import socket
import threading
import time
import urllib.error
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from rm_workflow.errors import UserError
from rm_workflow.evaluation.scorer import Scorer
from rm_workflow.models.tokens import Encoder
from rm_workflow.serving.client import RewardFunction
from rm_workflow_tests.serving.servers import Server, start

USER = [{"role": "user", "content": "Name a river."}]
REPLIES = ["The Danube.", "No.", "The Danube is long."]
TALK = {"prompt": "a", "response": "b"}
TOKEN = "a-token-of-24-characters"


def expected(checkpoint: Path, replies: list[str] = REPLIES) -> list[float]:
    return list(Scorer.load(checkpoint).score_texts([(USER, reply) for reply in replies])[0])


def test_scores_of_every_form_are_those_of_the_scorer(server: Server, checkpoint: Path):
    rows = [
        {"prompt": "Name a river.", "response": REPLIES[0]},
        {"prompt": USER, "response": REPLIES[1]},
        {"messages": [*USER, {"role": "assistant", "content": REPLIES[2]}]},
    ]
    status, answer = server.ask("/score", rows)
    assert status == 200
    assert answer["scores"] == pytest.approx(expected(checkpoint), abs=1e-5)
    assert server.ask("/score", rows[0])[1]["scores"] == pytest.approx(answer["scores"][:1], abs=1e-5)

    status, ranked = server.ask("/rank", {"prompt": "Name a river.", "responses": REPLIES})
    assert status == 200
    assert ranked["scores"] == pytest.approx(answer["scores"], abs=1e-5)
    assert ranked["order"] == sorted(range(3), key=lambda index: -answer["scores"][index])
    assert ranked["best"] == ranked["order"][0]


def test_openrlhf_gets_the_rewards_of_plain_and_of_rendered_texts(server: Server, checkpoint: Path):
    encoder = Encoder.from_checkpoint(checkpoint)
    opening = encoder.render(USER, "").removesuffix("<|im_end|>\n")
    plain = {"query": [f"Name a river. {reply}" for reply in REPLIES], "prompts": ["Name a river."] * 3}
    rendered = {
        # As a policy leaves it: with or without its end of turn, and padded.
        "query": [
            opening + reply + end for reply, end in zip(REPLIES, ("<|im_end|>", "", "<|im_end|>\n<pad>"), strict=True)
        ],
        "prompts": [opening] * 3,
        "labels": [None, None, None],
    }
    for body in (plain, rendered):
        status, answer = server.ask("/get_reward", body)
        assert status == 200, answer
        assert answer["rewards"] == pytest.approx(expected(checkpoint), abs=1e-5)
        assert answer["scores"] == answer["rewards"]


def test_a_reward_function_gives_trl_the_same_from_a_server_and_in_process(server: Server, checkpoint: Path):
    over_http, here = RewardFunction.of_server(server.url), RewardFunction.of_checkpoint(checkpoint)
    assert over_http.__name__ == "reward_model"
    talks = {"prompts": [USER] * 3, "completions": [[{"role": "assistant", "content": reply}] for reply in REPLIES]}
    texts = {"prompts": ["Name a river."] * 3, "completions": REPLIES}
    for asked in (talks, texts):
        assert over_http(**asked, labels=[1, 2, 3]) == pytest.approx(expected(checkpoint), abs=1e-5)
        assert here(**asked) == pytest.approx(expected(checkpoint), abs=1e-5)

    with pytest.raises(UserError, match="cannot be reached"):
        RewardFunction.of_server("http://127.0.0.1:9", patience=0.1)(["a"], ["b"])


def test_a_completion_that_cannot_be_scored_does_not_end_a_training_unless_it_is_asked_to(
    server: Server, checkpoint: Path
):
    """Two of 102, in two requests, as the server takes 100 at once."""
    replies = [*(f"The Danube {n}." for n in range(40)), "river " * 300, "d<|im_end|>", *REPLIES * 20]
    asked = {"prompts": [USER] * len(replies), "completions": replies}
    good = expected(checkpoint, replies[:40] + replies[42:])
    for made, named in ((RewardFunction.of_server, server.url), (RewardFunction.of_checkpoint, checkpoint)):
        rewards = made(named)(**asked)
        assert rewards[40:42] == [None, None]
        assert rewards[:40] + rewards[42:] == pytest.approx(good, abs=1e-5)
        lowest = made(named, unscorable="lowest")(**asked)
        assert lowest[40:42] == [min(lowest), min(lowest)]
        with pytest.raises(UserError, match=r"token recipe allows 128"):
            made(named, unscorable="refuse")(**asked)
        assert made(named, unscorable="lowest")([USER], ["d<|im_end|>"]) == [None]
    with pytest.raises(UserError, match=r"reward server .*: \[1\]: a text holds <\|im_end\|>"):
        RewardFunction.of_server(server.url, unscorable="refuse")(["a", "b"], ["c", "d<|im_end|>"])
    with pytest.raises(UserError, match="unscorable is 'zero'; take one of none, lowest, refuse"):
        RewardFunction.of_server(server.url, unscorable="zero")
    bad = [TALK, {**TALK, "response": "d<|im_end|>"}, {**TALK, "prompt": "x " * 300}]
    assert server.ask("/score", bad)[1]["rows"] == [1, 2]
    many = server.ask("/score", [TALK, *[{"prompt": "a"}] * 7])[1]
    assert many["rows"] == list(range(1, 8))
    assert many["detail"].endswith("; and 2 more")
    for made, named in ((RewardFunction.of_server, server.url), (RewardFunction.of_checkpoint, checkpoint)):
        assert made(named)([USER] * 2, ["", " "]) == [None, None]


def test_many_clients_at_once_get_their_own_scores(server: Server, checkpoint: Path):
    lists = [[f"The Danube {client} {n}." * (1 + n % 3) for n in range(7)] for client in range(16)]
    with ThreadPoolExecutor(16) as pool:
        found = list(pool.map(lambda replies: server.ask("/rank", {"prompt": USER, "responses": replies}), lists))
    scorer = Scorer.load(checkpoint)
    for replies, (status, answer) in zip(lists, found, strict=True):
        assert status == 200, answer
        assert answer["scores"] == pytest.approx(
            list(scorer.score_texts([(USER, reply) for reply in replies])[0]), abs=1e-5
        )


REFUSED: list[tuple[str, Any, int, str]] = [
    ("/score", {"prompt": "a"}, 422, "field response is missing"),
    ("/score", {"prompt": 3, "response": "b"}, 422, "field prompt must be a list"),
    ("/score", [TALK, {"prompt": "a", "response": None}], 422, "[1]: field response is null; it must be text"),
    ("/score", [TALK, "b"], 422, "[1]: it is 'b'; it must be a JSON object"),
    ("/score", [TALK, {"prompt": "a", "response": "b<|im_end|>"}], 422, "[1]: a text holds <|im_end|>"),
    ("/score", {"prompt": "river " * 300, "response": "b"}, 422, "token recipe allows 128"),
    ("/score", {"prompt": "a", "response": "\ud800"}, 422, "field response holds half of a surrogate pair"),
    ("/score", {"messages": USER}, 422, "field messages must end with the assistant turn"),
    ("/score", [], 422, "the list is empty; give at least one entry"),
    ("/score", 3, 422, "the body is 3; it must be a JSON object"),
    ("/score", [TALK] * 101, 413, "the list holds 101 entries, and one request may hold 100"),
    ("/rank", [TALK], 422, "it must be a JSON object"),
    ("/rank", {"prompt": "a", "responses": []}, 422, "field responses is empty; give at least one entry"),
    ("/rank", {"prompt": "a", "responses": "b"}, 422, "field responses is 'b'; it must be a list"),
    ("/rank", {"prompt": "a", "responses": ["b", 3]}, 422, "responses[1]: it is 3; it must be text"),
    (
        "/rank",
        {"prompt": "a", "responses": ["b", "", "c", " "]},
        422,
        "2 entries cannot be scored: responses[1]: it is",
    ),
    ("/score", [TALK, 3, {"prompt": "a", "response": ""}], 422, "object; [2]: field response is empty, which is no"),
    ("/score", [*[{"prompt": "a"}] * 7, TALK], 422, "7 entries cannot be scored: [0]: field response is missing"),
    ("/rank", {"prompt": "a", "responses": ["b", "b<|im_end|>"]}, 422, "responses[1]: a text holds <|im_end|>"),
    ("/rank", {"prompt": "a", "responses": ["b"] * 10_000}, 413, "field responses holds 10,000 entries"),
    ("/get_reward", {"query": ["a b"]}, 422, "field prompts is missing"),
    ("/get_reward", {"query": ["a b"], "prompts": ["a", "b"]}, 422, "query holds 1 texts and prompts 2"),
    ("/get_reward", {"query": ["a b"], "prompts": ["c"]}, 422, "query[0] does not begin with prompts[0]"),
    ("/get_reward", {"query": ["<s>a b"], "prompts": ["<s>a"]}, 422, "prompts[0] holds <s>, but does not end with"),
    ("/get_reward", {"query": [], "prompts": []}, 422, "field query is empty"),
]


@pytest.mark.parametrize(("path", "body", "status", "said"), REFUSED)
def test_a_bad_request_is_one_sentence_that_names_the_field(
    server: Server, path: str, body: Any, status: int, said: str
):
    answered, answer = server.ask(path, body)
    assert (answered, list(answer)[:1], set(answer) - {"rows"}) == (status, ["detail"], {"detail"})
    assert said in answer["detail"]
    assert "\n" not in answer["detail"]


@pytest.mark.parametrize(
    ("raw", "headers", "status", "said"),
    [
        (b'{"prompt": ', {}, 400, "the body is no JSON (Expecting value"),
        (b'{"prompt": "a", "response": "b", "prompt": "c"}', {}, 400, "the key 'prompt' stands twice in one object"),
        (b'{"prompt": "a", "response": "b", "id": NaN}', {}, 400, "no JSON (NaN is no JSON number); mend it"),
        (b'{"prompt": "a", "response": -Infinity}', {}, 400, "no JSON (-Infinity is no JSON number); mend it"),
        (b"[" * 100_000, {}, 400, "the body cannot be parsed as JSON"),
        ('{"prompt": "ä"}'.encode("latin-1"), {}, 400, "the body is not UTF-8 at byte 12"),
        ('{"prompt": "a"}'.encode("utf-16"), {}, 400, "the body is not UTF-8 at byte 0"),
        (b'{"prompt": "a", "response": "b"}', {"Content_Type": "text/plain"}, 415, "Content-Type: application/json"),
        (b"", {}, 422, "the body is missing"),
        (b" " * 1_000_001, {}, 413, "the body is larger than 1 MB"),
    ],
)
def test_a_body_that_is_no_json_is_told(server: Server, raw: bytes, headers: dict[str, str], status: int, said: str):
    answered, answer = server.ask("/score", raw=raw, **headers)
    assert answered == status, answer
    assert said in answer["detail"]


def test_a_body_of_100_mb_without_length_is_refused_and_not_kept(server: Server):
    address = server.url.removeprefix("http://").split(":")
    with socket.create_connection((address[0], int(address[1])), timeout=30) as connection:
        connection.sendall(
            b"POST /score HTTP/1.1\r\nHost: a\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n"
        )
        piece = b"100000\r\n" + b" " * 0x100000 + b"\r\n"
        for _ in range(96):
            connection.sendall(piece)
        connection.sendall(b"0\r\n\r\n")
        assert b" 413 " in connection.recv(65536)
    assert server.ask("/health")[0] == 200


def test_unknown_paths_docs_and_counts(server: Server):
    assert server.ask("/nothing")[0] == 404
    assert server.ask("/score")[0] == 405
    assert "swagger" in server.ask("/docs")[1]
    schema = server.ask("/openapi.json")[1]
    assert {"/score", "/rank", "/get_reward", "/health"} <= set(schema["paths"])
    assert "responses" in json.dumps(schema["paths"]["/rank"]["post"]["requestBody"])
    counts = server.ask("/metrics")[1]
    assert 'rmw_requests_total{path="other",status="404"}' in counts
    assert "rmw_conversations_total" in counts


def test_limits_a_port_in_use_kill_9_restart_a_lost_checkpoint_and_a_stop_that_answers(
    checkpoint: Path, tmp_path: Path
):
    copy = shutil.copytree(checkpoint, tmp_path / "copy")
    first = start(copy, tmp_path / "home", "--timeout", "0.2", "--max-waiting", "50")
    port = first.url.rpartition(":")[2]
    try:
        with pytest.raises(AssertionError, match=f"error: port {port} of 127.0.0.1 is in use by another program; name"):
            start(copy, tmp_path / "home", "--port", port)
        check_overload(first)
        os.kill(first.process.pid, signal.SIGKILL)
        first.process.wait(30)
        with pytest.raises(urllib.error.URLError):
            first.ask("/health")
    finally:
        first.process.kill()

    again = start(copy, tmp_path / "home", "--port", port, token=TOKEN)
    try:
        assert again.ask("/health")[1]["on_disk"] is True
        shutil.rmtree(copy)
        assert again.ask("/health")[1]["on_disk"] is False
        check_token(again)
        check_stop(again)
    finally:
        again.process.kill()


def check_overload(server: Server) -> None:
    """What takes too long, and what finds too much before it, is told; afterwards all is well again."""
    # 88,000 tokens, which took 0.8 s on two cores; a longer reply would be refused for its length.
    long = {"prompt": "a", "responses": [f"The Danube. {n} " * 15 for n in range(1000)]}
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda _: server.ask("/rank", long), range(4)))
    told = {status: answer["detail"] for status, answer in found}
    assert set(told) == {503, 504}, told
    assert "it was not scored within 0.2 s" in told[504]
    assert "50 conversations wait already" in told[503]
    for _ in range(100):  # what nobody waits for any more is not scored
        if server.ask("/score", TALK)[0] == 200:
            return
        time.sleep(0.05)
    pytest.fail("the server did not come back")


def check_token(server: Server) -> None:
    """Only /health and the documentation are open to everybody."""
    for asked, token in ((401, None), (401, "another-token-altogether"), (200, TOKEN)):
        assert server.ask("/score", TALK, token=token)[0] == asked
    assert server.ask("/metrics")[0] == 401
    assert TOKEN not in "".join(server.lines)


def check_stop(server: Server) -> None:
    """SIGTERM answers what is running, then ends the process with code 0."""
    sent: list[Any] = []
    slow = {"prompt": "a", "responses": [f"The Danube. {n}" * 4 for n in range(400)]}
    asking = threading.Thread(target=lambda: sent.append(server.ask("/rank", slow, token=TOKEN)))
    asking.start()
    while not server.ask("/health")[1]["waiting"]:
        time.sleep(0.01)
    assert server.stop() == 0
    asking.join()
    assert sent[0][0] == 200
    assert len(sent[0][1]["scores"]) == 400
    assert server.lines[-1] == "stopped\n"
