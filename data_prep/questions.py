r"""Which questions with given answers come with a sample?

They stand in its line under `questions`, in one form whatever benchmark they are from:

    {"text": "Is the dog barking?", "options": ["Yes", "No"], "label": "No", "task": "heard"}
    {"text": "What sounds?\nA. a dog\nB. rain", "options": ["A", "B"], "words": ["a dog", "rain"],
     "label": "B", "task": "events", "sub_task": "outdoor"}
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from string import ascii_uppercase
from typing import Any

from data_prep.manifest import Sample
from hooked_omni.errors import ManifestError

KEY = "questions"
YES_NO = ("Yes", "No")


@dataclass(frozen=True)
class ChoiceQuestion:
    """A question, what may be answered, and what is right.

    Attributes:
        text: All that is asked, listed options among it.
        options: What may be answered, such as "Yes" or "A"; each once.
        label: The right one of them; None if nobody says.
        words: What each option stands for, where that is not the option itself.
        task, sub_task: What the benchmark calls it.

    Raises:
        ManifestError: For no text, fewer than two options, empty or equal ones, a label that is
            none of them, or words that are empty, equal, or of another number.
    """

    text: str
    options: tuple[str, ...]
    label: str | None = None
    words: tuple[str, ...] = ()
    task: str = ""
    sub_task: str = ""

    def __post_init__(self) -> None:
        if wrong := next(self._faults(), None):
            raise ManifestError(f"expected a question with options, got {wrong}. Correct it.")

    def _faults(self) -> Any:
        if not self.text.strip():
            yield "no text"
        if len(self.options) < 2 or not all(one.strip() for one in self.options):
            yield f"options {list(self.options)}, not two or more with words"
        if len(set(self.options)) < len(self.options):
            yield f"options {list(self.options)}, of which some are equal"
        if self.label is not None and self.label not in self.options:
            yield f"the label {self.label!r}, which is none of {list(self.options)}"
        if self.words and len(self.words) != len(self.options):
            yield f"{len(self.words)} words for {len(self.options)} options"
        if len({*self.words, ""}) <= len(self.words):
            yield f"words {list(self.words)}, of which some are empty or equal"

    @property
    def record(self) -> dict[str, Any]:
        """As it stands in a manifest; what is not known is left out."""
        every = {**asdict(self), "options": list(self.options), "words": list(self.words)}
        return {name: value for name, value in every.items() if value not in (None, [], "")}


def lettered(
    text: str, words: Sequence[str], label: int | None, task: str = "", sub_task: str = ""
) -> ChoiceQuestion:
    """A question whose options are listed below it, to be answered by their letters.

    `label` is the index of the right one. Raises as `ChoiceQuestion`, and for over 26 options.
    """
    if len(words) > len(ascii_uppercase):
        raise ManifestError(f"expected at most 26 options, got {len(words)}. Split the question.")
    if label is not None and not 0 <= label < len(words):
        raise ManifestError(f"expected a label among {len(words)} options, got number {label + 1}.")
    options = tuple(ascii_uppercase[: len(words)])
    listed = [f"{letter}. {word}" for letter, word in zip(options, words, strict=True)]
    right = None if label is None else options[label]
    return ChoiceQuestion("\n".join([text, *listed]), options, right, tuple(words), task, sub_task)


def questions_of(sample: Sample, where: str = "the manifest") -> list[ChoiceQuestion]:
    """The questions of a sample, none if it has none; `ManifestError` for any other form."""
    given = sample.extra.get(KEY, [])
    if not isinstance(given, list):
        raise ManifestError(
            f"expected a list of {KEY} for {sample.id!r} in {where}, got {type(given).__name__}."
        )
    return [
        _parsed(one, f"question {i + 1} of {sample.id!r} in {where}") for i, one in enumerate(given)
    ]


def _parsed(record: Any, where: str) -> ChoiceQuestion:
    lists, texts = ("options", "words"), ("text", "label", "task", "sub_task")
    known = record if isinstance(record, dict) else {}
    wrong = [n for n in lists if not _texts(known.get(n, []))]
    wrong += [n for n in texts if not isinstance(known.get(n, ""), str)]
    if not known or wrong or "text" not in known or "options" not in known:
        raise ManifestError(
            f"expected an object with 'text' and 'options' for {where}, got {str(record)[:80]!r}"
            f"{f' with wrong {wrong}' if wrong else ''}. Import it again, or correct it."
        )
    own: dict[str, Any] = {name: known[name] for name in texts if name in known}
    own |= {name: tuple(known.get(name, ())) for name in lists}
    try:
        return ChoiceQuestion(**own)
    except ManifestError as error:
        raise ManifestError(f"{error} This is {where}.") from None


def _texts(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(one, str) for one in value)
