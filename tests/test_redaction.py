"""A key that a server echoes is nowhere: in no error, no log, no file, in no spelling."""

import asyncio
import base64
import json
import zipfile
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any
from urllib.parse import quote

import httpx
import numpy as np
import pytest

from analyses.judge import connection
from analyses.judge.lookup import load_judge
from analyses.judge.record import judge_items
from data_prep.captioning import caption_manifest, server
from data_prep.captioning.question import Question
from data_prep.captioning.server import Server
from data_prep.clips import write_clip
from data_prep.manifest import Sample, write_manifest
from hooked_omni.errors import HookedOmniError, MediaError
from hooked_omni.inputs.media import MediaSettings
from hooked_omni.redaction import keep_secret, redacted
from tests.support.judge_server import MODEL, JudgeServer, captions, completion, send

KEY = "sk-Qx7/Zr+91_vB"
ESCAPED = "".join(f"\\u{ord(letter):04x}" for letter in KEY)
SPELLINGS = {
    "as it is": KEY,
    "json": json.dumps(KEY).replace("/", r"\/"),
    "escapes": ESCAPED,
    "half escaped": f"sk-\\u0051{KEY[4:]}",
    "json in json": json.dumps(ESCAPED),
    "address": quote(KEY, safe=""),
    "html": KEY.replace("/", "&#47;").replace("+", "&#x2B;"),
    "broken line": f"{KEY[:6]}\n  {KEY[6:]}",
    "hexadecimal": KEY.encode().hex(),
    **{
        f"base64 after {n}": base64.b64encode(
            b"Bearer:"[:n] + KEY.encode() + b"!"[: n % 2]
        ).decode()
        for n in range(7)
    },
    "base64 of an address": base64.urlsafe_b64encode(KEY.encode()).decode(),
    "bearer": base64.b64encode(f"Bearer {KEY}".encode()).decode(),
}
"""How a server may write what it was sent."""


def leaks(data: bytes) -> bool:
    """Whether the key can be read there: what is left once all spellings are taken out."""
    text = data.decode("latin-1")
    return any(spelled[1:-3] in text for spelled in SPELLINGS.values())


@pytest.fixture
def key(monkeypatch: pytest.MonkeyPatch) -> str:
    for name in ("JUDGE_API_KEY", "OPENAI_API_KEY"):
        monkeypatch.setenv(name, KEY)
    return KEY


@pytest.mark.parametrize("spelled", SPELLINGS.values(), ids=SPELLINGS)
def test_a_secret_is_found_in_any_spelling(key: str, spelled: str) -> None:
    text = f'{{"error": "Wrong: {spelled}, sorry."}}'
    clean = redacted(text)
    assert "[key]" in clean and not leaks(clean.encode())
    assert clean.startswith('{"error": "Wrong: ') and clean.endswith(', sorry."}')
    assert redacted(text.encode()) == clean.encode()
    assert str(MediaError(text)) == clean


@pytest.mark.parametrize("around", ["{}\n", "{}\r\n", " {} ", "{}\n\n"])
def test_a_line_break_around_a_key_is_no_part_of_it(
    monkeypatch: pytest.MonkeyPatch, around: str
) -> None:
    """As of a file that was read into the variable: a client repeats it in its error."""
    monkeypatch.setenv("JUDGE_API_KEY", around.format(KEY))
    header = f"Bearer {around.format(KEY)}"
    for text in (f"Illegal header value {header.encode()!r}", json.dumps(header), KEY):
        assert "[key]" in redacted(text) and not leaks(redacted(text).encode())


def test_what_is_no_secret_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    text = "none of the keys: a dog barks, EMPTY, Qx7, sk-"
    monkeypatch.setenv("JUDGE_API_KEY", "none")
    monkeypatch.setenv("TOKENIZERS_PARALLELISM", "a dog barks")
    assert redacted(text) == text


def test_name_and_password_of_an_address_are_secret() -> None:
    keep_secret("https://anna:pass-Word1@example.org/v1")
    text = "no answer from https://anna:pass-Word1@example.org/v1, Basic YW5uYTpwYXNzLVdvcmQx"
    assert redacted(text) == "no answer from https://[key]@example.org/v1, Basic [key]"
    assert str(HookedOmniError("pass-word1")) == "[key]"


