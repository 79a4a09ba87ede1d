"""Which clips does an AudioCaps CSV describe?

Version 1 and 2 have one caption a row: `audiocap_id,youtube_id,start_time,caption`. The rows of a
clip become one sample; its file is `{youtube_id}_{start_time:06d}.mp4` or `{youtube_id}.mp4`.
"""

from collections import Counter
from pathlib import Path

from data_prep.importers.clip_folder import Draft, Wanted
from data_prep.manifest import Sample
from data_prep.table import named_rows, whole_seconds
from hooked_omni.errors import ManifestError

_COLUMNS = ("audiocap_id", "youtube_id", "start_time", "caption")


def read_audiocaps(csv: Path, encoding: str | None = None) -> Wanted:
    """One sample per clip, with all its captions in the file's order.

    Raises:
        ManifestError: For a missing column, a caption's id that comes twice, or a bad number.
    """
    captions, missing = _grouped(csv, encoding)
    starts = Counter(video for video, _ in captions)
    drafts = []
    for (video, start), texts in captions.items():
        full = f"{video}_{start:06d}"
        name, stems = (full, (full,)) if starts[video] > 1 else (video, (full, video))
        if not texts:
            missing[name] = "no caption"
            continue
        extra = {"start_time": start}
        sample = Sample(name, audio_captions=tuple(texts), video_id=video, extra=extra)
        drafts.append(Draft(sample, stems))
    return Wanted(drafts, missing)


def _grouped(
    csv: Path, encoding: str | None
) -> tuple[dict[tuple[str, int], list[str]], dict[str, str]]:
    """Captions by clip (a video's id, and the second at which the clip starts); empty ones."""
    captions: dict[tuple[str, int], list[str]] = {}
    first: dict[str, str] = {}
    empty: dict[str, str] = {}
    for where, row in named_rows(csv, _COLUMNS, encoding):
        name, video, caption = (
            row[key].strip() for key in ("audiocap_id", "youtube_id", "caption")
        )
        if not video or not name:
            lacking = "audiocap_id" if video else "youtube_id"
            raise ManifestError(f"expected an id in {where}, field {lacking!r}, got none. Add it.")
        if first.setdefault(name, where) != where:
            raise ManifestError(
                f"expected each audiocap_id once, got {name!r} in {where}, and in {first[name]}. "
                f"Remove one of the rows."
            )
        start = whole_seconds(row["start_time"], where, "start_time")
        kept = captions.setdefault((video, start), [])
        if caption:
            kept.append(caption)
        else:
            empty[f"{video}, caption {name}"] = "the caption is empty"
    return captions, empty
