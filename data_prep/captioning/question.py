"""With which words and frames is a clip described, and which answers are descriptions?"""

import re
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image

from data_prep.captioning.caption_manifest import NoCaptionError
from hooked_omni.errors import FileError
from hooked_omni.files import parse_object
from hooked_omni.inputs.frames import read_frames
from hooked_omni.inputs.media import MediaSettings

PROMPT = (
    "These are frames of one short video, in order. Describe in one or two sentences what can be "
    "seen: people, animals, objects, actions, and the place. Do not guess what can be heard."
)
_MEDIA = MediaSettings(fps=1.0, max_frames=16, max_pixels=384 * 28 * 28)

# A refusal can have any words, in any language: the model has to say whether it is one, after it
# has written it, and to name something that is in the picture and in the description.
FORM = (
    'Answer with one JSON object and nothing else. Its keys: "seen", a list of short names of what '
    "is there to see, empty if there are no images, pictures, photos, videos, clips, frames or "
    'media files; "caption", the description, with at least one of these names in it; "visible", '
    "true if the caption describes what these frames show, and false if it does not, for whatever "
    "reason."
)
_FIELDS = {"seen": {"type": "array", "items": {"type": "string"}}}
_FIELDS |= {"caption": {"type": "string"}, "visible": {"type": "boolean"}}
SCHEMA = dict(type="object", properties=_FIELDS, required=[*_FIELDS], additionalProperties=False)
_WORDS = re.compile(r"[^\W\d_]{3,}|[\u3041-\ud7ff]+")  # in Chinese, a letter can be a word
_ABSENT = re.compile(r"\b(?:no|not|none|nothing|unknown|un\w+able|error)\b")  # in place of a thing
_KINDS = {"seen": list, "caption": str, "visible": bool}


@dataclass(frozen=True)
class Question:
    """The words about a clip, and which of its frames stand before them."""

    prompt: str = PROMPT
    media: MediaSettings = _MEDIA
    max_tokens: int = 512  # longest answer; one that needs more is no caption
    form: str = FORM

    def images(self, clip: Path) -> list[Image.Image]:
        """The frames of a clip."""
        read = read_frames(clip, self.media)
        height, width = read.shape
        every = [Image.fromarray(frame.transpose(1, 2, 0)) for frame in read.pixels]
        return [one.resize((width, height), Image.Resampling.BICUBIC) for one in every]


DEFAULT = Question()


def description(answer: str) -> str:
    """The caption in a model's answer, on one line; a thinking block and a code fence are cut off.

    Raises:
        NoCaptionError: If it is not of the form requested, or describes nothing; another try may.
    """
    text = answer.rpartition("</think>")[2].strip()
    fenced = re.fullmatch(r"```(?:json)?\s*(.*?)\s*```", text, re.S)
    read = dict[str, Any]()
    with suppress(FileError):
        read = parse_object(fenced[1] if fenced else text, "the answer", **_KINDS)
    if len(read) != len(_KINDS) or not all(isinstance(name, str) for name in read["seen"]):
        raise NoCaptionError(f"no JSON of the form requested: {text[:60]!r}", retry=True)
    caption = " ".join(read["caption"].split())
    if not read["visible"]:
        raise NoCaptionError(f"nothing to see, by the model's own word: {caption[:60]!r}", True)
    letters, words = sum(map(str.isalpha, caption)), caption.casefold().split()
    if letters < 3 or letters < len(caption) / 2 or caption[0] in "{[<`" or "\ufffd" in caption:
        raise NoCaptionError(f"no words in the answer {caption[:60]!r}", retry=True)
    if len(words) >= 12 and len(set(words)) < len(words) / 4:
        raise NoCaptionError(f"the same words over and over: {caption[:60]!r}", retry=True)
    things = [name.casefold() for name in read["seen"] if not _ABSENT.search(name.casefold())]
    names, form = set(_WORDS.findall(" ".join(things))), set(_WORDS.findall(FORM))
    if not any(n in caption.casefold() and not {n, f"{n}s"} & form for n in names):
        reason = f"it names nothing that was seen, {read['seen']!r:.60}, in {caption[:60]!r}"
        raise NoCaptionError(reason, retry=True)
    return caption
