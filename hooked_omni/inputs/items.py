"""What does a prompt hold, and in which order?

Text, images, videos and sounds, as they are written one after the other in a turn. Without torch,
so that what cannot be asked is refused at once.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple

from hooked_omni.errors import PromptError
from hooked_omni.inputs.media import MediaSettings

KINDS = ("text", "image", "video", "audio")
ROPES = ("model", "paper-scripts")
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


@dataclass(frozen=True)
class Prompt:
    """A question about a clip, or about several items, perhaps after earlier turns.

    ```python
    Prompt("Describe what you hear.", video="clip.mp4")                    # with its own sound
    Prompt("Describe what you hear.", video="clip.mp4", audio="rain.wav")  # with another sound
    Prompt("Describe what you see.", video="clip.mp4", use_audio_in_video=False)
    Prompt("What is this sound?", audio="rain.wav")
    Prompt(items=[("image", "a.png"), ("audio", "b.wav"), ("text", "Do they fit?")])
    Prompt("And now?", turns=[("user", [("audio", "a.wav"), ("text", "What?")]),
                              ("assistant", "A dog.")])
    ```

    Attributes:
        text: The user's words, before the clip, as in the paper; after it in families whose own
            code puts the clip first.
        video: A file with a video track.
        audio: A sound file, or a container whose sound is used in place of the clip's own.
        use_audio_in_video: Interleave sound and picture by time, as one clip; in every video of
            the prompt. Without it, the clip's own sound is not read, and `audio` follows the
            picture as a second item.
        system: System prompt; None means the family's default.
        rope: "model" gives audio inside video its time-aligned positions (TMRoPE).
            "paper-scripts" repeats the paper's released scripts, which pass the flag to the
            processor but not to the model, so that these positions are 1-D.
        media: How frames and sound are sampled; None means as the model was made for, which for
            released checkpoints is the paper's pipeline (`MediaSettings()`).
        items: In place of `text`, `video` and `audio`: `PromptItem`s, or tuples of their fields.
        turns: Earlier turns: a role, "user" or "assistant", and its items, or its words.

    Raises:
        PromptError: For no words, items beside a clip, what is no item or turn, another `rope`.
    """

    text: str = ""
    video: str | Path | None = None
    audio: str | Path | None = None
    use_audio_in_video: bool = True
    system: str | None = None
    rope: Literal["model", "paper-scripts"] = "model"
    media: MediaSettings | None = None
    items: Sequence[Any] = ()
    turns: Sequence[Any] = ()

    def __post_init__(self) -> None:
        object.__setattr__(self, "items", as_items(self.items, "items") if self.items != () else ())
        object.__setattr__(self, "turns", as_turns(self.turns))
        require_one_way(bool(self.items), self.text, self.video, self.audio, self.system)
        if not any(item.kind == "text" for item in self.content):
            raise PromptError(f"expected a question, got {self.text!r}. Say what to describe.")
        if not self.use_audio_in_video and (outside := [i.sound for i in self._every() if i.sound]):
            raise PromptError(
                f"expected no sound inside videos for use_audio_in_video=False, got {outside}. "
                "Give it as an item of its own."
            )
        if self.rope not in ROPES:
            raise PromptError(f"expected rope 'model' or 'paper-scripts', got {self.rope!r}.")

    @property
    def content(self) -> tuple[PromptItem, ...]:
        """The items of the last turn, the user's, in their order."""
        if self.items:
            return as_items(self.items, "items")
        inside = self.audio if self.use_audio_in_video else None
        parts = [("text", self.text), ("video", self.video, inside)]
        if self.video is None or not self.use_audio_in_video:
            parts.append(("audio", self.audio))
        return tuple(PromptItem(*part) for part in parts if part[1] not in (None, ""))

    @property
    def messages(self) -> tuple[Turn, ...]:
        """Every turn, the last one included."""
        return (*as_turns(self.turns), Turn("user", self.content))

    @property
    def interleaved(self) -> bool:
        """Whether sound and picture become one time-aligned block."""
        return self.use_audio_in_video and any(item.kind == "video" for item in self._every())

    def sources(self, hears: bool) -> tuple[Source, ...]:
        """What is read, in order; a model that `hears` reads a video's own sound after it."""
        found = []
        for item in self._every():
            if item.kind != "text":
                found.append(Source(item.kind, item.source))
            if item.kind == "video" and self.use_audio_in_video and (hears or item.sound):
                own = item.sound is None
                found.append(Source("audio", item.sound or item.source, inside=True, own=own))
        return tuple(found)

    def _every(self) -> tuple[PromptItem, ...]:
        return tuple(item for turn in self.messages for item in turn.items)


def require_prompt(given: Any) -> None:
    """Refuse, as a `PromptError`, what is no prompt, and say what to call."""
    if not isinstance(given, Prompt):
        words = "model(text) takes plain words, without a chat template"
        each = "embed each alone, for spans are of one prompt"
        raise PromptError(
            f"expected a Prompt, got {type(given).__name__}: {given!r:.80}. Write Prompt('Describe "
            f"what you hear.', video='clip.mp4'); {words if isinstance(given, str) else each}."
        )


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
