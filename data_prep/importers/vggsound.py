"""Which clips does a VGGSound CSV label?

Without a header: `ytid,start,label,split` as published, or `{ytid}_{start:06d}.mp4,label`. Labels
contain commas, quoted. Clips are named `{ytid}_{start:06d}.mp4`.
"""

from pathlib import Path, PurePosixPath

from data_prep.importers.clip_folder import Draft, Wanted
from data_prep.manifest import Sample
from data_prep.table import rows, whole_seconds
from hooked_omni.errors import ManifestError


def read_vggsound(csv: Path, encoding: str | None = None) -> Wanted:
    """One sample per row; its label is its one audio caption.

    Raises:
        ManifestError: For a row of another layout, or a clip that comes twice.
    """
    drafts: dict[str, Draft] = {}
    missing: dict[str, str] = {}
    for where, cells in rows(csv, encoding):
        stem, label, split = _parts(cells, where)
        if stem in drafts or stem in missing:
            raise ManifestError(f"expected each clip once, got {stem!r} again in {where}.")
        if not label:
            missing[stem] = "the label is empty"
            continue
        extra = {"split": split} if split else {}
        drafts[stem] = Draft(Sample(stem, audio_captions=(label,), extra=extra), (stem,))
    return Wanted(list(drafts.values()), missing)


def _parts(cells: list[str], where: str) -> tuple[str, str, str]:
    """Stem of the clip's file, label, and split, which may be empty."""
    cells = [cell.strip() for cell in cells]
    if len(cells) == 2 and cells[0]:
        return PurePosixPath(cells[0]).stem, cells[1], ""
    if len(cells) in (3, 4) and cells[0]:
        start = whole_seconds(cells[1], where, "start")
        return f"{cells[0]}_{start:06d}", cells[2], cells[3] if len(cells) == 4 else ""
    raise ManifestError(
        f"expected ytid,start,label,split or file,label in {where}, got {len(cells)} cells: "
        f"{cells!r:.80}. Put labels that contain commas in quotes."
    )
