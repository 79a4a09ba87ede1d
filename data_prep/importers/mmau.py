"""Which sounds and questions does MMAU hold?

A JSON list of `{id, audio_id, question, choices, answer, task, sub-category, ...}` beside sounds
at `audio_id`, such as `./test-mini-audios/{id}.wav`; the answer is the words of a choice, and ""
in the test set, whose answers are withheld. Read: `mmau-test-mini.json` of
github.com/Sakshi113/MMAU, 1 000 questions, of which 27 have two equal choices.
"""

from pathlib import Path

from data_prep.importers.benchmark import Item, multiple_choice, read_questions, stems_of
from data_prep.importers.clip_folder import Draft, Wanted
from data_prep.manifest import Sample
from data_prep.questions import ChoiceQuestion


def read_mmau(json: Path) -> Wanted:
    """One sample per sound, named by its path; a question whose answer is withheld has no label.

    Raises as `read_questions`.
    """
    return read_questions(json, ("audio_id", "question", "task"), _draft, _question)


def _draft(item: Item) -> Draft:
    sounds = stems_of(item["audio_id"])
    return Draft(Sample("".join(sounds)), sounds=sounds)


def _question(item: Item) -> ChoiceQuestion:
    answer, task = item.get("answer"), (item["task"], f"{item.get('sub-category') or ''}")
    known = None if answer == "" else answer
    return multiple_choice(item["question"], item.get("choices"), known, *task)
