"""Which of a benchmark's questions can be asked, and about which clips?

An importer says what an item's sample and question are; here a sample's questions come together.
One that cannot be asked is missing, by its name: a bad question does not stop thousands.
"""

import re
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path, PurePosixPath
from string import ascii_uppercase
from typing import Any

from data_prep.importers.clip_folder import Draft, Wanted
from data_prep.questions import KEY, YES_NO, ChoiceQuestion, lettered
from hooked_omni.errors import ManifestError
from hooked_omni.files import parse_json, read_text

Item = dict[str, Any]
_ADVICE = "Give the benchmark's own file; other versions have other fields."


def read_questions(
    json: Path,
    texts: Sequence[str],
    draft: Callable[[Item], Draft],
    question: Callable[[Item], ChoiceQuestion],
    items: Callable[[Any], Any] = lambda content: content,
) -> Wanted:
    """A draft for each clip that can be asked something, with its questions in their order.

    `json` is a file with a list of items (or with what `items` makes one of), or a folder of them.
    Each has the fields `texts`. `draft` makes its sample, with an `extra` of its own; `question`
    raises a `ManifestError` for what cannot be asked. A question that comes again is kept once, and
    not at all if its labels differ.

    Raises:
        ManifestError: For a file of another layout or version, or if nothing can be asked.
    """
    drafts, missing = dict[str, Draft](), dict[str, str]()
    found: dict[tuple[str, str, str], dict[str, ChoiceQuestion]] = {}
    for where, item in _items(json, texts, items):
        sample = (one := draft(item)).sample.id
        drafts.setdefault(sample, one)
        try:
            if not sample.strip():
                raise ManifestError("expected the name of a clip, got none. Add it.")
            one = question(item)
            found.setdefault((sample, one.text, one.task), {})[f"{sample}, {where}"] = one
        except ManifestError as error:
            missing[f"{sample}, {where}"] = str(error)
    for (sample, *_), same in found.items():
        labels = sorted({str(one.label) for one in same.values()})
        if len(labels) == 1:
            drafts[sample].sample.extra.setdefault(KEY, []).append(same.popitem()[1].record)
        missing |= dict.fromkeys(same, f"asked more than once, with the labels {labels}")
    if not (kept := [one for one in drafts.values() if KEY in one.sample.extra]):
        got = f"none of {len(missing)}: {next(iter(missing.values()), 'it is empty.')}"
        raise ManifestError(f"expected questions to ask in {json}, got {got} {_ADVICE}")
    return Wanted(kept, missing)


def _items(
    json: Path, texts: Sequence[str], items: Callable[[Any], Any]
) -> Iterator[tuple[str, Item]]:
    """Each item of a file, or of all in a folder, after its place there."""
    for path in sorted(json.glob("*.json")) if json.is_dir() else [json]:
        listed = items(parse_json(read_text(path), str(path)))
        if not isinstance(listed, list):
            got = type(listed).__name__
            raise ManifestError(f"expected a list of questions in {path}, got {got}. {_ADVICE}")
        for index, item in enumerate(listed):
            known = item if isinstance(item, dict) else {}
            wrong = [name for name in texts if not isinstance(known.get(name), str)]
            if wrong:
                raise ManifestError(
                    f"expected texts in the fields {[*texts]} of {path}, item {index}, got none "
                    f"in {wrong}. {_ADVICE}"
                )
            yield f"item {index} of {path.name}", known


def yes_no(text: str, label: str, task: str, sub_task: str = "") -> ChoiceQuestion:
    """A question to be answered by Yes or No, which a benchmark may write in any case."""
    return ChoiceQuestion(text, YES_NO, label.strip().capitalize(), task=task, sub_task=sub_task)


def multiple_choice(
    text: str, options: Any, answer: Any, task: str = "", sub_task: str = ""
) -> ChoiceQuestion:
    """A lettered question; `answer` is None if nobody says.

    Options may come with their letters ("A. a dog"), and then the answer is one of these; else it
    is an option's words. Raises as `lettered`, and for options or an answer of another form.
    """
    if not isinstance(options, list) or not all(isinstance(one, str) for one in options):
        raise ManifestError(f"expected a list of options, got {options!r:.80}. Correct it.")
    known = [*ascii_uppercase[: len(options)]]
    marked = [re.match(r"\s*([A-Z])[.)]", one) for one in options]
    words = [one[mark.end() :].strip() for one, mark in zip(options, marked, strict=True) if mark]
    if [mark[1] for mark in marked if mark] != known:
        words = known = [one.strip() for one in options]
    right = answer.strip() if isinstance(answer, str) else answer
    if right is not None and right not in known:
        raise ManifestError(f"expected an answer among {known}, got {answer!r:.80}. Correct it.")
    return lettered(text, words, None if right is None else known.index(right), task, sub_task)


def stems_of(path: Any) -> tuple[str, ...]:
    """A benchmark's path without `./` and suffix, for a draft; none for no path."""
    if not isinstance(path, str) or path in ("", "None"):
        return ()
    return (str(PurePosixPath(path)).removesuffix(PurePosixPath(path).suffix),)
