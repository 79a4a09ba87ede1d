"""What is judged, and what does a judgement say?

An item is one text to be judged on one point: a caption's fidelity to the sound or to the picture,
the sound events that tokens from inside a model name, or the words of a caption that name
sounds. A judgement is a score with its reason, or says why there is none: a score that is missing
stays missing.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol, get_args, runtime_checkable

import pandas as pd

from analyses.cases import KEYS, Case
from data_prep.manifest import Sample
from hooked_omni.errors import HookedOmniError, ResultsError

__all__ = [
    "POINTS",
    "Item",
    "Judge",
    "JudgeDownError",
    "JudgeError",
    "Judgement",
    "OnJudgement",
    "What",
    "items",
]

What = Literal["audio", "video", "recall", "events"]
"""Fidelity to sound or picture; sound events that tokens name; words that name sounds."""

POINTS: Mapping[str, tuple[What, ...]] = {
    "see": ("video",),
    "hear": ("audio",),
    "both": ("audio", "video"),
}
"""On which points the answer to each of the paper's questions is judged."""

_CAPTION_COLUMNS = (*KEYS, "caption")


class JudgeError(HookedOmniError, ValueError):
    """A judge that cannot be used: unknown, not allowed in, or given what it cannot judge."""


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
        references: What is truly heard, or seen.
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
        ...

    def key(self, item: Item) -> Sequence[Any]:
        """What of an item decides its judgement: equal keys are judged once."""
        ...

    def prompt_version(self, what: What) -> str:
        """Version of the prompt; "" for a judge without one."""
        ...

    def judge_all(self, items: Iterable[tuple[Item, int]], on_judgement: OnJudgement) -> None:
        """Judge items, each with the number of tries in earlier runs.

        `on_judgement` is called once for each, in any order, as soon as it is known, and may be
        called from several threads.
        """
        ...


def items(
    captions: pd.DataFrame,
    samples: Iterable[Case | Sample],
    what: Sequence[What] | None = None,
    first_only: bool = False,
) -> list[Item]:
    """What is to be judged of a table of captions.

    Args:
        captions: Rows with `sample`, `kind`, `question`, `caption` and, where there are several of
            a sample and question, `condition`.
        samples: With what is truly heard and seen.
        what: The points; None for those that go with each question (`POINTS`).
        first_only: Give the first reference caption alone, as the paper's script does.

    Raises:
        ResultsError: For missing columns, a sample that is not known, a caption that is there
            twice, a point that does not exist, and when no sample has references for a point.
    """
    absent = [name for name in _CAPTION_COLUMNS if name not in captions]
    unknown = sorted(set(what or ()) - set(get_args(What)))
    if absent or unknown or captions.empty:
        raise ResultsError(
            f"expected captions with the columns {list(_CAPTION_COLUMNS)}, to be judged on "
            f"{get_args(What)}, got {len(captions)} rows without {absent}, and {unknown}."
        )
    known = {_id(sample): sample for sample in samples}
    made = [
        item
        for row in captions.to_dict("records")
        for item in _of_row({str(k): v for k, v in row.items()}, known, what, first_only)
    ]
    seen: set[Any] = set()
    for item in made:
        place = (item.sample, item.kind, item.question, item.condition, item.what)
        if place in seen:
            raise ResultsError(
                f"expected one caption for each sample, question and condition, got several for "
                f"{place}. Tell them apart by `condition`."
            )
        seen.add(place)
    for point in dict.fromkeys(item.what for item in made):
        of_point = [item for item in made if item.what == point and item.text is not None]
        if of_point and all(item.lacks for item in of_point):
            raise ResultsError(
                f"expected reference captions to judge {point} by, got none for any of "
                f"{len(of_point)} captions. Add them to the manifest, or leave this point out."
            )
    return made


def _of_row(
    row: Mapping[str, Any],
    known: Mapping[str, Case | Sample],
    what: Sequence[What] | None,
    first_only: bool,
) -> Iterator[Item]:
    sample = known.get(str(row["sample"]))
    if sample is None:
        raise ResultsError(
            f"expected captions of the {len(known)} samples given, got {row['sample']!r}. Give the "
            "manifest that they were made from."
        )
    keys = {name: str(row[name]) for name in KEYS}
    condition = row["condition"] if isinstance(row.get("condition"), str) else ""
    text = row["caption"] if isinstance(row["caption"], str) else None
    heard, seen = sample.audio_captions, sample.video_captions
    for point in what or POINTS.get(str(row["question"]), ("audio", "video")):
        own, others = (seen, heard) if point == "video" else (heard, seen)
        references = () if point == "events" else own[:1] if first_only else own
        yield Item(
            **keys, condition=condition, what=point, text=text, references=references, others=others
        )


def _id(sample: Case | Sample) -> str:
    return sample.sample if isinstance(sample, Case) else sample.id
