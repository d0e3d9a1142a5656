"""A generator behind OpenAI's completions API (``POST <endpoint>/completions``), as vLLM and others serve it.

Request and the part of the answer that is read::

    {"model": "mistral-7b-sft", "prompt": "2 + 3?\\n", "n": 15, "temperature": 0.7, "max_tokens": 2048, "seed": 7}
    {"choices": [{"index": 0, "text": "2 + 3 = 5\\nThe answer is: 5", "finish_reason": "stop"}, ...]}

The key of an endpoint that asks for one is read from ``RMW_ENDPOINT_API_KEY`` and stands in no file.
"""

import json
import os
import time
import urllib.error
import urllib.request
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from rm_workflow.annotation.generators import Completion, cut_at
from rm_workflow.catalog.models import Annotation
from rm_workflow.errors import UserError
from rm_workflow.redaction import redact

KEY_VARIABLE = "RMW_ENDPOINT_API_KEY"
TIMEOUT_SECONDS = 600.0
# A busy or restarting server: asked again after 1, 2, 4, 8 and 16 seconds.
NUM_RETRIES = 5
BUSY = (408, 409, 425, 429, 500, 502, 503, 504)
SHOWN = 200


class EndpointGenerator:
    """A client of one endpoint.

    Attributes:
        num_requests: answered so far.
    """

    def __init__(self, annotation: Annotation, wait_seconds: float = 1.0) -> None:
        """Prepare the client; nothing is asked yet.

        Args:
            wait_seconds: before the first repeat of a request; twice as long before each further one.
        """
        assert annotation.endpoint is not None
        self._annotation = annotation
        self._address = annotation.endpoint.rstrip("/") + "/completions"
        self._wait_seconds = wait_seconds
        self.num_requests = 0

    def complete(self, prompts: Sequence[str], num_samples: int, seed: int) -> list[list[Completion]]:
        """Return so many continuations of each prompt, one request a prompt; see ``Generator``."""
        with ThreadPoolExecutor(self._annotation.batch_size) as pool:
            return list(pool.map(lambda prompt: self._ask(prompt, num_samples, seed), prompts))

    def _ask(self, prompt: str, num_samples: int, seed: int) -> list[Completion]:
        asked = {
            "model": self._annotation.generator,
            "prompt": prompt,
            "n": num_samples,
            "temperature": self._annotation.temperature,
            "max_tokens": self._annotation.max_tokens,
            "seed": seed,
            **({"stop": self._annotation.stop} if self._annotation.stop else {}),
        }
        answer = self._answered(json.dumps(asked).encode())
        self.num_requests += 1
        return self._read(answer, num_samples)

    def _answered(self, body: bytes) -> bytes:
        wait = self._wait_seconds
        for _ in range(NUM_RETRIES):
            try:
                return self._post(body)
            except urllib.error.HTTPError as error:
                if error.code not in BUSY:
                    told = error.read().decode("utf-8", "replace")
                    raise UserError(self._told(f"refuses the request ({error.code}: {_shown(told)})")) from None
            except (urllib.error.URLError, TimeoutError, ConnectionError):
                pass
            time.sleep(wait)
            wait *= 2
        try:
            return self._post(body)
        except (urllib.error.URLError, TimeoutError, ConnectionError) as error:
            raise UserError(
                self._told(f"does not answer ({_shown(str(error))})") + "; run the same command again to go on"
            ) from None

    def _post(self, body: bytes) -> bytes:
        headers = {"Content-Type": "application/json"}
        if os.environ.get(KEY_VARIABLE):
            headers["Authorization"] = f"Bearer {os.environ[KEY_VARIABLE]}"
        request = urllib.request.Request(self._address, body, headers)
        with urllib.request.urlopen(request, timeout=TIMEOUT_SECONDS) as answer:
            read: bytes = answer.read()
        return read

    def _read(self, answer: bytes, num_samples: int) -> list[Completion]:
        try:
            choices: list[Any] = sorted(json.loads(answer)["choices"], key=lambda choice: choice["index"])
            found = [(choice["text"], choice["finish_reason"]) for choice in choices]
            if len(found) != num_samples or not all(isinstance(text, str) for text, _ in found):
                raise ValueError(f"{len(found)} choices of {num_samples}")
        except (ValueError, KeyError, TypeError) as error:
            raise UserError(
                self._told(f"answers in another form ({error!r}: {_shown(answer.decode('utf-8', 'replace'))})")
                + "; name one with OpenAI's completions API, for instance of vLLM"
            ) from None
        return [Completion(cut_at(text, self._annotation.stop)[0], reason == "stop") for text, reason in found]

    def _told(self, what: str) -> str:
        return f"annotation.endpoint {self._annotation.endpoint} {what}"


def _shown(text: str) -> str:
    # Secrets first: one that is cut in two would not be known as one.
    return redact(" ".join(text.split()))[:SHOWN]
