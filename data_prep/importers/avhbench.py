"""Which clips and questions does AVHBench hold?

One JSON file (`QA.json`), or a folder of them (version 0), with items `{video_id, task, text,
label}` beside clips named `{video_id}.mp4`. `{video_id}_swap.mp4` has another clip's sound: a
counterfactual sample. Read: the README of github.com/kaist-ami/AVHBench, and its set for training,
whose tasks `(Audio_only)` and `(Video_only)` give one sense alone.
"""

from pathlib import Path

from data_prep.importers.benchmark import Item, read_questions, yes_no
from data_prep.importers.clip_folder import Draft, Wanted
from data_prep.manifest import Sample
from data_prep.questions import ChoiceQuestion
from hooked_omni.errors import ManifestError

_SWAPPED = "_swap"


def read_avhbench(json: Path) -> Wanted:
    """One sample per clip of a file, or of a folder of files, with its questions.

    Missing are descriptions to be written, and what is asked of one sense alone. Captions are left
    out: AVHBench's are not of one sense alone. Raises as `read_questions`.
    """
    return read_questions(json, ("video_id", "task", "text", "label"), _draft, _question)


def _draft(item: Item) -> Draft:
    video = item["video_id"].removesuffix(".mp4")
    kind = "counterfactual" if video.endswith(_SWAPPED) else "factual"
    return Draft(Sample(video, kind, video_id=video.removesuffix(_SWAPPED)), (video,))


def _question(item: Item) -> ChoiceQuestion:
    task = item["task"]
    if "Captioning" in task:
        raise ManifestError(f"expected a question with options, got a description ({task}).")
    if task.endswith("_only)"):
        raise ManifestError(f"expected a question about picture and sound, got {task}.")
    return yes_no(item["text"], item["label"], task)
