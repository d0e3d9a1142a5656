"""The client of OpenAI's completions API against a local server of it."""

import pytest

from rm_workflow.annotation.endpoint import KEY_VARIABLE, EndpointGenerator
from rm_workflow.annotation.generators import Completion
from rm_workflow.errors import UserError
from rm_workflow_tests.annotation.conftest import Server, annotation


def client(server: Server, **fields) -> EndpointGenerator:
    return EndpointGenerator(annotation(endpoint=server.address, **fields), wait_seconds=0.01)


def test_each_prompt_is_asked_once_with_the_recipe_s_settings_and_answers_keep_their_order(server: Server):
    server.say = lambda prompt, number: f"{prompt} {number}"
    found = client(server, temperature=0.7, stop=["Q:"]).complete(["a", "b"], 3, seed=7)
    assert found == [[Completion(f"{prompt} {number}", True) for number in range(3)] for prompt in "ab"]
    assert sorted(asked.pop("prompt") for asked in server.asked) == ["a", "b"]
    expected = {"model": "model", "n": 3, "temperature": 0.7, "max_tokens": 32, "seed": 7, "stop": ["Q:"]}
    assert server.asked == [expected, expected]


def test_a_busy_server_is_asked_again(server: Server):
    server.faults = [503, 429, 500]
    assert len(client(server).complete(["a"], 2, seed=0)[0]) == 2


def test_a_server_that_stays_away_ends_the_run_in_one_sentence(server: Server):
    server.faults = [503] * 6
    with pytest.raises(UserError, match=r"annotation.endpoint http.* does not answer .*503.*same command again"):
        client(server).complete(["a"], 2, seed=0)
    with pytest.raises(UserError, match="does not answer"):
        EndpointGenerator(annotation(endpoint="http://127.0.0.1:9/v1"), wait_seconds=0.01).complete(["a"], 1, seed=0)


def test_a_request_that_is_refused_is_not_repeated(server: Server):
    server.faults = [404, 404]
    with pytest.raises(UserError, match=r"refuses the request \(404: .*no room"):
        client(server).complete(["a"], 2, seed=0)
    assert server.faults == [404]


@pytest.mark.parametrize(
    "answer",
    [
        {"choices": [{"index": 0, "text": "one", "finish_reason": "stop"}]},
        {"choices": [{"index": n, "message": {"content": "chat"}, "finish_reason": "stop"} for n in range(2)]},
        {"choices": [{"index": n, "text": None, "finish_reason": "stop"} for n in range(2)]},
        {"data": []},
    ],
)
def test_an_answer_in_another_form_is_told(server: Server, answer: dict):
    server.answer = answer
    with pytest.raises(UserError, match=r"answers in another form .*OpenAI's completions API"):
        client(server).complete(["a"], 2, seed=0)


def test_a_text_that_was_cut_is_no_finished_one(server: Server):
    server.answer = {"choices": [{"index": 0, "text": "Step 1: so", "finish_reason": "length"}]}
    assert client(server).complete(["a"], 1, seed=0) == [[Completion("Step 1: so", False)]]


def test_the_key_comes_from_the_environment_and_stands_in_no_error(server: Server, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv(KEY_VARIABLE, "very-secret-key")
    client(server).complete(["a"], 1, seed=0)
    assert server.keys == ["Bearer very-secret-key"]
    server.answer = {"echo": "very-secret-key"}
    with pytest.raises(UserError) as caught:
        client(server).complete(["a"], 1, seed=0)
    assert "very-secret-key" not in str(caught.value)
    closed = annotation(endpoint="http://me:pass-word@127.0.0.1:9/v1")
    with pytest.raises(UserError, match=r"http://\*\*\*@127\.0\.0\.1:9/v1 does not answer"):
        EndpointGenerator(closed, wait_seconds=0.01).complete(["a"], 1, seed=0)
