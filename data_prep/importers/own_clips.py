"""Which clips of one's own are there?

Those of a folder, those that a CSV of `file,caption` describes, or silent videos and sound files of
the same name, but for the suffix.
"""

from pathlib import Path, PurePosixPath

from data_prep.importers import clip_folder
from data_prep.importers.clip_folder import Draft, Imported, Progress, Wanted
from data_prep.manifest import Sample
from data_prep.table import named, rows, titled
from hooked_omni.errors import ManifestError, MediaError
from hooked_omni.inputs.container import existing, opened

COLUMNS = ("file", "caption")
_DELIMITERS = ",;\t"


def names_files(csv: Path, encoding: str | None = None) -> bool:
    """Whether a CSV has the columns of `read_csv`; raises as `table.rows`."""
    header = next(rows(csv, encoding, _DELIMITERS), ("", []))[1]
    return {*COLUMNS} <= {cell.strip() for cell in header}


def read_csv(csv: Path, encoding: str | None = None, clips: Path | None = None) -> Wanted:
    """One sample per file, with the `caption` of its sound, and `video_caption` if there is one.

    A file may be in several rows, for several captions. It may be given without its suffix, which
    is a video then. What lies at its place in `clips` comes before others of its name.

    Raises:
        ManifestError: For a missing column, or a row without a file.
    """
    header, table = titled(csv, COLUMNS, encoding=encoding, delimiters=_DELIMITERS)
    heard: dict[str, list[str]] = {}
    seen: dict[str, list[str]] = {}
    for where, cells in table:
        row = {name: cell.strip() for name, cell in named(header, cells, where).items()}
        if not row["file"]:
            raise ManifestError(f"expected a file in {where}, field 'file', got none. Add it.")
        path = PurePosixPath(row["file"])
        name = str(path.with_suffix("") if path.suffix.lower() in clip_folder.VIDEOS else path)
        for found, text in ((heard, row["caption"]), (seen, row.get("video_caption"))):
            found.setdefault(name, []).extend([text] if text else [])
    drafts = []
    for name, captions in heard.items():
        path = PurePosixPath(name)
        alone = path.suffix.lower() in clip_folder.SOUNDS
        place = (_place(str(path.with_suffix("")) if alone else name, clips),)
        sample = Sample(name, audio_captions=tuple(captions), video_captions=tuple(seen[name]))
        drafts.append(Draft(sample, (), place) if alone else Draft(sample, place))
    lacking = {name: "the caption is empty" for name, captions in heard.items() if not captions}
    return Wanted([one for one in drafts if one.sample.id not in lacking], lacking)


def read_folder(clips: Path, root: Path) -> Wanted:
    """One sample per video below a folder, without captions; raises as `files_by_stem`."""
    found = clip_folder.files_by_stem(clips, root, clip_folder.VIDEOS).values()
    paths = sorted(path.relative_to(clips.resolve()) for one in found for path in one)
    stems = dict.fromkeys(path.with_suffix("").as_posix() for path in paths)
    return Wanted([Draft(Sample(stem), (_place(stem, clips),)) for stem in stems])


def _place(stem: str, clips: Path | None) -> str:
    """The whole path of what is in `clips` by this name; else the name."""
    whole = (clips or Path()).resolve() / stem
    suffixes = (*clip_folder.VIDEOS, *clip_folder.SOUNDS)
    there = clips and any(whole.with_name(whole.name + suffix).exists() for suffix in suffixes)
    return str(whole).lstrip("/") if there else stem


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
