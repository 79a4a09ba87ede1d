"""One page that shows every sample, whatever its captions hold."""

import base64
import io
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

import numpy as np
import pytest
from PIL import Image

from data_prep.manifest import Sample, write_manifest
from data_prep.pairing import page as html
from data_prep.pairing.matrix import matrix_path

VOID = {"meta", "input", "img", "br", "link"}
NASTY = "<script>alert('x')</script> \"quoted\" & 'so' </li></article><img src=x onerror=alert(1)>"


class Page(HTMLParser):
    """Elements, their attributes and text; fails on a tag that is closed out of turn."""

    def __init__(self, text: str) -> None:
        super().__init__(convert_charrefs=True)
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text: list[str] = []
        self.feed(text)
        self.close()
        assert not self.open

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] not in ("script", "style"):
            self.text.append(data)

    def sources(self, tag: str) -> list[str]:
        return [str(attributes.get("src")) for name, attributes in self.tags if name == tag]

    def count(self, tag: str) -> int:
        return sum(name == tag for name, _ in self.tags)


@pytest.fixture
def samples(tmp_path: Path) -> list[Sample]:
    names = ["dog.mp4", "a #1 100%?.mp4", "b:c.mp4", "quote\"'<b>.mp4"]
    for name in names:
        (tmp_path / name).touch()
    own = [
        Sample(f"s{i}", video=name, audio_captions=(f"sound {i}", NASTY), similarity=0.6 + i / 50)
        for i, name in enumerate(names)
    ]
    swapped = [
        replace(
            one,
            id=f"{one.id}+{other.id}",
            kind="counterfactual",
            audio=other.video,
            audio_captions=other.audio_captions,
            video_captions=(f"picture of {one.id}",),
            audio_id=other.id,
            similarity=0.1,
            extra={"own_audio_captions": [f"own of {one.id}"]},
        )
        for one, other in zip(own, own[1:] + own[:1], strict=True)
    ]
    return [*swapped, *own]


def page_of(folder: Path, samples: list[Sample], made: dict | None = None) -> Page:
    manifest = write_manifest(folder / "pairs.jsonl", samples, made or {})
    return Page(html.run(manifest, folder / "pairs.html").read_text())


def test_captions_are_text_never_markup(tmp_path: Path, samples: list[Sample]) -> None:
    samples[0] = replace(samples[0], id=NASTY, kind='"><b onclick=alert(1)>')
    page = page_of(tmp_path, samples, {"left_out": {NASTY: NASTY}, "model": NASTY})
    assert page.count("script") == 1
    assert not page.count("b") - len({s.kind for s in samples}) - 2 - len(samples)
    assert not any(name.startswith("on") for _, attributes in page.tags for name in attributes)
    shown = [text.strip() for text in page.text]
    assert shown.count(NASTY) >= len(samples) + 3


def test_every_clip_can_be_played(tmp_path: Path, samples: list[Sample]) -> None:
    page = page_of(tmp_path, samples)

    def files(tag: str) -> list[str]:
        split = [urlsplit(source) for source in page.sources(tag)]
        assert not any(part.scheme or part.netloc or part.query for part in split)
        return [unquote(part.path).removeprefix("./") for part in split]

    assert files("video") == [one.video for one in samples]
    assert files("audio") == [one.audio for one in samples if one.audio]
    assert all((tmp_path / name).is_file() for name in files("video") + files("audio"))
    text = " ".join(page.text)
    for one in samples:
        assert all(caption in text for caption in (*one.audio_captions, *one.video_captions))
    assert "own of s2" in text
    assert "files missing" not in text


def test_the_page_needs_no_other_page(tmp_path: Path, samples: list[Sample]) -> None:
    page = page_of(tmp_path, samples)
    assert not page.count("link")
    assert all(source.startswith("data:image/png;base64,") for source in page.sources("img"))
    assert "http" not in (tmp_path / "pairs.html").read_text()


def test_a_page_elsewhere_finds_the_clips(tmp_path: Path, samples: list[Sample]) -> None:
    manifest = write_manifest(tmp_path / "pairs.jsonl", samples)
    page = Page(html.run(manifest, tmp_path / "pages" / "p.html").read_text())
    for source in page.sources("video"):
        assert (tmp_path / "pages" / unquote(urlsplit(source).path)).is_file()
    (tmp_path / "dog.mp4").unlink()
    assert "Files missing: 1" in " ".join(page_of(tmp_path, samples).text)


def test_the_matrix_is_drawn_only_if_it_is_of_these_samples(tmp_path, samples):
    assert page_of(tmp_path, samples).count("img") == 1  # the histogram
    path, n = matrix_path(tmp_path / "pairs.jsonl"), len(samples)
    similarity = np.linspace(0, 1, n * n).reshape(n, n)
    np.savez(path, ids=[one.id for one in samples], similarity=similarity)
    sources = page_of(tmp_path, samples).sources("img")
    assert len(sources) == 2
    for source in sources:
        image = Image.open(io.BytesIO(base64.b64decode(source.split(",", 1)[1])))
        assert np.asarray(image).std() > 10
    np.savez(path, ids=["other"] * n, similarity=similarity)
    assert page_of(tmp_path, samples).count("img") == 1
    path.write_bytes(b"PK\x03\x04 damage")
    assert page_of(tmp_path, samples).count("img") == 1


@pytest.mark.parametrize("n", [0, 1])
def test_few_samples_without_anything(tmp_path: Path, n: int) -> None:
    page = page_of(tmp_path, [Sample(str(i)) for i in range(n)])
    assert page.count("article") == n
    assert page.count("img") == 0
