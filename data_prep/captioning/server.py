"""How does a model on a server of chat completions (vLLM, llama.cpp, OpenAI) describe a clip?"""

import base64
import io
import json
import os
import random
import re
import time
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import httpx

from data_prep.captioning.caption_manifest import NoCaptionError
from data_prep.captioning.question import DEFAULT, SCHEMA, Question, description
from hooked_omni.errors import ManifestError
from hooked_omni.files import parse_json
from hooked_omni.redaction import keep_secret, redacted

# Worth another try; anything else of 400 and above stays as it is.
_PASSING = {408, 409, 425, 429, 500, 502, 503, 504, 529}
_ENDS = (None, "stop", "eos_token")  # of an answer that is whole
_MOST_BYTES = 4 * 2**20  # of an answer


_SCHEMA = {"name": "caption", "strict": True, "schema": SCHEMA}
_FORM = {"response_format": {"type": "json_schema", "json_schema": _SCHEMA}}


@dataclass(frozen=True)
class Server:
    """A vision-language model on an OpenAI-compatible server."""

    url: str  # the part before `/chat/completions`, such as http://localhost:8000/v1
    model: str
    question: Question = DEFAULT
    key_variable: str = "OPENAI_API_KEY"  # environment variable with the API key, if it is set
    workers: int = 8  # requests at a time
    tries: int = 5  # requests for a clip before it is given up
    timeout: float = 120.0  # seconds for one whole answer
    backoff: float = 1.0  # seconds before the second try; doubled for each further one, up to 60

    def __post_init__(self) -> None:
        keep_secret(self.url)
        if not re.match(r"https?://[^/]", self.url):
            example = "such as http://localhost:8000/v1"
            raise ManifestError(f"expected the address of a server, {example}, got {self.url!r}.")
        for name in ("workers", "tries", "timeout"):
            if not getattr(self, name) > 0:
                raise ManifestError(f"expected {name} > 0, got {getattr(self, name)}.")

    @property
    def facts(self) -> dict[str, Any]:
        """What decides the answer; the address and the key do not."""
        return {"model": self.model, **asdict(self.question), "temperature": 0}

    def caption(self, clip: Path) -> str:
        """What the clip shows.

        Raises:
            NoCaptionError: When all tries failed, with the last reason.
        """
        request = {
            "model": self.model,
            "messages": [{"role": "user", "content": _content(clip, self.question)}],
            "max_tokens": self.question.max_tokens,
            "temperature": 0,
        }
        for attempt in range(1, self.tries + 1):
            # Servers refuse a schema, or fail on it, in ways of their own: every second has none.
            form = _FORM if attempt % 2 else {}
            try:
                return description(_text(self._answer(json.dumps(request | form).encode())))
            except NoCaptionError as error:
                if not (error.retry or form):
                    raise
                if attempt == self.tries:
                    raise NoCaptionError(f"{error} ({self.tries} tries)") from error
                if error.retry:
                    wait = min(60.0, self.backoff * 2 ** (attempt - 1)) * random.uniform(0.5, 1.0)
                    time.sleep(min(60.0, max(wait, error.seconds)))
        raise AssertionError

    def _answer(self, body: bytes) -> bytes:
        """The whole answer in time; httpx alone times single reads."""
        deadline, read = time.monotonic() + self.timeout, b""
        try:
            url = f"{self.url.rstrip('/')}/chat/completions"
            with self._client.stream("POST", url, content=body) as response:
                if response.status_code >= 400:
                    raise _refused(response)
                for part in response.iter_bytes():
                    read += part
                    if time.monotonic() > deadline or len(read) > _MOST_BYTES:
                        raise NoCaptionError("an answer too slow or too long", retry=True)
        except httpx.TimeoutException as error:
            raise NoCaptionError(f"no answer within {self.timeout:g} s", retry=True) from error
        except (httpx.HTTPError, httpx.InvalidURL, UnicodeError, OverflowError) as error:
            reason = f"connection lost: {error or type(error).__name__}"
            raise NoCaptionError(reason, retry=True) from error
        return redacted(read)

    @cached_property
    def _client(self) -> httpx.Client:
        key = os.environ.get(self.key_variable)
        keep_secret(key)
        headers = {"Content-Type": "application/json"}
        if key:
            headers["Authorization"] = f"Bearer {key}"
        limits = httpx.Limits(max_connections=self.workers)
        return httpx.Client(headers=headers, timeout=self.timeout, limits=limits)


def _content(clip: Path, question: Question) -> list[dict[str, Any]]:
    """Frames as JPEG in the message itself, then the words."""
    content = []
    for image in question.images(clip):
        file = io.BytesIO()
        image.save(file, "JPEG", quality=90)
        url = f"data:image/jpeg;base64,{base64.b64encode(file.getvalue()).decode()}"
        content.append({"type": "image_url", "image_url": {"url": url}})
    return [*content, {"type": "text", "text": f"{question.prompt}\n{question.form}"}]


def _refused(response: httpx.Response) -> NoCaptionError:
    reason = f"the server answered {response.status_code}"
    if response.status_code in _PASSING:
        after = response.headers.get("retry-after", "")
        return NoCaptionError(reason, True, float(after) if after.isdecimal() else 0.0)
    return NoCaptionError(f"{reason}: {redacted(response.read())[:200].decode(errors='replace')}")


def _text(answer: bytes) -> str:
    """The words of a chat completion that is whole."""
    try:
        choice = parse_json(answer.decode(), "the answer")["choices"][0]
        message, end = choice["message"], choice.get("finish_reason")
        content, refusal = message["content"], message.get("refusal")
    except (ValueError, LookupError, TypeError, AttributeError) as error:
        start = answer[:60].decode(errors="replace")
        raise NoCaptionError(f"no chat completion in the answer {start!r}", retry=True) from error
    if end not in _ENDS:
        raise NoCaptionError(f"cut off: the answer ended by {end!r:.60}")
    if isinstance(content, list):  # some servers answer in parts
        parts = [part.get("text", "") for part in content if isinstance(part, dict)]
        content = "".join(str(part) for part in parts)
    if refusal or not isinstance(content, str):
        raise NoCaptionError(f"no text in the answer: {str(message)[:60]!r}", retry=True)
    return redacted(content)  # parts may have split a key
