"""Every sample ends captioned once, or listed as missing with a reason; nothing is made up."""

import base64
import io
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections import Counter, defaultdict
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from data_prep.captioning import captions
from data_prep.captioning.captioners import Local, Question, Server, described
from data_prep.captioning.captions import CaptionFile
from data_prep.clips import write_clip
from data_prep.journal import Journal
from data_prep.manifest import Sample, read_facts, read_manifest, write_manifest
from hooked_omni.errors import ManifestError, UnknownModelError
from hooked_omni.inputs.media import MediaSettings
from hooked_omni.organisms.random_weights import random_vl
from tests.support.places import ROOT

QUESTION = Question(
    prompt="What is seen?",
    media=MediaSettings(fps=1.0, min_frames=2, max_frames=2, min_pixels=784, max_pixels=3136),
    max_tokens=12,
)
N_CLIPS = 6


class Vision:
    """A server that really looks: it tells a clip by the gray of its first frame."""

    def __init__(self) -> None:
        self.faults: dict[int, list[str]] = defaultdict(list)
        self.seen: Counter[int] = Counter()
        self.bodies: list[dict[str, Any]] = []
        self.headers: list[dict[str, str]] = []
        self.slow = 0.0
        self.busy = self.most_busy = 0
        self.lock = threading.Lock()
        vision = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                with vision.lock:
                    vision.busy += 1
                    vision.most_busy = max(vision.busy, vision.most_busy)
                try:
                    vision.answer(self)
                finally:
                    with vision.lock:
                        vision.busy -= 1

            def log_message(self, format: str, *args: Any) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self.server.server_port}/v1"
        threading.Thread(target=self.server.serve_forever, args=(0.02,), daemon=True).start()

    def answer(self, handler: BaseHTTPRequestHandler) -> None:
        body = json.loads(handler.rfile.read(int(handler.headers["Content-Length"])))
        clip = gray_clip(body)
        with self.lock:
            self.seen[clip] += 1
            self.bodies.append(body)
            self.headers.append(dict(handler.headers))
            faults = self.faults[clip]
            fault = faults[0] if faults else "well"
            if len(faults) > 1 or (faults and fault[0] != "!"):
                faults.pop(0)
        time.sleep(self.slow)
        fault = fault.removeprefix("!")  # "!" stays for good
        if fault.isdigit():
            handler.send_response(int(fault))
            handler.send_header("Retry-After", "0")
            handler.end_headers()
            return
        said = {"empty": "", "nonsense": "#### 12 !!!", "refusal": "I'm sorry, I can't help."}
        text = json.dumps(
            {"choices": [{"message": {"content": said.get(fault, f"A gray picture, {clip}.")}}]}
        )
        text = {"half": text[: len(text) // 2], "page": "<html>", "null": "null"}.get(fault, text)
        if fault == "hang":
            time.sleep(0.6)
        if fault == "cut":
            handler.connection.shutdown(socket.SHUT_RDWR)
            return
        handler.send_response(200)
        handler.send_header("Content-Length", str(len(text) + 100 * (fault == "short")))
        handler.end_headers()
        if fault == "drip":
            for letter in text:
                handler.wfile.write(letter.encode())
                handler.wfile.flush()
                time.sleep(0.05)
            return
        handler.wfile.write(text.encode())


def gray_clip(body: dict[str, Any]) -> int:
    url = body["messages"][0]["content"][0]["image_url"]["url"]
    head, data = url.split(",", 1)
    assert head == "data:image/jpeg;base64"
    level = np.asarray(Image.open(io.BytesIO(base64.b64decode(data)))).mean()
    return round((level - 40) / 25)


@pytest.fixture
def vision(monkeypatch: pytest.MonkeyPatch) -> Iterator[Vision]:
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    vision = Vision()
    yield vision
    vision.server.shutdown()
    vision.server.server_close()


@pytest.fixture
def clips(tmp_path: Path) -> Path:
    for i in range(N_CLIPS):
        frames = np.full((4, 48, 64, 3), 40 + 25 * i, np.uint8)
        write_clip(tmp_path / f"{i}.mp4", frames, fps=2)
    samples = [Sample(str(i), video=f"{i}.mp4", seconds=2.0) for i in range(N_CLIPS)]
    return write_manifest(tmp_path / "clips.jsonl", samples)


def server(vision: Vision, **changes: Any) -> Server:
    settings = {"question": QUESTION, "timeout": 5.0, "backoff": 0.01, "tries": 3, "workers": 2}
    return Server(vision.url, "gray-vl", **{**settings, **changes})


def said(out: Path) -> dict[str, tuple[str, ...]]:
    return {sample.id: sample.video_captions for sample in read_manifest(out)}


ALL = {str(i): (f"A gray picture, {i}.",) for i in range(N_CLIPS)}


def test_each_clip_is_described_once(vision: Vision, clips: Path) -> None:
    out = clips.with_name("captioned.jsonl")
    assert captions.run(clips, out, server(vision)) == {}
    assert said(out) == ALL
    assert vision.seen == dict.fromkeys(range(N_CLIPS), 1)
    assert vision.most_busy <= 2
    *images, text = vision.bodies[0]["messages"][0]["content"]
    assert len(images) == 2
    assert text == {"type": "text", "text": "What is seen?"}
    assert vision.bodies[0]["model"] == "gray-vl"
    made = read_facts(out)
    assert made["prompt"] == "What is seen?"
    assert made["model"] == "gray-vl"
    assert made["media"]["max_frames"] == 2
    assert "127.0.0.1" not in out.read_text()


def test_nothing_is_asked_again(vision: Vision, clips: Path) -> None:
    out = clips.with_name("captioned.jsonl")
    captions.run(clips, out, server(vision))
    first, asked = out.read_bytes(), vision.seen.total()
    captions.run(clips, out, server(vision))
    assert (out.read_bytes(), vision.seen.total()) == (first, asked)
    captions.run(out, clips.with_name("again.jsonl"), server(vision))  # all are captioned
    assert vision.seen.total() == asked
    other = Question("Another question?", QUESTION.media, QUESTION.max_tokens)
    captions.run(clips, out, server(vision, question=other))
    assert vision.seen.total() == 2 * asked


PASSING = ("429", "500", "503", "hang", "cut", "short", "half", "page", "null", "drip")


@pytest.mark.parametrize("fault", [*PASSING, "empty", "nonsense", "refusal"])
def test_a_fault_that_passes_is_tried_again(vision: Vision, clips: Path, fault: str) -> None:
    vision.faults[2], vision.faults[4] = [fault], [fault, fault]
    out = clips.with_name("captioned.jsonl")
    assert captions.run(clips, out, server(vision, timeout=0.25)) == {}
    assert said(out) == ALL
    assert vision.seen[2] == 2
    assert vision.seen[4] == 3


@pytest.mark.parametrize(
    "fault, tries, reason",
    [
        ("!500", 3, "the server answered 500 (3 tries)"),
        ("!429", 3, "the server answered 429 (3 tries)"),
        ("!hang", 3, "no answer within 0.25 s (3 tries)"),
        ("!cut", 3, "connection lost"),
        ("!half", 3, "no chat completion in the answer"),
        ("!empty", 3, "no words in the answer ''"),
        ("!nonsense", 3, "no words in the answer '#### 12 !!!'"),
        ("!refusal", 3, "a refusal"),
        ("!401", 1, "the server answered 401"),
    ],
)
def test_what_stays_wrong_is_missing(
    vision: Vision, clips: Path, fault: str, tries: int, reason: str
) -> None:
    vision.faults[3] = [fault]
    out = clips.with_name("captioned.jsonl")
    missing = captions.run(clips, out, server(vision, timeout=0.25))
    assert missing.keys() == {"3"}
    assert reason in missing["3"]
    assert said(out) == {**ALL, "3": ()}
    assert vision.seen[3] == tries
    assert read_facts(out)["missing"] == missing
    vision.faults[3] = []
    asked = vision.seen.total()
    assert captions.run(clips, out, server(vision)) == {}  # once it is well, only that one
    assert said(out) == ALL
    assert vision.seen.total() == asked + 1


def test_no_server_at_all(clips: Path, tmp_path: Path) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{free.getsockname()[1]}/v1"
    gone = Server(url, "m", QUESTION, tries=2, backoff=0.01)
    missing = captions.run(clips, tmp_path / "out.jsonl", gone)
    assert len(missing) == N_CLIPS
    assert all("connection lost" in reason for reason in missing.values())


def test_the_key_is_sent_and_never_kept(
    vision: Vision, clips: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MY_KEY", "secret-word")
    captions.run(clips, clips.with_name("out.jsonl"), server(vision, key_variable="MY_KEY"))
    assert vision.headers[0]["Authorization"] == "Bearer secret-word"
    assert not any(b"secret-word" in path.read_bytes() for path in clips.parent.iterdir())


def test_broken_missing_and_shared_clips(vision: Vision, clips: Path) -> None:
    folder = clips.parent
    (folder / "1.mp4").write_bytes(b"no clip at all")
    extra = [
        Sample("twin", video="0.mp4"),
        Sample("gone", video="gone.mp4"),
        Sample("sound only", audio="0.mp4"),
        Sample("known", video="0.mp4", video_captions=("By hand.",)),
    ]
    write_manifest(clips, [*read_manifest(clips), *extra])
    out = folder / "out.jsonl"
    missing = captions.run(clips, out, server(vision))
    assert missing.keys() == {"1", "gone", "sound only"}
    assert missing["gone"] == "no clip at gone.mp4"
    assert "1.mp4" in missing["1"]
    assert str(folder) not in out.read_text()
    assert said(out)["twin"] == said(out)["0"] == ALL["0"]
    assert said(out)["known"] == ("By hand.",)
    assert vision.seen[0] == 1
    assert vision.seen.total() == N_CLIPS - 1


RUN = """
import sys
from pathlib import Path
from data_prep import captions
from data_prep.captioning.captioners import Question, Server
from hooked_omni.inputs.media import MediaSettings
media = MediaSettings(fps=1.0, min_frames=2, max_frames=2, min_pixels=784, max_pixels=3136)
question = Question("What is seen?", media, 12)
source = Server(sys.argv[3], "gray-vl", question, workers=2)
captions.run(Path(sys.argv[1]), Path(sys.argv[2]), source)
"""


def test_a_killed_run_goes_on(vision: Vision, clips: Path) -> None:
    undisturbed = clips.with_name("undisturbed.jsonl")
    captions.run(clips, undisturbed, server(vision))
    vision.seen.clear()
    vision.slow = 0.3
    out = clips.with_name("out.jsonl")
    journal = out.with_name("out.captions.jsonl")
    process = subprocess.Popen(
        [sys.executable, "-c", RUN, str(clips), str(out), vision.url],
        cwd=ROOT,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    while not (journal.exists() and journal.read_bytes().count(b"\n") >= 2):
        assert process.poll() is None
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait()
    time.sleep(0.4)
    assert not out.exists()
    with journal.open("ab") as file:
        file.write(b'{"key": "half a li')  # as if it had been killed while writing
    done = journal.read_bytes().count(b"\n")
    assert 2 <= done < N_CLIPS
    vision.slow = 0.0
    vision.seen.clear()
    captions.run(clips, out, server(vision))
    assert vision.seen.total() == N_CLIPS - done
    assert out.read_bytes() == undisturbed.read_bytes()


def test_a_full_disk_keeps_what_is_done(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "j.jsonl")
    journal.put("a", ["one"])
    full = Journal(tmp_path / "full.jsonl")
    (tmp_path / "full.jsonl").symlink_to("/dev/full")  # every write fails: no space is left
    with pytest.raises(ManifestError, match="expected room for one more line"):
        full.put("b", ["two"])
    assert "b" not in full
    assert Journal(tmp_path / "j.jsonl").get("a") == ["one"]


@pytest.mark.parametrize(
    "name, text",
    [
        ("c.json", '{"0": "A cat.", "1": ["A dog.", " ", "A  dog."]}'),
        ("c.json", '\ufeff[{"id": 0, "caption": "A cat."}, {"id": 1, "captions": ["A dog."]}]'),
        ("c.csv", '\ufeffid,caption\r\n0,A cat.\r\n1,"A\ndog."\r\n1,A dog.\r\n1,\r\n'),
    ],
)
def test_captions_from_a_file(clips: Path, name: str, text: str) -> None:
    path, out = clips.with_name(name), clips.with_name("out.jsonl")
    path.write_bytes(text.encode())
    missing = captions.run(clips, out, CaptionFile(path))
    assert missing == {str(i): f"no caption in {name}" for i in range(2, N_CLIPS)}
    assert said(out)["0"] == ("A cat.",)
    assert said(out)["1"] == ("A dog.",)
    assert read_facts(out)["file"] == name


@pytest.mark.parametrize(
    "name, data, message",
    [
        ("c.csv", b"id,text\n0,a\n", "expected the columns id and caption"),
        ("c.csv", b"id,caption\n0,a, and b\n", "line 2 .*Quote captions that hold commas"),
        ("c.csv", b"id,caption\n0\n", "line 2"),
        ("c.csv", "id,caption\n0,caf\xe9\n".encode("latin-1"), "expected UTF-8"),
        ("c.csv", b"", "expected the columns id and caption"),
        ("c.json", b"{", "expected JSON"),
        ("c.json", b"3", "expected id -> captions"),
        ("c.json", b'{"0": 3}', "expected a caption or a list of captions for '0'"),
        ("c.json", b'{"0": [null]}', "expected a caption or a list of captions for '0'"),
    ],
)
def test_a_wrong_file_is_refused(clips: Path, name: str, data: bytes, message: str) -> None:
    path, out = clips.with_name(name), clips.with_name("out.jsonl")
    path.write_bytes(data)
    with pytest.raises(ManifestError, match=message):
        captions.run(clips, out, CaptionFile(path))
    assert not out.exists()


def test_a_local_model_describes(clips: Path, tmp_path: Path) -> None:
    model, processor = random_vl()
    # Planted: whatever it sees, it says "abcabc...", by the embedding of the token before.
    plant(model, processor.tokenizer, "abc")
    model.save_pretrained(tmp_path / "vl")
    processor.save_pretrained(tmp_path / "vl")
    source, out = Local(str(tmp_path / "vl"), QUESTION), tmp_path / "out.jsonl"
    assert captions.run(clips, out, source) == {}
    assert {len(own) for own in said(out).values()} == {1}
    assert {own[0] for own in said(out).values()} <= {"abc" * 4, "bca" * 4, "cab" * 4}
    assert read_facts(out)["model"] == "vl"
    first = out.read_bytes()
    captions.run(clips, out, Local(str(tmp_path / "vl"), QUESTION))
    assert out.read_bytes() == first


def plant(model: Any, tokenizer: Any, word: str) -> None:
    """Only the letters of `word` have an output row, each rotated from the one before."""
    import torch

    letters = [tokenizer(letter)["input_ids"][0] for letter in word]
    with torch.no_grad():
        for layer in model.model.language_model.layers:
            layer.self_attn.o_proj.weight.zero_()
            layer.mlp.down_proj.weight.zero_()
        embeds = model.get_input_embeddings().weight
        head = torch.zeros_like(embeds)
        for index, token in enumerate(letters):
            head[letters[(index + 1) % len(letters)]] = 10 * embeds[token]
    model.config.tie_word_embeddings = model.config.text_config.tie_word_embeddings = False
    model.lm_head.weight = torch.nn.Parameter(head)


def test_no_local_model(clips: Path, tmp_path: Path) -> None:
    with pytest.raises(UnknownModelError, match="expected a vision-language model"):
        captions.run(clips, tmp_path / "out.jsonl", Local(str(tmp_path)))


@pytest.mark.parametrize(
    "answer, text",
    [
        (" A dog\n runs. ", "A dog runs."),
        ("<think>Frames... </think>\n\nA dog runs.", "A dog runs."),
        ("一只狗在跑。", "一只狗在跑。"),
        ("Ein Hund läuft.", "Ein Hund läuft."),
    ],
)
def test_a_description_is_one_line(answer: str, text: str) -> None:
    assert described(answer) == text


@pytest.mark.parametrize(
    "answer",
    [
        "",
        " \n",
        "...",
        "<think>a dog that never",
        "1234 5678",
        "dog " * 40,
        "I cannot see.",
    ],
)
def test_no_description_is_refused(answer: str) -> None:
    with pytest.raises(Exception, match=r"no words|over and over|refusal"):
        described(answer)


@pytest.mark.parametrize("url", ["", "localhost:8000", "ftp://host", "http://"])
def test_a_wrong_address_is_refused(url: str) -> None:
    with pytest.raises(ManifestError, match="expected the address of a server"):
        Server(url, "m")
