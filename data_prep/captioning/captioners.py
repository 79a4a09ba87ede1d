"""Who says what a clip shows?

A server that speaks OpenAI's chat completions (vLLM, SGLang, llama.cpp, OpenAI), or a Hugging Face
vision-language model in this process. Both see the same frames and the same words. An answer that
is no description raises `NoCaptionError`: a caption is never made up.
"""

import base64
import io
import json
import os
import random
import re
import threading
import time
from dataclasses import asdict, dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import httpx
import torch
from PIL import Image

from hooked_omni.errors import HookedOmniError, ManifestError, UnknownModelError
from hooked_omni.inputs.media import MediaSettings
from hooked_omni.inputs.video import read_video

__all__ = ["PROMPT", "Local", "NoCaptionError", "Question", "Server"]

PROMPT = (
    "These are frames of one short video, in order. Describe in one or two sentences what can be "
    "seen: people, animals, objects, actions, and the place. Do not guess what can be heard."
)
# Worth another try; anything else of 400 and above stays as it is.
_PASSING = {408, 409, 425, 429, 500, 502, 503, 504, 529}
_MOST_BYTES = 4 * 2**20  # of an answer
_REFUSAL = re.compile(
    r"(i['\u2019]?m sorry|i am sorry|i can(no|['\u2019])t|as an ai\b|sorry,)", re.I
)


class NoCaptionError(HookedOmniError, ValueError):
    """A clip that could not be captioned, with the reason."""


class _PassingError(Exception):
    """A failure that another try may mend, after some seconds if the server names them."""

    def __init__(self, reason: str, seconds: float | None = None) -> None:
        super().__init__(reason)
        self.seconds = seconds


@dataclass(frozen=True)
class Question:
    """What is asked about a clip, and which of its frames are shown.

    Attributes:
        prompt: The words, after the frames.
        media: How frames are sampled.
        max_tokens: Longest answer.
    """

    prompt: str = PROMPT
    media: MediaSettings = field(
        default_factory=lambda: MediaSettings(fps=1.0, max_frames=16, max_pixels=384 * 28 * 28)
    )
    max_tokens: int = 256


