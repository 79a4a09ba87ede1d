"""What may stand in a prompt, and what a picture gives."""

import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import pytest

from hooked_omni import Prompt
from hooked_omni.errors import MediaError, PromptError
from hooked_omni.inputs.image import read_image
from hooked_omni.inputs.items import PromptItem
from hooked_omni.inputs.media import MEMORY, MediaSettings


def test_one_clip_and_one_question_are_items_too():
    words = PromptItem("text", "What?")
    assert Prompt("What?", "v.mp4").content == (words, PromptItem("video", "v.mp4"))
    assert Prompt("What?", "v.mp4", "a.wav").content == (
        words,
        PromptItem("video", "v.mp4", "a.wav"),
    )
    apart = Prompt("What?", "v.mp4", "a.wav", use_audio_in_video=False)
    assert apart.content == (words, PromptItem("video", "v.mp4"), PromptItem("audio", "a.wav"))
    assert Prompt("What?", audio="a.wav").content == (words, PromptItem("audio", "a.wav"))
    listed = Prompt(items=[("audio", "a.wav"), ["text", "What?"]])
    assert listed.content == (PromptItem("audio", "a.wav"), words) and hash(listed)


WRONG: dict[str, dict[str, Any]] = {
    "no items": dict(items=[]),
    "items beside a video": dict(items=[("text", "What?")], video="v.mp4"),
    "items beside words": dict(text="What?", items=[("audio", "a.wav")]),
    "no words": dict(items=[("video", "v.mp4")]),
    "blank words": dict(items=[("text", " \n"), ("video", "v.mp4")]),
    "an unknown kind": dict(items=[("film", "v.mp4"), ("text", "What?")]),
    "a kind alone": dict(items=[("text",), ("text", "What?")]),
    "no tuple": dict(items=["video", "v.mp4"]),
    "a dict": dict(items={"text": "What?"}),
    "a list of files": dict(items=[("video", ["a.mp4", "b.mp4"]), ("text", "What?")]),
    "no file": dict(items=[("video", None), ("text", "What?")]),
    "an image with sound": dict(items=[("image", "i.png", "a.wav"), ("text", "What?")]),
    "words from a path": dict(items=[("text", Path("a.txt"))]),
    "a number for turns": dict(text="What?", turns=3),
    "a turn of the system": dict(text="What?", turns=[("system", "Be brief.")]),
    "a turn without role": dict(text="What?", turns=["What?"]),
    "an empty turn": dict(text="What?", turns=[("user", [])]),
    "blank words in a turn": dict(text="What?", turns=[("user", "")]),
    "a picture of the assistant": dict(text="What?", turns=[("assistant", [("image", "i.png")])]),
    "a number of turns": dict(text="What?", turns=[("user", 3)]),
    "a sound inside and not": dict(
        items=[("video", "v.mp4", "a.wav"), ("text", "What?")], use_audio_in_video=False
    ),
}


@pytest.mark.usefixtures("as_installed")
@pytest.mark.parametrize("given", WRONG.values(), ids=WRONG)
def test_what_is_no_prompt_is_refused(given):
    with pytest.raises(PromptError, match=r"^expected .*got .*\. [A-Z]"):
        Prompt(**given)


