"""Which clips and questions does WorldSense hold?

One JSON object, `worldsense_qa.json`: for each video `{domain, sub_category, audio_class, task0,
task1, ...}`, and for each task `{task_domain, task_type, question, candidates, answer}` with
candidates such as "A. To the left." and a letter as answer. Clips are named `{video}.mp4`. Read:
three videos of the file, and what VLMEvalKit's loader takes from it (1 662 videos, 3 172 tasks).
"""

import re
from pathlib import Path
from typing import Any

from data_prep.importers.benchmark import Item, multiple_choice, read_questions
from data_prep.importers.clip_folder import Draft, Wanted
from data_prep.manifest import Sample
from data_prep.questions import ChoiceQuestion


def read_worldsense(json: Path) -> Wanted:
    """One sample per video, with the questions of all its tasks; raises as `read_questions`."""
    texts = ("video", "question", "answer", "task_domain", "task_type")
    return read_questions(json, texts, _draft, _question, _items)


def _items(content: Any) -> Any:
    """Each task of each video, and one without a task, which is refused, as an item."""
    if not isinstance(content, dict):
        return content
    listed = []
    for video, one in content.items():
        known = one if isinstance(one, dict) else {}
        tasks = [task for name, task in known.items() if re.fullmatch(r"task\d+", name)] or [{}]
        listed += [{**task, "video": video} if isinstance(task, dict) else task for task in tasks]
    return listed


def _draft(item: Item) -> Draft:
    return Draft(Sample(item["video"]), (item["video"],))


def _question(item: Item) -> ChoiceQuestion:
    task = item["task_domain"], item["task_type"]
    return multiple_choice(item["question"], item.get("candidates"), item["answer"], *task)
