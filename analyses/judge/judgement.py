"""What is judged, and what does a judgement say?

An item is one text, to be judged on one point. A judgement is a score with its reason, or says why
there is none: a score that is missing stays missing.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol, runtime_checkable

from hooked_omni.errors import HookedOmniError

What = Literal["audio", "video", "recall", "events"]
"""Fidelity to sound or picture; sound events that tokens name; words that name sounds."""


class JudgeError(HookedOmniError, ValueError):
    """A judge that cannot be used: unknown, not allowed in, or given what it cannot judge."""


@dataclass(frozen=True)
class Settings:
    """Settings of every request. The defaults are the paper's for Qwen3-32B; None is not sent.

    Attributes:
        temperature, top_p, top_k, presence_penalty, max_tokens: Of the reply, thinking included.
        connections: Requests at a time.
        replies: Requests in one run until a reply can be read.
        retries: inspect-ai's retries of a failed request, with waits of 3, 6, 12, ... s.
        timeout: Seconds for one request.
        context: Tokens that the model can read and write at once, where the server does not say;
            where it does, the smaller number holds. None: not known.
        cache: How long inspect-ai keeps replies, as it writes it ("4W").
        structured: Whether to request a JSON schema; not from a server that refuses it.
        seed: Of the server's sampling.
    """

    temperature: float | None = 0.7
    top_p: float | None = 0.8
    top_k: int | None = 20
    presence_penalty: float | None = 1.5
    max_tokens: int | None = 8192
    connections: int = 16
    replies: int = 3
    retries: int = 5
    timeout: float = 600.0
    context: int | None = None
    cache: str = "4W"
    structured: bool = True
    seed: int | None = None

    def __post_init__(self) -> None:
        for name in ("connections", "replies", "timeout", "context"):
            if (value := getattr(self, name)) is not None and not value > 0:
                raise JudgeError(f"expected {name} > 0, got {value}.")


class JudgeDownError(JudgeError):
    """A judge that stopped answering; its judgements so far are kept."""


@dataclass(frozen=True)
class Item:
    """One text to be judged on one point.

    Attributes:
        sample, kind, question: As in every table.
        condition: Under what the text was made, such as a knockout; "" for none.
        what: The point.
        text: The caption; for "recall" the tokens, one to a line; None if there is none.
        references: What is truly heard, or seen; for chance, in another clip.
        others: What is true of the other modality; only judges that match words look at it.
    """

    sample: str
    kind: str
    question: str
    condition: str
    what: What
    text: str | None
    references: tuple[str, ...] = ()
    others: tuple[str, ...] = ()

    @property
    def lacks(self) -> str:
        """Why there is nothing to judge; "" if there is."""
        if self.text is None:
            return "no caption"
        if not self.references and self.what != "events":
            return f"no reference captions for {'video' if self.what == 'video' else 'audio'}"
        return ""


@dataclass(frozen=True)
class Judgement:
    """What a judge says of an item.

    Attributes:
        score: 0 to 1; None if missing, and for "events".
        reason: The judge's own words, or why the judgement is missing.
        words: For "events", the words that name sounds.
        missing: Whether there is no judgement.
        tries: Replies that were requested.
    """

    score: float | None = None
    reason: str = ""
    words: tuple[str, ...] = ()
    missing: bool = False
    tries: int = 1


OnJudgement = Callable[[Item, Judgement], None]


@runtime_checkable
class Judge(Protocol):
    """Who judges: a language model, or a rule.

    Attributes:
        name: Stands beside every score.
        facts: What decides the scores, but for the prompts.
    """

    @property
    def name(self) -> str: ...

    @property
    def facts(self) -> Mapping[str, Any]: ...

    def require(self) -> None:
        """Raise now what would stop it later, as far as can be known."""

    def key(self, item: Item) -> Sequence[Any]:
        """What of an item decides its judgement: equal keys are judged once."""
        ...

    def prompt_version(self, what: What) -> str:
        """Version of the prompt; "" for a judge without one."""
        ...

    def fitted(self, item: Item) -> Item:
        """An item of tokens without the last of them that would be too many to read at once."""
        ...

    def judge_all(self, items: Iterable[tuple[Item, int]], on_judgement: OnJudgement) -> None:
        """Judge items, each with the number of tries in earlier runs.

        `on_judgement` is called once for each, in any order, as soon as it is known, and may be
        called from several threads.
        """
