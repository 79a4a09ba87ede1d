"""Which of the wanted clips does a folder hold, with picture and sound?

Importers give the file names that would do for a sample; here they are looked up and measured.
"""

import os
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from pathlib import Path
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
    """A sample without `video` and `seconds`, and file names that would do, best first."""

    sample: Sample
    stems: tuple[str, ...]  # without suffix


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
    files, samples = files_by_stem(clips, root, VIDEOS), []
    for draft in progress(wanted.drafts):
        try:
            path = _only(draft.stems, files, clips)
            with opened(existing(path), "audio"):
                pass
            video, seconds = measured(path, root)
            samples.append(replace(draft.sample, video=video, seconds=seconds))
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


def _only(stems: tuple[str, ...], files: dict[str, list[Path]], clips: Path) -> Path:
    stem = next((stem for stem in stems if stem in files), None)
    if stem is None:
        raise MediaError(f"expected {stems[0]}.mp4 in {clips}, got no such clip.")
    if len(files[stem]) > 1:
        names = sorted(str(path.relative_to(clips.resolve())) for path in files[stem])
        raise MediaError(f"expected one clip for {stem}, got {names}. Keep one of them.")
    return files[stem][0]
