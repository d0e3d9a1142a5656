"""What the client of a reward server makes of answers that no reward server gives."""

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from rm_workflow.errors import UserError
from rm_workflow.serving.client import RewardClient

ROW = {"prompt": "Name a river.", "response": "The Danube."}


@contextmanager
def answering(answer: bytes) -> Iterator[str]:
    """Give every request the same answer; yields the address."""
    with socket.create_server(("127.0.0.1", 0)) as listening:

        def answer_all() -> None:
            while True:
                try:
                    asked, _ = listening.accept()
                except OSError:
                    return
                with asked:
                    asked.recv(65536)
                    asked.sendall(answer)
                    # Closed with a request that is not read to its end, the connection would be reset.
                    asked.shutdown(socket.SHUT_WR)
                    while asked.recv(65536):
                        pass

        threading.Thread(target=answer_all, daemon=True).start()
        yield f"http://127.0.0.1:{listening.getsockname()[1]}"


def answer(body: str, length: int | None = None) -> bytes:
    size = len(body) if length is None else length
    return f"HTTP/1.1 200 OK\r\nContent-Length: {size}\r\nConnection: close\r\n\r\n{body}".encode()


@pytest.mark.parametrize("body", ["<html>hello</html>", '{"score": 1}', '{"scores": ["high"]}', "[1]"])
def test_what_is_no_reward_server_is_told_at_once(body: str):
    with answering(answer(body)) as url, pytest.raises(UserError, match=f"reward server {url}: .* no rmw serve"):
        RewardClient(url, patience=60).score([ROW])


def test_an_answer_that_was_cut_off_is_asked_for_again_and_then_told():
    with (
        answering(answer('{"scores"', length=400)) as url,
        pytest.raises(UserError, match=r"cut off \(IncompleteRead\)"),
    ):
        RewardClient(url, patience=0.5).score([ROW])


def test_a_number_as_people_send_it_is_a_reward():
    with answering(answer('{"scores": [1, -0.5]}')) as url:
        assert RewardClient(url).score([ROW, ROW]) == [1.0, -0.5]
