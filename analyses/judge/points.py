"""On which points is each caption judged, and by which references?"""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, get_args

import pandas as pd

from analyses.cases import KEYS, Case
from analyses.judge.judgement import Item, What
from data_prep.manifest import Sample
from hooked_omni.errors import ResultsError

POINTS: Mapping[str, tuple[What, ...]] = {
    "see": ("video",),
    "hear": ("audio",),
    "both": ("audio", "video"),
}
"""On which points the answer to each of the paper's questions is judged."""

_CAPTION_COLUMNS = (*KEYS, "caption")


def items(
    captions: pd.DataFrame,
    samples: Iterable[Case | Sample],
    what: Sequence[What] | None = None,
    first_only: bool = False,
) -> list[Item]:
    """What is to be judged of a table of captions.

    Args:
        captions: Rows with `sample`, `kind`, `question`, `caption` and, where there are several of
            a sample and question, `condition`.
        samples: With what is truly heard and seen.
        what: The points; None for those that go with each question (`POINTS`).
        first_only: Give the first reference caption alone, as the paper's script does.

    Raises:
        ResultsError: For missing columns, a sample that is not known, a caption that is there
            twice, a point that does not exist, and when no sample has references for a point.
    """
    absent = [name for name in _CAPTION_COLUMNS if name not in captions]
    unknown = sorted(set(what or ()) - set(get_args(What)))
    if absent or unknown or captions.empty:
        raise ResultsError(
            f"expected captions with the columns {list(_CAPTION_COLUMNS)}, to be judged on "
            f"{get_args(What)}, got {len(captions)} rows without {absent}, and {unknown}."
        )
    known = {s.sample if isinstance(s, Case) else s.id: s for s in samples}
    rows = captions.to_dict("records")
    made = [item for row in rows for item in _of_row(row, known, what, first_only)]
    places = Counter((i.sample, i.kind, i.question, i.condition, i.what) for i in made)
    for place, n in places.items():
        if n > 1:
            raise ResultsError(
                f"expected one caption for each sample, question and condition, got several for "
                f"{place}. Tell them apart by `condition`."
            )
    for point in dict.fromkeys(item.what for item in made):
        of_point = [item for item in made if item.what == point and item.text is not None]
        if of_point and all(item.lacks for item in of_point):
            raise ResultsError(
                f"expected reference captions to judge {point} by, got none for any of "
                f"{len(of_point)} captions. Add them to the manifest, or leave this point out."
            )
    return made


def _of_row(
    row: Any, known: Mapping[str, Case | Sample], what: Sequence[What] | None, first_only: bool
) -> Iterator[Item]:
    sample = known.get(str(row["sample"]))
    if sample is None:
        raise ResultsError(
            f"expected captions of the {len(known)} samples given, got {row['sample']!r}. Give the "
            "manifest that they were made from."
        )
    keys = {name: str(row[name]) for name in KEYS}
    condition = row["condition"] if isinstance(row.get("condition"), str) else ""
    text = row["caption"] if isinstance(row["caption"], str) else None
    heard, seen = sample.audio_captions, sample.video_captions
    for point in what or POINTS.get(str(row["question"]), ("audio", "video")):
        own, others = (seen, heard) if point == "video" else (heard, seen)
        references = () if point == "events" else own[:1] if first_only else own
        yield Item(
            **keys, condition=condition, what=point, text=text, references=references, others=others
        )
