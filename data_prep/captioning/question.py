"""With which words and frames is a clip described, and which answers are descriptions?"""

import re
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from data_prep.captioning.caption_manifest import NoCaptionError
from hooked_omni.inputs.media import MediaSettings
from hooked_omni.inputs.video import read_video

PROMPT = (
    "These are frames of one short video, in order. Describe in one or two sentences what can be "
    "seen: people, animals, objects, actions, and the place. Do not guess what can be heard."
)
_MEDIA = MediaSettings(fps=1.0, max_frames=16, max_pixels=384 * 28 * 28)
_SORRY = r"(i['\u2019]?m sorry|i am sorry|i can(no|['\u2019])t|as an ai\b|sorry,)"


@dataclass(frozen=True)
class Question:
    """The words about a clip, and which of its frames stand before them."""

    prompt: str = PROMPT
    media: MediaSettings = _MEDIA
    max_tokens: int = 256  # longest answer

    def images(self, clip: Path) -> list[Image.Image]:
        """The frames of a clip."""
        frames = read_video(clip, self.media).frames.round().clamp(0, 255).byte()
        return [Image.fromarray(frame.permute(1, 2, 0).numpy()) for frame in frames]


DEFAULT = Question()


def description(answer: str) -> str:
    """The answer as one line, without a model's thoughts.

    Raises:
        NoCaptionError: If it describes nothing; another try may.
    """
    text = re.sub(r"<think>.*?(</think>|$)", " ", answer, flags=re.S)
    text = " ".join(text.rsplit("</think>", 1)[-1].split())
    letters = sum(character.isalpha() for character in text)
    words = text.lower().split()
    if letters < 3 or letters < len(text) / 2 or "\ufffd" in text:
        raise NoCaptionError(f"no words in the answer {text[:60]!r}", retry=True)
    if re.match(_SORRY, text, re.I):
        raise NoCaptionError(f"a refusal: {text[:60]!r}", retry=True)
    if len(words) >= 12 and len(set(words)) < len(words) / 4:
        raise NoCaptionError(f"the same words over and over: {text[:60]!r}", retry=True)
    return text
