"""Which silent videos and sound files belong together?

Those of the same name, without the suffix.
"""

from pathlib import Path

from data_prep.importers.clip_folder import (
    SOUNDS,
    VIDEOS,
    Imported,
    Progress,
    below,
    files_by_stem,
    measured,
)
from data_prep.manifest import Sample
from hooked_omni.errors import ManifestError, MediaError
from hooked_omni.inputs.container import existing, opened


def match_sounds(clips: Path, sounds: Path, root: Path, progress: Progress = iter) -> Imported:
    """One sample per name that has a video in one folder and a sound in the other.

    Args:
        clips: Folder of videos; a sound of their own is not read.
        sounds: Folder of sound files, which may be the same.
        root: The manifest's folder, above both.
        progress: Shows how far it is.
    """
    videos, audios = files_by_stem(clips, root, VIDEOS), files_by_stem(sounds, root, SOUNDS)
    samples, missing = [], {}
    for stem in progress(sorted(videos.keys() | audios.keys())):
        try:
            video, audio = _one(stem, videos, "video"), _one(stem, audios, "sound")
            path, seconds = measured(video, root)
            heard = below(audio, root)
            with opened(existing(audio), "audio"):
                samples.append(Sample(stem, video=path, audio=heard, seconds=seconds))
        except (MediaError, ManifestError) as error:
            missing[stem] = str(error)
    return Imported(samples, missing)


def _one(stem: str, files: dict[str, list[Path]], kind: str) -> Path:
    found = files.get(stem, [])
    if len(found) != 1:
        names = [path.name for path in found] or "none"
        raise MediaError(f"expected one {kind} named {stem}, got {names}.")
    return found[0]
