"""Which clips of a manifest are broken? Each is decoded to its end, as the front end does it."""

from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

from data_prep.manifest import MODALITY, Sample, inside, read_manifest
from hooked_omni.errors import ManifestError, MediaError
from hooked_omni.inputs.audio import read_audio
from hooked_omni.inputs.frames import read_frames
from hooked_omni.inputs.picture import read_picture

# More than this between picture and sound is no matter of rounding: 9.9 s for 10 s are normal.
_APART = 0.5  # seconds


def problems(
    manifest: Path, progress: Callable[[list[Sample]], Iterable[Sample]] = iter
) -> Iterator[tuple[str, str]]:
    """Ids of broken samples, each with a problem: of picture, sound, the two, or its twin."""
    seen: dict[tuple[str, str], float | str] = {}
    samples = read_manifest(manifest)
    known = {None, *(sample.id for sample in samples)}
    for sample in progress(samples):
        lengths = {}
        if sample.twin not in known:
            yield sample.id, f"no twin {sample.twin!r} in the manifest"
        tracks = ("video", sample.video), ("audio", sample.audio or sample.video)
        alone = sample.extra.get(MODALITY) == "visual" or (sample.audio and not sample.video)
        for track, path in sample.files if sample.items or alone else tracks:
            if path is None:
                yield sample.id, f"no {track}: the manifest names no file"
                continue
            if (track, path) not in seen:
                seen[track, path] = _seconds(manifest.parent, track, path)
            found = seen[track, path]
            if isinstance(found, str):
                yield sample.id, found
            elif not sample.items:
                lengths[track] = found
        if len(lengths) == 2 and abs(lengths["video"] - lengths["audio"]) > _APART:
            both = ", ".join(f"{track} {seconds:.2f} s" for track, seconds in lengths.items())
            yield sample.id, f"picture and sound differ in length: {both}"


def _seconds(folder: Path, track: str, path: str) -> float | str:
    """The length of a track, 0 of an image, or why it cannot be read."""
    read = {"video": read_frames, "audio": read_audio, "image": read_picture}[track]
    try:
        return getattr(read(inside(folder, path)), "seconds", 0.0)
    except (MediaError, ManifestError) as error:
        return str(error)
