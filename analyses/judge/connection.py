"""How is a language model reached, and what went wrong there?

The model as inspect-ai opens it; whether a server is there, accepts the key
and has the model; and what the errors of several packages mean.
"""

import asyncio
import json
import math
import os
import re
from typing import Any

import httpx
from inspect_ai.model import GenerateConfig, Model, get_model
from inspect_ai.model._openai import OpenAIResponseError
from openai import APIResponseValidationError, DefaultAsyncHttpxClient
from tenacity import RetryError

from analyses.judge.judgement import JudgeDownError, JudgeError, Settings
from hooked_omni.errors import UnknownModelError
from hooked_omni.files import parse_json
from hooked_omni.redaction import redacted

KEY_VARIABLE = "JUDGE_API_KEY"
"""Environment variable with the key of a server that is given by its address."""

NO_ACCESS, REFUSED = (401, 403), (400, 422)
"""Statuses of a key that is not accepted, and of a request that is not understood."""

_TOO_LONG = re.compile(
    r"context.{0,20}(length|size|window|limit)|(prompt|input|request|payload|content).{0,40}too la?"
    r"(rge|ong)|input length|tokens.{0,60}(exceed|longer|<=)|exceed.{0,60}tokens",
    re.IGNORECASE,
)

_SAMPLING = ("temperature", "top_p", "top_k", "presence_penalty", "max_tokens", "seed")
_SERVICE = "openai-api/judge/"
MALFORMED = (
    *(ValueError, TypeError, LookupError, AttributeError),
    *(OpenAIResponseError, APIResponseValidationError),
)
"""Errors for an answer that is none of the protocol's: a page, half an object, null."""


def open_model(name: str, url: str | None, settings: Settings) -> Model:
    """The model as inspect-ai has it."""
    config = GenerateConfig(
        **{name: getattr(settings, name) for name in _SAMPLING},
        max_connections=settings.connections,
        max_retries=settings.retries,
        # The client library tries three times by itself, and waits as long as the server asks.
        attempt_timeout=math.ceil(4 * settings.timeout),
    )
    more: dict[str, Any] = {}
    if url is not None or name.startswith("openai-api/"):
        if settings.top_k is not None:  # no part of OpenAI's protocol: vLLM, SGLang and others
            config.extra_body = {"top_k": settings.top_k}
        more = {"client_timeout": settings.timeout}
    if url is not None:
        name, key = f"{_SERVICE}{name}", os.environ.get(KEY_VARIABLE, "none")
        client = DefaultAsyncHttpxClient(event_hooks={"response": [_redact]})
        more |= {"base_url": url, "api_key": key, "http_client": client}
    try:
        return get_model(name, config=config, memoize=False, **more)
    except Exception as error:  # a package, a key or a model that is not there, each its own
        raise UnknownModelError(
            f"expected a judge that inspect-ai knows, such as openai-api/SERVICE/MODEL, hf/MODEL "
            f"or openai/MODEL, got {name!r} ({type(error).__name__}: "
            f"{' '.join(str(error).split())[:300]})."
        ) from error


async def _redact(response: Any) -> None:
    """Take a key that the server echoes out of its answer, before anyone keeps the answer."""
    body = await response.aread()
    text = body.decode(json.detect_encoding(body), "replace")  # as the client's `json` would
    response._content = (await asyncio.to_thread(redacted, text)).encode()
    for name, value in response.headers.items():
        response.headers[name] = redacted(value)


def require_server(url: str, name: str) -> int | None:
    """Look for the model in the server's list; `JudgeError` or `JudgeDownError` without it.

    Returns:
        Its context in tokens, where the server says (`max_model_len`: vLLM, SGLang); else None.
    """
    headers = {"Authorization": f"Bearer {os.environ.get(KEY_VARIABLE, 'none')}"}
    try:
        response = httpx.get(f"{url.rstrip('/')}/models", headers=headers, timeout=30.0)
    except (httpx.HTTPError, httpx.InvalidURL, UnicodeError, OverflowError) as error:
        raise JudgeDownError(
            f"expected a judge at {url}, got no answer ({error}). Start it (docs/judge.md has the "
            "command), and give the same command again: what is judged is kept."
        ) from error
    if response.status_code in NO_ACCESS:
        raise JudgeError(
            f"expected a key that {url} accepts, got {response.status_code}. Put a valid one into "
            f"{KEY_VARIABLE}."
        )
    try:
        listed = {str(model["id"]): model for model in parse_json(response.text, url)["data"]}
    except (ValueError, LookupError, TypeError):
        return None  # a server that does not list its models
    if response.status_code < 400 and listed and name not in listed:
        raise JudgeError(
            f"expected one of the models of {url}, {[*listed][:10]}, got {name!r}. Name one of "
            "them."
        )
    context = listed.get(name, {}).get("max_model_len")
    return context if type(context) is int else None


def root_cause(error: Exception) -> Exception:
    """What went wrong, without the error that says it was tried several times."""
    last = error.last_attempt.exception() if isinstance(error, RetryError) else error
    return last if isinstance(last, Exception) else error


def http_status(error: Exception) -> int | None:
    """The HTTP status of an error, if it has one."""
    return getattr(root_cause(error), "status_code", None)


def is_too_long(error: Exception) -> bool:
    """Whether the server refused a request as longer than its context."""
    refused = http_status(error) in (*REFUSED, 413)
    return refused and _TOO_LONG.search(error_text(error)) is not None


def error_text(error: Exception) -> str:
    """The message of the server, or of the package; without the request that it may repeat."""
    response = getattr(error.__cause__ or error, "response", None)
    text = getattr(response, "text", "") or str(error)
    return redacted(" ".join(text.split()))[:200] or type(error).__name__
