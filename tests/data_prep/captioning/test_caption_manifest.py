"""Every sample ends captioned once, or listed as missing with a reason; nothing is made up."""

import base64
import io
import json
import socket
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from functools import partial
from http.server import BaseHTTPRequestHandler
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from data_prep.captioning import caption_manifest as captions
from data_prep.captioning.local import Local
from data_prep.captioning.question import FORM, Question, description
from data_prep.captioning.server import Server
from data_prep.clips import write_clip
from data_prep.journal import Journal
from data_prep.manifest import Sample, read_facts, read_manifest, write_manifest
from hooked_omni.errors import FileError, ManifestError, UnknownModelError
from hooked_omni.inputs.media import MediaSettings
from hooked_omni.organisms.random_weights import random_vl
from tests.support.forked import start
from tests.support.judge_server import JudgeServer, send

QUESTION = Question(
    prompt="What is seen?",
    media=MediaSettings(fps=1.0, min_frames=2, max_frames=2, min_pixels=784, max_pixels=3136),
    max_tokens=12,
)
N_CLIPS = 6
ALL = {str(i): (f"A gray picture, {i}.",) for i in range(N_CLIPS)}


class VisionServer(JudgeServer):
    """A server that really looks: it tells a clip by the gray of its first frame.

    A fault "say ..." is its answer, as it stands; "end ..." is why its answer ended.
    """

    def __init__(self) -> None:
        super().__init__()
        self.headers: list[dict[str, str]] = []

    def answer(self, handler: BaseHTTPRequestHandler) -> None:
        body = json.loads(handler.rfile.read(int(handler.headers["Content-Length"])))
        clip = gray_clip(body)
        with self.lock:
            self.seen[clip] += 1
            self.bodies.append(body)
            self.headers.append(dict(handler.headers))
            faults = self.faults[clip]
            fault = faults[0] if faults else "well"
            if faults and fault[0] != "!":  # "!" stays for good
                faults.pop(0)
            kept = self.answers is not None and self.seen.total() > self.answers
        time.sleep(self.slow)
        if kept:
            self.released.wait()
            return
        if self.refuses & body.keys():
            fault = "400"
        with suppress(BrokenPipeError):  # the client gave up, as it should
            self.reply(handler, fault.removeprefix("!"), clip)

    def reply(self, handler: BaseHTTPRequestHandler, fault: str, clip: str) -> None:
        if fault.isdigit():
            send(handler, int(fault), "{}")
            return
        said = caption_json(f"A gray picture, {clip}.", "gray")
        content = fault.removeprefix("say ") if fault.startswith("say ") else said
        end = fault.removeprefix("end ") if fault.startswith("end ") else "stop"
        text = json.dumps({"choices": [{"message": {"content": content}, "finish_reason": end}]})
        text = {"half": text[: len(text) // 2], "page": "<html>", "null": "null"}.get(fault, text)
        if fault == "hang":
            self.released.wait()
            return
        if fault == "cut":
            handler.connection.shutdown(socket.SHUT_RDWR)
            return
        if fault == "drip":
            send(handler, 200, "", more=len(text))
            for letter in text:
                handler.wfile.write(letter.encode())
                handler.wfile.flush()
                time.sleep(0.03)
            return
        send(handler, 200, text, more=100 * (fault == "short"))


def caption_json(caption: str, *seen: str, visible: bool = True) -> str:
    return json.dumps({"seen": list(seen), "caption": caption, "visible": visible})


def gray_clip(body: dict[str, Any]) -> str:
    url = body["messages"][0]["content"][0]["image_url"]["url"]
    head, data = url.split(",", 1)
    assert head == "data:image/jpeg;base64"
    level = np.asarray(Image.open(io.BytesIO(base64.b64decode(data)))).mean()
    return str(round((level - 40) / 25))


@pytest.fixture
def vision(monkeypatch: pytest.MonkeyPatch) -> Iterator[VisionServer]:
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    vision = VisionServer()
    yield vision
    vision.stop()


@pytest.fixture
def clips(tmp_path: Path) -> Path:
    for i in range(N_CLIPS):
        frames = np.full((4, 48, 64, 3), 40 + 25 * i, np.uint8)
        write_clip(tmp_path / f"{i}.mp4", frames, fps=2)
    samples = [Sample(str(i), video=f"{i}.mp4", seconds=2.0) for i in range(N_CLIPS)]
    return write_manifest(tmp_path / "clips.jsonl", samples)


@pytest.fixture
def out(clips: Path) -> Path:
    return clips.with_name("captioned.jsonl")


def server(vision: VisionServer, **changes: Any) -> Server:
    settings = {"question": QUESTION, "timeout": 5.0, "backoff": 0.01, "tries": 3, "workers": 2}
    return Server(vision.url, "gray-vl", **{**settings, **changes})


def written(out: Path) -> dict[str, tuple[str, ...]]:
    return {sample.id: sample.video_captions for sample in read_manifest(out)}


def test_each_clip_is_described_once(vision: VisionServer, clips: Path, out: Path) -> None:
    assert captions.run(clips, out, server(vision)) == {}
    assert written(out) == ALL
    assert vision.seen == Counter(ALL.keys())
    assert vision.most_busy <= 2
    *images, text = vision.bodies[0]["messages"][0]["content"]
    assert len(images) == 2
    assert text == {"type": "text", "text": f"What is seen?\n{FORM}"}
    form = vision.bodies[0]["response_format"]["json_schema"]["schema"]
    assert form["required"] == ["seen", "caption", "visible"]
    made = read_facts(out)
    assert (made["prompt"], made["model"]) == ("What is seen?", vision.bodies[0]["model"])
    assert made["media"]["max_frames"] == 2
    assert "127.0.0.1" not in out.read_text()


def test_nothing_is_asked_again(vision: VisionServer, clips: Path, out: Path) -> None:
    captions.run(clips, out, server(vision))
    first, requests = out.read_bytes(), vision.seen.total()
    captions.run(clips, out, server(vision))
    assert (out.read_bytes(), vision.seen.total()) == (first, requests)
    captions.run(out, clips.with_name("again.jsonl"), server(vision))  # all are captioned
    assert vision.seen.total() == requests
    other = Question("Another question?", QUESTION.media, QUESTION.max_tokens)
    captions.run(clips, out, server(vision, question=other))
    assert vision.seen.total() == 2 * requests


REFUSALS = (
    "Je ne peux pas voir l'image.",
    "无法查看图片。",
    "I'm sorry, but as a text model I have no eyes.",
    "Lo siento, no tengo acceso al vídeo.",
    "Ich sehe hier leider kein einziges Bild.",
    "画像を見ることができません。",
    "이미지를 볼 수 없습니다.",
    "Не могу просмотреть эти кадры.",  # noqa: RUF001
    "لا أستطيع رؤية الصورة",
    "मैं तस्वीर नहीं देख सकता।",
    "Non riesco ad aprire il filmato.",
    "Não consigo ver nada.",
    "Görüntüyü göremiyorum.",
    "Kuvia ei näy.",
    "Nie mam dostępu do obrazu.",
    "The frames did not arrive.",
    "No image was provided.",
    "Please upload the video first.",
    "Could you attach the pictures?",
    "My guidelines forbid describing people.",
    "This content violates our policy.",
    "Unfortunately the attachment seems to be empty.",
    "There is nothing for me to describe.",
    "As a language model, images are beyond me.",
    "Images are beyond what is possible here.",
    "Only text can be processed by this assistant.",
    "It would be inappropriate to comment.",
    "Request declined.",
    "Error: unsupported media type.",
    "A description cannot be given at this time.",
    "The user sent no footage.",
    "Happy to help once a clip is shared!",
    "Sure! Which video do you mean?",
    "[content removed]",
    "N/A, not available.",
    "Nothing could be loaded, so nothing can be said.",
)
PASSING = ("429", "500", "503", "hang", "cut", "short", "half", "page", "null", "drip")


@pytest.mark.parametrize("fault", [*PASSING, "say ", "say #### 12 !!!", "say I am not able to."])
def test_a_fault_that_passes_is_tried_again(vision, clips, out, fault):
    vision.faults["2"], vision.faults["4"] = [fault], [fault, fault]
    patience = 1.0 if fault in ("hang", "drip") else 60.0
    assert captions.run(clips, out, server(vision, timeout=patience)) == {}
    assert written(out) == ALL
    assert (vision.seen["2"], vision.seen["4"]) == (2, 3)


@pytest.mark.parametrize(
    "fault, tries, reason",
    [
        ("!500", 3, "the server answered 500 (3 tries)"),
        ("!429", 3, "the server answered 429 (3 tries)"),
        ("!hang", 3, "no answer within 1 s (3 tries)"),
        ("!cut", 3, "connection lost"),
        ("!half", 3, "no chat completion in the answer"),
        ("!say ", 3, "no JSON of the form requested: ''"),
        ("!say A dog runs.", 3, "no JSON of the form requested: 'A dog runs.'"),
        (f"!say {caption_json('Leider nein.', visible=False)}", 3, "by the model's own word"),
        ("!end length", 2, "cut off: the answer ended by 'length'"),
        ("!end content_filter", 2, "cut off: the answer ended by 'content_filter'"),
        ("!401", 2, "the server answered 401"),
    ],
)
def test_what_stays_wrong_is_missing(vision, clips, out, fault, tries, reason):
    vision.faults["3"] = [fault]
    patience = 1.0 if fault == "!hang" else 60.0
    missing = captions.run(clips, out, server(vision, timeout=patience))
    assert missing.keys() == {"3"}
    assert reason in missing["3"]
    assert written(out) == {**ALL, "3": ()}
    assert vision.seen["3"] == tries
    assert read_facts(out)["missing"] == missing
    vision.faults["3"] = []
    requests = vision.seen.total()
    assert captions.run(clips, out, server(vision)) == {}  # once it is well, only that one
    assert written(out) == ALL
    assert vision.seen.total() == requests + 1


def test_the_key_is_sent_and_never_kept(vision, clips, out, monkeypatch):
    monkeypatch.setenv("MY_KEY", "secret-word")
    captions.run(clips, out, server(vision, key_variable="MY_KEY"))
    assert vision.headers[0]["Authorization"] == "Bearer secret-word"
    assert not any(b"secret-word" in path.read_bytes() for path in clips.parent.iterdir())


def test_broken_missing_and_shared_clips(vision: VisionServer, clips: Path, out: Path) -> None:
    folder = clips.parent
    (folder / "1.mp4").write_bytes(b"no clip at all")
    extra = [
        Sample("twin", video="0.mp4"),
        Sample("gone", video="gone.mp4"),
        Sample("sound only", audio="0.mp4"),
        Sample("known", video="0.mp4", video_captions=("By hand.",)),
    ]
    write_manifest(clips, [*read_manifest(clips), *extra])
    missing = captions.run(clips, out, server(vision))
    assert missing.keys() == {"1", "gone", "sound only"}
    assert missing["gone"] == "no clip at gone.mp4"
    assert "1.mp4" in missing["1"]
    assert str(folder) not in out.read_text()
    assert written(out)["twin"] == written(out)["0"] == ALL["0"]
    assert written(out)["known"] == ("By hand.",)
    assert vision.seen["0"] == 1
    assert vision.seen.total() == N_CLIPS - 1


def test_a_killed_run_goes_on(vision: VisionServer, clips: Path, out: Path) -> None:
    undisturbed, patient = clips.with_name("undisturbed.jsonl"), server(vision, timeout=60.0)
    captions.run(clips, undisturbed, patient)
    vision.seen.clear()
    vision.answers = 2
    journal = out.with_name("captioned.captions.jsonl")
    process = start(captions.run, clips, out, patient)
    lines = lambda: journal.read_bytes().count(b"\n") if journal.exists() else 0  # noqa: E731
    while vision.seen.total() < 4 or lines() < 2:  # two wait, and nothing more is requested
        assert process.is_alive()
        time.sleep(0.01)
    process.kill()
    process.join()
    assert not out.exists() and lines() == 2
    with journal.open("ab") as file:
        file.write(b'{"key": "half a li')  # as if it had been killed while writing
    vision.answers = None
    vision.seen.clear()
    captions.run(clips, out, patient)
    assert vision.seen.total() == N_CLIPS - 2
    assert out.read_bytes() == undisturbed.read_bytes()


def test_a_full_disk_keeps_what_is_done(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "j.jsonl")
    journal.put("a", ["one"])
    full = Journal(tmp_path / "full.jsonl")
    (tmp_path / "full.jsonl").symlink_to("/dev/full")  # every write fails: no space is left
    with pytest.raises(FileError, match=r"full\.jsonl"):
        full.put("b", ["two"])
    assert "b" not in full
    assert Journal(tmp_path / "j.jsonl").get("a") == ["one"]


@pytest.mark.parametrize(
    "name, text",
    [
        ("c.json", '{"0": "A cat.", "1": ["A dog.", " ", "A  dog."]}'),
        ("c.json", '\ufeff[{"id": 0, "caption": "A cat."}, {"id": 1, "captions": ["A dog."]}]'),
        ("c.csv", 'id,caption\n0,A cat.\n1,"A\ndog."\n'),
        ("c.csv", 'id,caption\r\n0,A cat.\r\n1,"A\ndog."\r\n1,A dog.\r\n1,\r\n'),
    ],
)
def test_captions_from_a_file(clips: Path, out: Path, name: str, text: str) -> None:
    path = clips.with_name(name)
    path.write_bytes(text.encode("utf-16" if "\r" in text else "utf-8"))
    missing = captions.run(clips, out, path)
    assert missing == {str(i): f"no caption in {name}" for i in range(2, N_CLIPS)}
    assert (written(out)["0"], written(out)["1"]) == (("A cat.",), ("A dog.",))
    assert read_facts(out)["file"] == name


@pytest.mark.parametrize(
    "name, data, error, message",
    [
        ("c.csv", b"id,text\n0,a\n", ManifestError, "'caption'.* missing"),
        ("c.csv", b"id,caption\n0\n", ManifestError, "line 2, got 1"),
        ("c.csv", b"id,caption,caption\n0,a,b\n", ManifestError, "missing or doubled"),
        ("c.csv", b"id,caption\n0,a, b\n", ManifestError, "expected 2 cells in .* got 3"),
        ("c.csv", b'id,caption\n0,"A dog barks\n1,A cat\n2,b\n', ManifestError, "unexpected end"),
        ("c.csv", b'id,caption\n0,"A dog barks\n1,A cat"\n2,b\n', ManifestError, "like a row"),
        ("c.csv", b'id,caption,x\n0,"A dog\n1,A cat",v\n2,b,v\n', ManifestError, "like a row"),
        ("c.csv", b'id,caption\n0,"A dog" barks\n', ManifestError, "',' expected after"),
        ("c.csv", b"id,caption\n0,A \0dog\n", FileError, "line 2, got a zero byte"),
        ("c.csv", "id,caption\n0,A dog\n".encode("utf-32"), FileError, "zero byte"),
        ("c.csv", b"id,caption\n0,caf\xe9\n", FileError, "line 2, got byte 0xe9"),
        ("c.json", b'{"0": "a", "0": "b"}', FileError, "more than once"),
        ("c.json", b"{", FileError, "c.json"),
        ("c.json", b"3", ManifestError, "got '3'"),
        ("c.json", b'[{"id": null, "caption": "A cat."}]', ManifestError, "objects with id"),
        ("c.json", b'[{"id": [0], "caption": "A cat."}]', ManifestError, "objects with id"),
        ("c.json", b'{"0": 3}', ManifestError, "for '0' in .*got '3'"),
        ("c.json", b'{"0": [null]}', ManifestError, "for '0' in"),
    ],
)
def test_a_wrong_file_is_refused(clips, out, name, data, error, message):
    path = clips.with_name(name)
    path.write_bytes(data)
    with pytest.raises(error, match=message):
        captions.run(clips, out, path)
    assert not out.exists()


def local(folder: Path, tokens: list[str], cycle: bool = False) -> Local:
    """A model that writes these tokens, whatever it sees; in a `cycle` it never ends."""
    model, processor = random_vl()
    tokenizer: Any = processor.tokenizer  # pyright: ignore[reportAttributeAccessIssue]
    tokenizer.add_tokens([token for token in tokens if len(token) > 1])
    model.resize_token_embeddings(len(tokenizer))
    chain = [tokenizer(token)["input_ids"][0] for token in ("\n", *tokens)]
    chain.append(chain[1] if cycle else model.generation_config.eos_token_id)
    with torch.no_grad():
        for layer in model.model.language_model.layers:
            layer.self_attn.o_proj.weight.zero_()
            layer.mlp.down_proj.weight.zero_()
        embeds = model.get_input_embeddings().weight
        embeds[chain[:-1]] = torch.randn(len(chain) - 1, embeds.shape[1])
        head = torch.zeros_like(embeds)
        for token, following in pairwise(chain):
            head[following] += 10 * embeds[token]
    model.config.tie_word_embeddings = model.config.text_config.tie_word_embeddings = False
    model.lm_head.weight = torch.nn.Parameter(head)
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    return Local(str(folder), QUESTION)


def test_a_local_model_describes(clips: Path, tmp_path: Path, out: Path) -> None:
    model = local(tmp_path / "vl", [caption_json("A gray wall.", "wall")])
    assert captions.run(clips, out, model) == {}
    assert written(out) == dict.fromkeys(ALL, ("A gray wall.",))
    assert read_facts(out)["model"] == "vl"
    first = out.read_bytes()
    captions.run(clips, out, model)
    assert out.read_bytes() == first


def test_a_local_model_that_refuses_or_never_ends(clips: Path, tmp_path: Path, out: Path) -> None:
    refusing = local(tmp_path / "a", [caption_json("Je ne vois rien.", visible=False)])
    missing = captions.run(clips, out, refusing)
    assert missing.keys() == ALL.keys()
    assert all("by the model's own word" in reason for reason in missing.values())
    endless = captions.run(clips, out, local(tmp_path / "b", ["a", "b", "c"], cycle=True))
    assert set(endless.values()) == {"cut off after 12 tokens"}
    assert set(written(out).values()) == {()}


def test_no_local_model(clips: Path, tmp_path: Path, out: Path) -> None:
    with pytest.raises(UnknownModelError, match="expected a vision-language model"):
        captions.run(clips, out, Local(str(tmp_path)))


@pytest.mark.parametrize(
    "wrap", ["{}", "```json\n{}\n```", "```{}```", "<think>Hm {{</think>\n\n{}"]
)
def test_a_description_is_one_line(wrap: str) -> None:
    for caption, seen in (
        (" A dog\n runs. ", ["brown dog"]),
        ("一只狗在跑。", ["狗"]),
        ("Ein Hund läuft.", ["Mensch", "Hund"]),
        ('A sign says "I cannot see you".', ["Sign"]),
    ):
        assert description(wrap.format(caption_json(caption, *seen))) == " ".join(caption.split())


@pytest.mark.parametrize(
    "answer",
    [
        *("", " \n", "...", "<think>a dog that never", "1234", "A dog runs.", "[]", "null", "3"),
        *('"A dog runs."', '{"caption": "A dog runs."}', '{"visible": true, "caption": "A dog."}'),
        f"[{caption_json('A dog.', 'dog')}]",
        f"Here it is: {caption_json('A dog.', 'dog')}",
        f"<think>{caption_json('A dog.', 'dog')}",
        caption_json("A dog.", "dog")[:-1],
        caption_json("A dog.", "dog") * 2,
        '{"seen": ["dog"], "caption": "A dog.", "visible": "true"}',
        '{"seen": ["dog"], "caption": "A dog.", "visible": 1}',
        '{"seen": "dog", "caption": "A dog.", "visible": true}',
        '{"seen": [3], "caption": "A dog 3.", "visible": true}',
        '{"seen": ["dog"], "caption": ["A dog."], "visible": true}',
        '{"seen": ["dog"], "caption": null, "visible": true}',
        '{"seen": ["dog"], "caption": "A dog.", "visible": true, "visible": false}',
        caption_json("A dog.", "dog", visible=False),
        caption_json("A dog."),
        caption_json("A dog.", "horse", ""),
        caption_json("There is no image.", "image", "the image"),
        caption_json("", "dog"),
        caption_json("... dog ...", ""),
        caption_json("dog " * 40, "dog"),
        caption_json(caption_json("A dog.", "dog"), "dog"),
        caption_json("A dog \ufffd runs.", "dog"),
    ],
)
def test_what_is_no_description_is_refused(answer: str) -> None:
    with pytest.raises(captions.NoCaptionError):
        description(answer)


def test_a_refusal_in_any_words_is_no_caption(vision: VisionServer, clips: Path) -> None:
    ways = (str, partial(caption_json, visible=False), caption_json)
    ways = (*ways, lambda words: caption_json(words, "dog", "grass", "犬"))
    ways = (*ways, lambda words: caption_json(words, "no image", "images", "media file", "unknown"))
    ways = (*ways, lambda words: caption_json(words, f"nothing: {words}", f"not available {words}"))
    one = server(vision, tries=len(ways), backoff=1e-6)
    for words in REFUSALS:
        vision.faults["0"] = [f"say {way(words)}" for way in ways]
        with pytest.raises(captions.NoCaptionError):
            one.caption(clips.with_name("0.mp4"))
    assert vision.seen == Counter({"0": len(ways) * len(REFUSALS)})
    assert len(REFUSALS) >= 30


@pytest.mark.parametrize("refuses", [set(), {"response_format"}])
def test_a_server_with_and_without_schemas(vision, clips, out, refuses):
    vision.refuses = refuses
    assert captions.run(clips, out, server(vision)) == {}
    assert written(out) == ALL
    assert vision.seen.total() == N_CLIPS * (1 + len(refuses))
    assert all(("response_format" in body) or refuses for body in vision.bodies)


@pytest.mark.parametrize("url", ["", "localhost:8000", "ftp://host", "http://"])
def test_a_wrong_address_is_refused(url: str) -> None:
    with pytest.raises(ManifestError, match="expected the address of a server"):
        Server(url, "m")