def picture(
    path: Path, mode: str = "RGB", size: tuple[int, int] = (60, 40), **options: Any
) -> Path:
    """The left half dark."""
    gray = np.full((size[1], size[0]), 200, np.uint8)
    gray[:, : size[0] // 2] = 20
    PIL.Image.fromarray(gray).convert(mode).save(path, **options)
    return path


def test_a_picture_is_read_upright_and_sized(tmp_path):
    plain = read_image(picture(tmp_path / "a.png"))
    assert plain.pixels.shape == (3, 56, 84) and plain.notes == ()
    assert plain.pixels[:, :, 0].max() < 40 and plain.pixels[:, :, -1].min() > 180
    exif = PIL.Image.Exif()
    exif[0x0112] = 3  # upside down
    turned = read_image(picture(tmp_path / "b.jpg", exif=exif))
    assert turned.pixels[:, :, 0].min() > 160 and turned.notes == ("turned as its EXIF says",)
    wide = read_image(picture(tmp_path / "c.png", size=(640, 360)), MediaSettings(size_factor=28))
    assert wide.pixels.shape == (3, 364, 644)
    clear = PIL.Image.new("RGBA", (60, 60), (0, 0, 0, 0))
    clear.save(tmp_path / "d.png")
    assert read_image(tmp_path / "d.png").pixels.min() == 255


CORNERS = np.array([[0, 80], [160, 240]], np.uint8)
TURNS = {
    **dict.fromkeys((None, 0, 1, 9, 10, 11, 255, 65_535), CORNERS),  # no turn that EXIF knows
    **{2: CORNERS[:, ::-1], 3: CORNERS[::-1, ::-1], 4: CORNERS[::-1], 5: CORNERS.T},
    **{6: np.rot90(CORNERS, -1), 7: CORNERS[::-1, ::-1].T, 8: np.rot90(CORNERS)},
}


@pytest.mark.parametrize("ending", ["png", "jpg", "tif"])
@pytest.mark.parametrize("orientation", TURNS)
def test_a_picture_is_turned_as_its_camera_says(tmp_path, orientation, ending):
    exif = PIL.Image.Exif()
    if orientation is not None:
        exif[0x0112] = orientation
    whole, path = CORNERS.repeat(56, axis=0).repeat(84, axis=1), tmp_path / f"a.{ending}"
    lying = ending == "tif" and orientation in (5, 6, 7, 8)  # else Pillow mixes it up
    compressed = {"compression": "tiff_lzw"} if lying else {}
    PIL.Image.fromarray(whole).save(path, exif=exif, **compressed)
    read, due = read_image(path, MediaSettings(size_factor=28)), TURNS[orientation]
    corners = read.pixels[0][[0, 0, -1, -1], [0, -1, 0, -1]].reshape(2, 2).numpy()
    assert np.abs(corners - due).max() < 8
    sides = (112, 168) if orientation not in (5, 6, 7, 8) else (168, 112)
    assert read.pixels.shape[1:] == sides
    assert read.notes == (() if due is CORNERS else ("turned as its EXIF says",))


def test_a_picture_that_pillow_turns_wrongly_is_refused(tmp_path):
    exif, path = PIL.Image.Exif(), tmp_path / "a.tif"
    exif[0x0112] = 6
    PIL.Image.fromarray(CORNERS.repeat(56, axis=0).repeat(84, axis=1)).save(path, exif=exif)
    with pytest.raises(MediaError, match=r"expected a picture of \(112, 168\).* got one of"):
        read_image(path)


def png(path: Path, color: int, depth: int) -> Path:
    """40 x 40 points, by hand: Pillow writes no colors of 16 bits."""
    channels = {0: 1, 2: 3, 4: 2, 6: 4}[color]
    line = b"\0" + b"\x80\x01" * (40 * channels * depth // 16)
    header = struct.pack(">IIBBBBB", 40, 40, depth, color, 0, 0, 0)
    parts = [(b"IHDR", header), (b"IDAT", zlib.compress(line * 40)), (b"IEND", b"")]
    chunks = [
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        for kind, data in parts
    ]
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + b"".join(chunks))
    return path


@pytest.mark.parametrize("color", [0, 2, 4, 6], ids=["gray", "RGB", "gray and alpha", "RGBA"])
def test_a_picture_of_16_bits_a_channel_is_refused(tmp_path, color):
    assert read_image(png(tmp_path / "a.png", color, 8)).pixels.shape == (3, 56, 56)
    with pytest.raises(MediaError, match=r"expected one picture of 8 bits a color .* got .*16"):
        read_image(png(tmp_path / "b.png", color, 16))


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGBA", "CMYK"])
def test_every_mode_of_8_bits_is_the_same_picture(tmp_path, mode):
    path = picture(tmp_path / ("a.tif" if mode == "CMYK" else "a.png"), mode)
    dark, light = read_image(path).pixels[:, :, 0].mean(), read_image(path).pixels[:, :, -1].mean()
    assert dark < 40 < 180 < light


def test_what_is_no_picture_is_refused(tmp_path, monkeypatch):
    whole = picture(tmp_path / "whole.png", size=(300, 300)).read_bytes()
    (tmp_path / "cut.png").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "words.png").write_text("no picture")
    (tmp_path / "empty.png").write_bytes(b"")
    PIL.Image.fromarray(np.full((40, 40), 40_000, np.uint16)).save(tmp_path / "deep.png")
    two = [PIL.Image.new("L", (40, 40), level) for level in (0, 255)]
    two[0].save(tmp_path / "moves.gif", save_all=True, append_images=two[1:])
    picture(tmp_path / "line.png", size=(4000, 10))
    for name in (
        "cut.png",
        "words.png",
        "empty.png",
        "deep.png",
        "moves.gif",
        "line.png",
        "no.png",
    ):
        with pytest.raises(MediaError, match=rf"expected .*{name}"):
            read_image(tmp_path / name)
    with pytest.raises(MediaError, match="directory"):
        read_image(tmp_path)
    monkeypatch.setenv(MEMORY, "0.001")
    with pytest.raises(MediaError, match="of memory to read"):
        read_image(tmp_path / "whole.png")
