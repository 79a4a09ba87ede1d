"""What does a language model that judges read?

Its prompts are the text files in `prompts/`, each with a version that is written down with every
score. References and captions are data: one line of JSON between two marker lines, with line
breaks and `<` escaped, so that no text can end it or spell a special token such as `<|im_end|>`.
"""

import json
import re
from functools import cache
from pathlib import Path
from typing import NamedTuple

from inspect_ai.model import ChatMessage, ChatMessageSystem, ChatMessageUser

from analyses.judge.judgement import Item, What
from hooked_omni.files import digest

MARKER = "=" * 20
_AGAIN = "Answer with one JSON object, as described above, and nothing else."


class JudgePrompt(NamedTuple):
    """Instructions on how to judge; the version is one more whenever a word of them changes."""

    version: str
    text: str

    @property
    def digest(self) -> str:
        """Tells two texts apart, should one be edited without a new number."""
        return digest(self.text)


@cache
def judge_prompt(what: What) -> JudgePrompt:
    """The prompt for one point."""
    text = (Path(__file__).parent / "prompts" / f"{what}.txt").read_text(encoding="utf-8")
    head, _, body = text.partition("\n")
    return JudgePrompt(head.removeprefix("version "), body.strip())


def chat_messages(item: Item, complaint: str = "") -> list[ChatMessage]:
    """The prompt, and then the item."""
    return [
        ChatMessageSystem(content=judge_prompt(item.what).text),
        ChatMessageUser(content=user_message(item, complaint)),
    ]


def user_message(item: Item, complaint: str = "") -> str:
    """The item as data, and if an earlier reply could not be read, why."""
    data = f"{MARKER}\n{fenced(item)}\n{MARKER}\n"
    again = f"An earlier answer could not be read: {complaint}. {_AGAIN}" if complaint else ""
    return f"{data}{again or 'Judge it. ' + _AGAIN}"


def n_tokens(item: Item) -> int:
    """About how many tokens a judge reads for an item, rather too many: one for every two bytes.

    Lists of a model's own tokens have 2.7 to 3.5 bytes to a token of Qwen's, instructions 3.7.
    """
    message = user_message(item, " " * 100)  # of a second request
    return len(judge_prompt(item.what).text.encode()) // 3 + len(message.encode()) // 2


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
    special = r"[<>\x7f-\x9f\u2028\u2029\ud800-\udfff]"
    return re.sub(special, lambda found: f"\\u{ord(found[0]):04x}", line)
