"""Which silent videos and sound files have the same name, but for the suffix?"""

from pathlib import Path

from data_prep.importers import clip_folder
from data_prep.importers.clip_folder import Imported, Progress
from data_prep.manifest import Sample
from hooked_omni.errors import ManifestError, MediaError
from hooked_omni.inputs.container import existing, opened


def match_sounds(clips: Path, sounds: Path, root: Path, progress: Progress = iter) -> Imported:
    """One sample per name of a video in `clips` and a sound in `sounds`, both below `root`.

    The videos' own sounds are not read. The two folders may be the same.
    """
    videos = clip_folder.files_by_stem(clips, root, clip_folder.VIDEOS)
    audios = clip_folder.files_by_stem(sounds, root, clip_folder.SOUNDS)
    samples, missing = [], {}
    for stem in progress(sorted(videos.keys() | audios.keys())):
        try:
            video, audio = _one(stem, videos, "video"), _one(stem, audios, "sound")
            path, seconds = clip_folder.measured(video, root)
            heard = clip_folder.below(audio, root)
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
