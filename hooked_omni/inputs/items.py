"""What does a prompt hold, and in which order?

Text, images, videos and sounds, as they are written one after the other in a turn.
"""

from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple

from hooked_omni.errors import PromptError

KINDS = ("text", "image", "video", "audio")
_ROLES = ("user", "assistant")
_ADVICE = (
    "Write ('text', words), ('image', file), ('audio', file), ('video', file), or ('video', file, "
    "sound) for one with another sound."
)


class PromptItem(NamedTuple):
    """One part of a turn: its `kind`, "text", "image", "video" or "audio", and its words or file.

    `sound` is, for a video, a file whose sound is heard inside it in place of its own.
    """

    kind: str
    source: str | Path
    sound: str | Path | None = None


class Turn(NamedTuple):
    """What the "user" or the "assistant" said, in order; words alone may stand for its items."""

    role: str
    items: tuple[PromptItem, ...]


class Source(NamedTuple):
    """A file that is read; a sound may be `inside` the video before it, and its `own`."""

    kind: str
    path: str | Path
    inside: bool = False
    own: bool = False


def as_items(given: Any, where: str) -> tuple[PromptItem, ...]:
    """The items of a turn, given as tuples or words; a `PromptError` with `where` for others."""
    if isinstance(given, str):
        given = [("text", given)]
    if (
        not isinstance(given, Iterable)
        or isinstance(given, bytes | dict)
        or not (parts := tuple(given))
    ):
        raise PromptError(f"expected a list of items in {where}, got {given!r}. {_ADVICE}")
    return tuple(_item(part, f"{where}, item {i}") for i, part in enumerate(parts, start=1))


def as_turns(given: Any) -> tuple[Turn, ...]:
    """Earlier turns, given as pairs of role and items; a `PromptError` for others."""
    turns = []
    for i, turn in enumerate(given if isinstance(given, Iterable) else [given], start=1):
        if not isinstance(turn, tuple | list) or len(turn) != 2 or turn[0] not in _ROLES:
            raise PromptError(
                f"expected a turn as ('user' or 'assistant', items), got {turn!r} as turn {i}. "
                "Give the role first; a system prompt goes into `system`."
            )
        items = as_items(turn[1], f"turn {i}")
        if turn[0] == "assistant" and any(item.kind != "text" for item in items):
            raise PromptError(
                f"expected words alone of the assistant in turn {i}, got {items!r}. Give media in "
                "turns of the user."
            )
        turns.append(Turn(turn[0], items))
    return tuple(turns)


def require_one_way(items: bool, text: Any, video: Any, audio: Any, system: Any) -> None:
    """Refuse items beside the arguments that stand for one clip, and wrong ones of these."""
    if system is not None and not (isinstance(system, str) and system.strip()):
        raise PromptError(
            f"expected words as a system prompt, got {system!r}: the family's own would stand "
            "there all the same. Leave it out, or say something."
        )
    if items and (text or video is not None or audio is not None):
        raise PromptError(
            f"expected items alone, got them with text={text!r}, video={video}, audio={audio}. "
            "Write these among the items, in their order."
        )
    if not isinstance(text, str) or not (items or text.strip()):
        raise PromptError(f"expected a question, got {text!r}. Say what to describe.")
    for name, source in (("video", video), ("audio", audio)):
        if source is not None and not isinstance(source, str | Path):
            raise PromptError(
                f"expected one file as {name!r}, got {source!r}. Make a prompt for each clip, or "
                "give several as `items`."
            )


def _item(given: Any, where: str) -> PromptItem:
    known = isinstance(given, tuple | list) and len(given) in (2, 3) and given[0] in KINDS
    parts = [part for part in given[1:] if part is not None] if known else []
    words = known and given[0] == "text"
    fits = parts and all(isinstance(p, str if words else str | Path) for p in parts)
    extra = known and len(parts) > 1 and given[0] != "video"
    if not fits or extra or given[1] is None or not str(given[1]).strip():
        raise PromptError(
            f"expected a kind and its words or file in {where}, got {given!r}. {_ADVICE}"
        )
    return PromptItem(*given)
