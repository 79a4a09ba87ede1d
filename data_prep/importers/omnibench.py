"""Which images, sounds and questions does OmniBench hold?

JSON Lines of `{index, question, options, answer, audio_path, image_path, ...}` beside a folder
with `image/` and `audio/`; the answer is the words of an option. A sample asks its own question,
with the options below it. Read: parts of `dataset/batch-5_1142_20240817.jsonl` in
github.com/multimodal-art-projection/OmniBench.
"""

import os
from pathlib import Path
from typing import Any

from data_prep.importers.benchmark import multiple_choice
from data_prep.importers.clip_folder import Imported, Progress
from data_prep.manifest import Sample, inside
from data_prep.questions import KEY
from hooked_omni.errors import ManifestError, MediaError
from hooked_omni.files import parse_json, read_text
from hooked_omni.inputs.audio import read_audio
from hooked_omni.inputs.picture import read_picture

_TEXTS = ("question", "answer", "audio_path", "image_path")


def read_omnibench(jsonl: Path, media: Path, root: Path, progress: Progress = iter) -> Imported:
    """One sample per question: image, sound and words, in this order; `media` is below `root`.

    A question that cannot be answered by a letter is missing; its sample is not.

    Raises:
        ManifestError: For a file that holds anything else.
    """
    lines = [line for line in read_text(jsonl).split("\n") if line.strip()]
    samples, missing = [], {}
    for number, line in enumerate(progress(lines), start=1):
        where = f"{jsonl}, question {number}"
        record: Any = parse_json(line, where)
        known = isinstance(record, dict) and all(isinstance(record.get(n), str) for n in _TEXTS)
        options = record.get("options") if known else None
        if not isinstance(options, list) or not all(isinstance(one, str) for one in options):
            raise ManifestError(
                f"expected texts {_TEXTS} and a list of options in {where}, got {line[:80]!r}. "
                "Give OmniBench's own JSON Lines."
            )
        name, items = str(record.get("index", number)), []
        try:
            for kind, read in (("image", read_picture), ("audio", read_audio)):
                path = Path(os.path.relpath(media / kind / record[f"{kind}_path"], root)).as_posix()
                read(inside(root, path, where))
                items.append((kind, path))
        except (MediaError, ManifestError) as error:
            missing[name] = str(error)
            continue
        items.append(("text", "\n".join([record["question"], *options])))
        extra = {k: v for k, v in record.items() if k not in ("index", "audio_path", "image_path")}
        task = str(record.get("task type", "")), str(record.get("audio type", ""))
        try:
            question = multiple_choice(record["question"], options, record["answer"], *task)
            extra[KEY] = [question.record]
        except ManifestError as error:
            missing[f"{name}, its letters"] = str(error)
        samples.append(Sample(name, items=tuple(items), extra=extra))
    return Imported(samples, missing)
