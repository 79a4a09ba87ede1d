"""Which clips and questions do WorldSense and Daily-Omni hold?

WorldSense: one JSON object, `worldsense_qa.json`: for each video `{domain, sub_category,
audio_class, task0, task1, ...}`, and for each task `{task_domain, task_type, question, candidates,
answer}` with candidates such as "A. To the left." and a letter as answer. Clips are named
`{video}.mp4`. Read: three videos of the file, and what VLMEvalKit's loader takes from it (1 662
videos, 3 172 tasks).

Daily-Omni: a JSON list, `qa.json`, of `{video_id, Type, Question, Choice, Answer, video_category,
...}` with choices and answers as those; clips are `Videos/{video_id}/{video_id}_video.mp4`. Read:
the script for Qwen2.5-Omni in github.com/Lliar-liar/Daily-Omni, and questions of its example
videos.
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


def read_dailyomni(json: Path) -> Wanted:
    """One sample per video of Daily-Omni, with its questions; raises as `read_questions`."""
    texts = ("video_id", "Question", "Answer", "Type")
    return read_questions(json, texts, _daily_draft, _daily_question)


def _daily_draft(item: Item) -> Draft:
    name = item["video_id"].strip()
    return Draft(Sample(name), (f"{name}/{name}_video", f"{name}_video") if name else ())


def _daily_question(item: Item) -> ChoiceQuestion:
    task = item["Type"], f"{item.get('video_category') or ''}"
    return multiple_choice(item["Question"], item.get("Choice"), item["Answer"], *task)


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