def test_a_key_in_another_encoding_or_in_parts(key: str) -> None:
    for codec in ("utf-8", "utf-16", "utf-16-be", "utf-32", "utf-8-sig"):
        reply = httpx.Response(200, content=json.dumps({"reason": KEY}).encode(codec))
        asyncio.run(connection._redact(reply))
        assert reply.json() == {"reason": "[key]"}
    parts = [{"type": "text", "text": text} for text in ("A dog, ", KEY[:7], KEY[7:])]
    answer = {"choices": [{"message": {"content": parts}, "finish_reason": "stop"}]}
    assert server._text(json.dumps(answer).encode()) == "A dog, [key]"


class EchoServer(JudgeServer):
    """A server that repeats what it was sent: in a header, and in replies or in errors."""

    def __init__(self) -> None:
        super().__init__()
        self.spellings = list(SPELLINGS.values())
        self.status = 200
        self.sent: list[str] = []

    def answer(self, handler: BaseHTTPRequestHandler) -> None:
        handler.rfile.read(int(handler.headers["Content-Length"]))
        self.sent.append(handler.headers["Authorization"])
        handler.request_version, n = "HTTP/1.1", len(self.sent)
        spelled = self.spellings[n % len(self.spellings)].replace("\n", " ")
        reason = f"The header was {spelled} as sent, {KEY}"
        content = json.dumps({"reason": reason, "score": 0.5}) if n % 2 else reason
        if self.status == 200:
            send(handler, 200, json.dumps(completion(content)))
        else:
            send(handler, self.status, json.dumps({"error": {"message": reason}}))


@pytest.fixture
def echo(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, key: str) -> Iterator[EchoServer]:
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setenv("INSPECT_CACHE_DIR", str(tmp_path / "cache"))
    echo = EchoServer()
    yield echo
    echo.stop()


def everything(folder: Path, capfd: Any) -> bytes:
    """Every byte below a folder, also inside archives, and what was printed."""
    read = []
    for path in (path for path in folder.rglob("*") if path.is_file()):
        read.append(path.read_bytes())
        if zipfile.is_zipfile(path):
            with zipfile.ZipFile(path) as archive:
                read += [archive.read(name) for name in archive.namelist()]
    printed = capfd.readouterr()
    return b"\n".join([*read, printed.out.encode(), printed.err.encode()])


@pytest.mark.parametrize("status", [200, 401, 422, 500])
def test_a_judge_that_echoes_its_key(
    echo: EchoServer, tmp_path: Path, capfd: Any, status: int
) -> None:
    echo.status = status
    judge = load_judge(MODEL, echo.url, tmp_path / "logs", connections=2, retries=0)
    try:
        table = judge_items(captions(8), judge, tmp_path / "judged.jsonl")
        table.to_parquet(tmp_path / "scores.parquet", compression=None)
        print(table["reason"].tolist())
    except HookedOmniError as error:
        print(error)
    assert echo.sent[0] == f"Bearer {KEY}"
    found = everything(tmp_path, capfd)
    assert b"[key]" in found and not leaks(found)


@pytest.mark.parametrize("status", [200, 400, 500])
def test_a_captioning_server_that_echoes_its_key(
    echo: EchoServer, tmp_path: Path, capfd: Any, status: int
) -> None:
    echo.status = status
    for i in range(3):
        write_clip(tmp_path / f"{i}.mp4", np.full((4, 48, 64, 3), 60 * i, np.uint8), fps=2)
    samples = [Sample(str(i), video=f"{i}.mp4", seconds=2.0) for i in range(3)]
    manifest = write_manifest(tmp_path / "clips.jsonl", samples)
    media = MediaSettings(fps=1.0, min_frames=2, max_frames=2, min_pixels=784, max_pixels=3136)
    question = Question(media=media, max_tokens=12)
    captioner = Server(echo.url, "vl", question, backoff=0.01, tries=2, workers=1)
    caption_manifest.run(manifest, tmp_path / "captioned.jsonl", captioner)
    assert echo.sent[0] == f"Bearer {KEY}"
    found = everything(tmp_path, capfd)
    assert not leaks(found) and (b"[key]" in found or status == 500)
