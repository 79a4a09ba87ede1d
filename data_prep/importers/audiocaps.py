"""Which clips does an AudioCaps CSV describe?

Version 1 and 2 have one caption a row: `audiocap_id,youtube_id,start_time,caption`. The rows of a
clip become one sample; its file is `{youtube_id}_{start_time:06d}.mp4` or `{youtube_id}.mp4`.
Version 2 has captions that a line break cuts into several rows: these are missing, all of them.
"""

import re
from collections import Counter
from pathlib import Path

from data_prep.importers.clip_folder import Draft, Wanted
from data_prep.manifest import Sample
from data_prep.table import named, titled, whole_seconds
from hooked_omni.errors import ManifestError

_COLUMNS = ("audiocap_id", "youtube_id", "start_time", "caption")
# A number, a video and whole seconds, one of which may be wrong: not the rest of a caption.
_BEGIN = re.compile(r"\s*\d*,[^\s,]*,\s*\d+(\.0*)?\s*(,|$)|\s*\d+,[^\s,]+,[^,]*,")
_CUT = "the caption is cut by a line break"


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
    """Captions by clip (a video's id, and the second at which the clip starts); missing ones."""
    captions: dict[tuple[str, int], list[str]] = {}
    missing: dict[str, str] = {}
    first: dict[str, str] = {}
    header, table = titled(csv, _COLUMNS, encoding=encoding)
    in_order, label, kept = tuple(header[:4]) == _COLUMNS, "", list[str]()
    for where, cells in table:
        line = where.rpartition(" ")[2]
        if in_order and not _BEGIN.match(",".join(cells)):
            if label and label not in missing:
                kept.pop()
            missing[label or f"line {line}"] = f"{_CUT}, seen in line {line}"
            continue
        cut = in_order and len(cells) < len(header)
        row = named(header, [*cells, *[""] * (cut * (len(header) - len(cells)))], where)
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
        kept, label = captions.setdefault((video, start), []), f"{video}, caption {name}"
        if caption and not cut:
            kept.append(caption)
        else:
            missing[label] = f"{_CUT}, seen in line {line}" if cut else "the caption is empty"
    return captions, missing
