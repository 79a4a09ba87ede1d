"""Which of the wanted clips does a folder hold, with picture and sound?

Importers give the file names that would do for a sample; here they are looked up and measured.
"""

import os
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from pathlib import Path, PurePosixPath
from typing import Any

from data_prep.manifest import Sample, inside
from hooked_omni.errors import ManifestError, MediaError
from hooked_omni.inputs.container import existing, frame_span, opened, own_length

VIDEOS = (".mp4", ".mkv", ".webm", ".mov", ".m4v", ".avi")
SOUNDS = (".wav", ".flac", ".m4a", ".mp3", ".aac", ".ogg", ".opus")

Progress = Callable[[list[Any]], Iterable[Any]]


@dataclass(frozen=True)
class Imported:
    """Samples that can be used; and why each other clip, caption or sound cannot, by name."""

    samples: list[Sample]
    missing: dict[str, str]


@dataclass(frozen=True)
class Draft:
    """A sample without files and `seconds`, and file names that would do, best first.

    They have no suffix, and may begin with folders: `stems` of its video, none for a sound alone;
    `sounds` of a sound file, none for no sound, None for the video's own.
    """

    sample: Sample
    stems: tuple[str, ...] = ()
    sounds: tuple[str, ...] | None = None


@dataclass(frozen=True)
class Wanted:
    """What an importer read; and why some captions or samples are of no use, by name."""

    drafts: list[Draft]
    missing: dict[str, str] = field(default_factory=dict)


def find_clips(
    wanted: Wanted, clips: Path | None, root: Path, progress: Progress = iter
) -> Imported:
    """Look the drafts' clips up in a folder, subfolders included.

    Without `clips` the samples stay without them, for work on captions alone.

    Raises:
        ManifestError: If there is no such folder, or it lies outside `root`.
    """
    missing = dict(wanted.missing)
    if clips is None:
        return Imported([draft.sample for draft in wanted.drafts], missing)
    videos, sounds = (files_by_stem(clips, root, one) for one in (VIDEOS, SOUNDS))
    samples = []
    for draft in progress(wanted.drafts):
        try:
            video = _only(draft.stems, videos, clips, ".mp4") if draft.stems else None
            audio = _only(draft.sounds, sounds, clips, ".wav") if draft.sounds else None
            if heard := video if draft.sounds is None else audio:
                with opened(existing(heard), "audio"):
                    pass
            shown, seconds = measured(video, root) if video else (None, None)
            heard = below(audio, root) if audio else draft.sample.audio
            samples.append(replace(draft.sample, video=shown, audio=heard, seconds=seconds))
        except (MediaError, ManifestError) as error:
            missing[draft.sample.id] = str(error)
    return Imported(samples, missing)


def files_by_stem(folder: Path, root: Path, suffixes: tuple[str, ...]) -> dict[str, list[Path]]:
    """All files below a folder with one of the suffixes; hidden ones are left out.

    Raises:
        ManifestError: If there is no such folder, or it lies outside `root`.
    """
    if not folder.is_dir():
        raise ManifestError(f"expected a folder of clips, got no folder at {folder}. Check it.")
    if not folder.resolve().is_relative_to(root.resolve()):
        raise ManifestError(
            f"expected clips below the manifest's folder {root.absolute()}, got {folder}. Write "
            f"the manifest to a folder above the clips, so that the data can be moved as a whole."
        )
    files: dict[str, list[Path]] = {}
    for parent, _, names in os.walk(folder.resolve()):
        for name in sorted(names):
            path = Path(parent, name)
            if path.suffix.lower() in suffixes and not name.startswith("."):
                files.setdefault(path.stem, []).append(path)
    return files


def measured(path: Path, root: Path) -> tuple[str, float]:
    """The path of a clip relative to `root`, and the length of its picture in seconds.

    Raises:
        MediaError: If it cannot be read to its end, or shows nothing.
    """
    relative = below(path, root)
    with opened(existing(path), "video") as (container, stream):
        packets = [packet for packet in container.demux(stream) if packet.size]
        spans = [frame_span(packet) for packet in packets if not packet.is_discard]
        promised = own_length(container, stream)
    if not spans:
        raise MediaError(f"expected frames in {path}, got none. Skip the clip.")
    starts, ends = zip(*spans, strict=True)
    seconds = max(ends) - min(starts)
    # AVI has no times of frames; MP4's length is also of frames that an edit list hides.
    if promised is not None and len(spans) == len(packets):
        seconds = promised
    return relative, round(float(seconds), 6)


def below(path: Path, root: Path) -> str:
    """The path of a file found by `files_by_stem`, relative to `root`.

    Raises:
        ManifestError: If a symbolic link leads out of `root`.
    """
    relative = path.relative_to(root.resolve()).as_posix()
    inside(root, relative, "the folder of clips")
    return relative


def _only(stems: tuple[str, ...], files: dict[str, list[Path]], clips: Path, suffix: str) -> Path:
    for stem in stems:
        named = files.get(PurePosixPath(stem).name, [])
        found = [path for path in named if str(path.with_suffix("")).endswith(f"/{stem}")]
        if len(found) > 1:
            names = sorted(str(path.relative_to(clips.resolve())) for path in found)
            raise MediaError(f"expected one clip for {stem}, got {names}. Keep one of them.")
        if found:
            return found[0]
    raise MediaError(f"expected {stems[0]}{suffix} in {clips}, got no such clip.")
