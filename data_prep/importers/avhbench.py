"""Which clips and questions does AVHBench hold?

One JSON file, or a folder of them, with items `{video_id, task, text, label}` beside clips named
`{video_id}.mp4`. `{video_id}_swap.mp4` has another clip's sound: a counterfactual sample.
"""

from pathlib import Path
from typing import Any

from data_prep.importers.clip_folder import Draft, Wanted
from data_prep.manifest import Sample
from hooked_omni.errors import ManifestError
from hooked_omni.files import parse_json, read_text

_FIELDS = ("video_id", "task", "text", "label")
_SWAPPED = "_swap"


def read_avhbench(json: Path) -> Wanted:
    """One sample per clip of a file, or of a folder of files; its questions are in `extra`.

    Captions are left out: AVHBench's are not of one sense alone.

    Raises:
        ManifestError: For a file that holds anything else.
    """
    questions: dict[str, list[dict[str, str]]] = {}
    for path in sorted(json.glob("*.json")) if json.is_dir() else [json]:
        for index, item in enumerate(_items(path)):
            video, question = _question(item, f"{path}, item {index}")
            questions.setdefault(video, []).append(question)
    if not questions:
        raise ManifestError(f"expected questions of AVHBench in {json}, got none. Check the path.")
    drafts = []
    for video, own in questions.items():
        kind = "counterfactual" if video.endswith(_SWAPPED) else "factual"
        stem = video.removesuffix(_SWAPPED)
        sample = Sample(video, kind, video_id=stem, extra={"questions": own})
        drafts.append(Draft(sample, (video,)))
    return Wanted(drafts)


def _items(path: Path) -> list[Any]:
    items = parse_json(read_text(path), str(path))
    if not isinstance(items, list):
        raise ManifestError(
            f"expected a list of questions in {path}, got {type(items).__name__}. Give AVHBench's "
            f"own JSON."
        )
    return items


def _question(item: Any, where: str) -> tuple[str, dict[str, str]]:
    if not isinstance(item, dict):
        raise ManifestError(f"expected an object in {where}, got {type(item).__name__}.")
    wrong = [name for name in _FIELDS if not isinstance(item.get(name), str)]
    if wrong or not item["video_id"].strip():
        raise ManifestError(
            f"expected texts in the fields {list(_FIELDS)} of {where}, got none in "
            f"{wrong or ['video_id']}. Correct it."
        )
    video = item["video_id"].removesuffix(".mp4")
    return video, {name: value for name, value in item.items() if name != "video_id"}
