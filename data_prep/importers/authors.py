"""Which samples does the authors' JSON hold?

A list of `{id, video_captions, audio_captions, output_text?}` beside clips named `{id}.mp4`.
"""

from pathlib import Path

from data_prep.importers.clip_folder import Draft, Imported, Progress, located
from data_prep.manifest import read_authors

__all__ = ["authors"]


def authors(json: Path, clips: Path | None, root: Path, progress: Progress = iter) -> Imported:
    """One sample per item of the list.

    Args:
        json: The authors' file.
        clips: Folder of clips; None for captions alone.
        root: The manifest's folder, above `clips`.
        progress: Shows how far it is.
    """
    drafts = [Draft(sample, (sample.id,)) for sample in read_authors(json)]
    return located(drafts, clips, root, progress=progress)