@dataclass(frozen=True)
class Server:
    """A vision-language model behind an OpenAI-compatible server.

    Attributes:
        url: The part before `/chat/completions`, such as `http://localhost:8000/v1`.
        model: Name of the model there.
        question: What is asked.
        key_variable: Environment variable that holds the API key, if it is set.
        workers: Requests at a time.
        tries: Requests for a clip before it is given up.
        timeout: Seconds for one whole answer.
        backoff: Seconds before the second try; doubled for each further one, up to a minute.
    """

    url: str
    model: str
    question: Question = Question()
    key_variable: str = "OPENAI_API_KEY"
    workers: int = 8
    tries: int = 5
    timeout: float = 120.0
    backoff: float = 1.0

    def __post_init__(self) -> None:
        if not re.match(r"https?://[^/]", self.url):
            raise ManifestError(
                f"expected the address of a server, such as http://localhost:8000/v1, got "
                f"{self.url!r}."
            )
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
            MediaError: If the clip cannot be read.
        """
        question = {
            "model": self.model,
            "messages": [{"role": "user", "content": _content(clip, self.question)}],
            "max_tokens": self.question.max_tokens,
            "temperature": 0,
        }
        body, reason = json.dumps(question).encode(), ""
        for attempt in range(self.tries):
            try:
                return described(_text(self._answer(body)))
            except _PassingError as error:
                reason = str(error)
                wait = min(60.0, self.backoff * 2**attempt) * random.uniform(0.5, 1.0)
                if attempt + 1 < self.tries:
                    time.sleep(min(60.0, max(wait, error.seconds or 0.0)))
        raise NoCaptionError(f"{reason} ({self.tries} tries)")

    def _answer(self, body: bytes) -> bytes:
        """The whole answer in time, or a reason to try again; httpx alone times single reads."""
        deadline, read = time.monotonic() + self.timeout, b""
        try:
            url = f"{self.url.rstrip('/')}/chat/completions"
            with self._client.stream("POST", url, content=body) as response:
                if response.status_code >= 400:
                    raise _refused(response)
                for part in response.iter_bytes():
                    read += part
                    if time.monotonic() > deadline or len(read) > _MOST_BYTES:
                        raise _PassingError("an answer too slow or too long")
        except httpx.TimeoutException as error:
            raise _PassingError(f"no answer within {self.timeout:g} s") from error
        except httpx.HTTPError as error:
            raise _PassingError(f"connection lost: {error or type(error).__name__}") from error
        return read

    @cached_property
    def _client(self) -> httpx.Client:
        key = os.environ.get(self.key_variable)
        headers = {"Content-Type": "application/json"}
        if key:
            headers["Authorization"] = f"Bearer {key}"
        limits = httpx.Limits(max_connections=self.workers)
        return httpx.Client(headers=headers, timeout=self.timeout, limits=limits)


@dataclass(frozen=True)
class Local:
    """A vision-language model from the Hugging Face hub or a folder, in this process.

    Attributes:
        model: Name or folder of a model that `AutoModelForImageTextToText` loads.
        question: What is asked.
        device: Where it runs, such as "cuda".
        dtype: Its weights' type, such as "bfloat16"; "auto" as saved.
    """

    model: str
    question: Question = Question()
    device: str = "cpu"
    dtype: str = "auto"
    workers: int = field(default=1, init=False)
    _lock: Any = field(default_factory=threading.Lock, init=False, repr=False, compare=False)

    @property
    def facts(self) -> dict[str, Any]:
        """What decides the answer."""
        return {"model": Path(self.model).name, **asdict(self.question), "dtype": self.dtype}

    @torch.inference_mode()
    def caption(self, clip: Path) -> str:
        """What the clip shows, decoded greedily.

        Raises:
            NoCaptionError: If the answer is no description.
            MediaError: If the clip cannot be read.
            UnknownModelError: If the model cannot be loaded.
        """
        frames = [{"type": "image", "image": image} for image in _images(clip, self.question)]
        content = [*frames, {"type": "text", "text": self.question.prompt}]
        with self._lock:
            model, processor = self._loaded
            inputs = processor.apply_chat_template(
                [{"role": "user", "content": content}],
                add_generation_prompt=True,
                tokenize=True,
                return_dict=True,
                return_tensors="pt",
            ).to(model.device)
            tokens = model.generate(
                **inputs, max_new_tokens=self.question.max_tokens, do_sample=False
            )
        new = tokens[0, inputs["input_ids"].shape[1] :]
        try:
            return described(processor.decode(new, skip_special_tokens=True))
        except _PassingError as error:  # greedy: another try says the same
            raise NoCaptionError(str(error)) from error

    @cached_property
    def _loaded(self) -> tuple[Any, Any]:
        from transformers import AutoModelForImageTextToText, AutoProcessor

        try:
            model: Any = AutoModelForImageTextToText.from_pretrained(self.model, dtype=self.dtype)
            return model.to(self.device).eval(), AutoProcessor.from_pretrained(self.model)
        except Exception as error:  # hub, config and weights raise their own each
            raise UnknownModelError(
                f"expected a vision-language model, got {self.model!r}, which does not load "
                f"({type(error).__name__}: {str(error)[:300]}). Give a folder that holds one, or a "
                f"name on the Hugging Face hub and a network."
            ) from error


def described(answer: str) -> str:
    """The answer as one line, without a model's thoughts; refuses what describes nothing."""
    text = re.sub(r"<think>.*?(</think>|$)", " ", answer, flags=re.S)
    text = " ".join(text.rsplit("</think>", 1)[-1].split())
    letters = sum(character.isalpha() for character in text)
    words = text.lower().split()
    if letters < 3 or letters < len(text) / 2 or "\ufffd" in text:
        raise _PassingError(f"no words in the answer {text[:60]!r}")
    if _REFUSAL.match(text):
        raise _PassingError(f"a refusal: {text[:60]!r}")
    if len(words) >= 12 and len(set(words)) < len(words) / 4:
        raise _PassingError(f"the same words over and over: {text[:60]!r}")
    return text


def _images(clip: Path, question: Question) -> list[Image.Image]:
    frames = read_video(clip, question.media).frames.round().clamp(0, 255).byte()
    return [Image.fromarray(frame.permute(1, 2, 0).numpy()) for frame in frames]


def _content(clip: Path, question: Question) -> list[dict[str, Any]]:
    """Frames as JPEG in the message itself, then the words."""
    content = []
    for image in _images(clip, question):
        file = io.BytesIO()
        image.save(file, "JPEG", quality=90)
        url = f"data:image/jpeg;base64,{base64.b64encode(file.getvalue()).decode()}"
        content.append({"type": "image_url", "image_url": {"url": url}})
    return [*content, {"type": "text", "text": question.prompt}]


def _refused(response: httpx.Response) -> Exception:
    after = response.headers.get("retry-after", "")
    if response.status_code in _PASSING:
        reason = f"the server answered {response.status_code}"
        return _PassingError(reason, float(after) if after.isdecimal() else None)
    said = response.read()[:200].decode(errors="replace")
    return NoCaptionError(f"the server answered {response.status_code}: {said}")


def _text(answer: bytes) -> str:
    """The words of a chat completion."""
    try:
        message = json.loads(answer)["choices"][0]["message"]
        content = message["content"]
    except (ValueError, LookupError, TypeError) as error:
        said = answer[:60].decode(errors="replace")
        raise _PassingError(f"no chat completion in the answer {said!r}") from error
    if isinstance(content, list):  # some servers answer in parts
        parts = [part.get("text", "") for part in content if isinstance(part, dict)]
        content = " ".join(str(part) for part in parts)
    if not isinstance(content, str):
        raise _PassingError(f"no text in the answer: {str(message)[:60]!r}")
    return content
