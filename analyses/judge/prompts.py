"""What is a judge model told?

Prompts are text files beside this one, each with a version that is written down with every score.
References and captions are data: one line of JSON between two marker lines. Line breaks and `<`
are escaped in it, so that no text can end the line, write a marker line of its own, or spell a
special token such as `<|im_end|>`.
"""

import json
import re
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from analyses.judge.judgement import Item, What
from hooked_omni.files import digest

__all__ = ["MARKER", "Instruction", "fenced", "instruction", "question"]

MARKER = "=" * 20
_AGAIN = "Answer with one JSON object, as described above, and nothing else."


@dataclass(frozen=True)
class Instruction:
    """A prompt.

    Attributes:
        version: Its number; one more whenever a word of it changes.
        text: The whole of it.
    """

    version: str
    text: str

    @property
    def digest(self) -> str:
        """Tells two texts apart, should one be edited without a new number."""
        return digest(self.text)


@cache
def instruction(what: What) -> Instruction:
    """The prompt for one point."""
    text = (Path(__file__).parent / "prompts" / f"{what}.txt").read_text(encoding="utf-8")
    head, _, body = text.partition("\n")
    return Instruction(head.removeprefix("version "), body.strip())


def question(item: Item, complaint: str = "") -> str:
    """The item as data, and if an earlier reply could not be read, why."""
    asked = f"{MARKER}\n{fenced(item)}\n{MARKER}\n"
    again = f"An earlier answer could not be read: {complaint}. {_AGAIN}" if complaint else ""
    return f"{asked}{again or 'Judge it. ' + _AGAIN}"


def fenced(item: Item) -> str:
    """References and text as one line of JSON; `json.loads` gives them back letter by letter."""
    text = item.text or ""
    data: dict[str, object] = {}
    if item.what != "events":
        data["references"] = list(item.references)
    if item.what == "recall":
        data["tokens"] = text.split("\n")
    else:
        data["caption"] = text
    line = json.dumps(data, ensure_ascii=False)
    # JSON itself escapes line feeds; these also end a line for some readers, or open a token.
    return re.sub(r"[<>\x7f-\x9f\u2028\u2029\ud800-\udfff]", _escaped, line)


def _escaped(found: re.Match[str]) -> str:
    return f"\\u{ord(found[0]):04x}"
