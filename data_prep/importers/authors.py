"""Which samples does the authors' JSON hold?

A list of `{id, video_captions, audio_captions, output_text?}` beside clips named `{id}.mp4`. It is
also written, for scripts that read it.
"""

from collections.abc import Iterable
from pathlib import Path

from data_prep.importers.clip_folder import Draft, Wanted
from data_prep.manifest import Sample, parsed, unique
from hooked_omni.errors import ManifestError
from hooked_omni.files import parse_json, read_text, to_json, write_whole


def read_authors(json: Path) -> Wanted:
    """One sample per item of the list; `output_text` and other keys land in `extra`.

    Raises:
        ManifestError: For anything that is wrong, with its file, item and field.
    """
    records = parse_json(read_text(json), str(json))
    if not isinstance(records, list):
        raise ManifestError(
            f"expected a list of {{id, video_captions, audio_captions}} in {json}, got "
            f"{type(records).__name__}. A manifest (JSON Lines) needs no import."
        )
    items = []
    for index, record in enumerate(records):
        if isinstance(record, dict) and type(record.get("id")) is int:
            record = {**record, "id": str(record["id"])}
        items.append((where := f"{json}, item {index}", parsed(record, where)))
    return Wanted([Draft(sample, (sample.id,)) for sample in unique(items)])


def write_authors(path: Path, samples: Iterable[Sample]) -> Path:
    """Write the authors' keys, and those in `extra`."""
    records = [
        {
            "id": sample.id,
            "video_captions": list(sample.video_captions),
            "audio_captions": list(sample.audio_captions),
            **dict(sorted(sample.extra.items())),
        }
        for sample in samples
    ]
    return write_whole(path, (to_json(records, str(path), indent=2) + "\n").encode())
