"""Which clips are there to ask about, and what is known of each?

A manifest is JSON Lines: a header, then one sample a line. Paths are relative to its folder and
never leave it, so a data folder can be moved as a whole. Keys not known here are kept.
"""

import hashlib
import json
import os
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, fields, replace
from pathlib import Path, PurePosixPath
from typing import Any

from hooked_omni.errors import ManifestError
from hooked_omni.files import parse_json, read_text, to_json, write_whole

# Key of a counterfactual sample: what the picture's own clip sounds like.
OWN_CAPTIONS = "own_audio_captions"
# Key of a sample with a benchmark's "visual", "audio" or "visual+audio": whether it is to be heard.
MODALITY = "modality"
SCHEMA = 1


@dataclass(frozen=True)
class Sample:
    """A clip to ask about, and the captions that say what is truly in it.

    ```python
    Sample("02321", video="clips/02321.mp4", audio_captions=("A dog barks",))
    Sample("02321+rain", "counterfactual", video="clips/02321.mp4", audio="clips/rain.mp4")
    ```

    Attributes:
        id: Names the sample within its manifest.
        kind: "factual", "counterfactual", or a control: "self", "silence", "noise", "reversed".
        video: File with the picture, relative to the manifest's folder.
        audio: File with the sound, maybe another clip; None means the video's own.
        items: In place of `video` and `audio`, what is given in this order: "image", "video" or
            "audio" with its file, or "text" with words. With words, it is asked under the name
            "own", and no other question.
        audio_captions: What is heard.
        video_captions: What is seen.
        video_id: The clip that the picture is from, if not `id`.
        audio_id: The clip that the sound is from, if not `id`.
        similarity: Cosine of the two clips' embedded captions.
        seconds: Length of the picture.
        twin: Id of the factual sample with the same picture, with which this one is compared.
        extra: Further keys of the line.
    """

    id: str
    kind: str = "factual"
    video: str | None = None
    audio: str | None = None
    audio_captions: tuple[str, ...] = ()
    video_captions: tuple[str, ...] = ()
    video_id: str | None = None
    audio_id: str | None = None
    similarity: float | None = None
    seconds: float | None = None
    twin: str | None = None
    items: tuple[tuple[str, str], ...] = ()
    extra: dict[str, Any] = field(default_factory=dict)

    @property
    def files(self) -> tuple[tuple[str, str], ...]:
        """Its files in order, each with the name of its field or kind."""
        plain = (("video", self.video), ("audio", self.audio), *self.items)
        return tuple((name, path) for name, path in plain if path and name != "text")


_NAMES = tuple(item.name for item in fields(Sample) if item.name != "extra")
_CAPTIONS = ("audio_captions", "video_captions")
_PATHS = ("video", "audio")
_NUMBERS = {"similarity": (-1.01, 1.01), "seconds": (0, 1e9)}  # a cosine may be rounded
_KINDS = ("text", "image", "video", "audio")


def read_manifest(path: str | Path) -> list[Sample]:
    """Read the samples of a manifest, in its order.

    Raises:
        FileError: For a file that cannot be read, or a line that is no JSON.
        ManifestError: For anything else that is wrong, with its file, line and field.
    """
    path = Path(path)
    rows = ((f"{path}, line {number}", record) for number, record in _lines(path)[1:])
    return unique((where, parsed(record, where, path.parent)) for where, record in rows)


def read_facts(path: str | Path) -> dict[str, Any]:
    """How a manifest was made, from its header."""
    return _lines(Path(path))[0][1].get("made", {})


def write_manifest(
    path: str | Path, samples: Iterable[Sample], made: Mapping[str, Any] | None = None
) -> Path:
    """Write a manifest, with how its samples were `made`; equal arguments give equal bytes.

    Raises:
        ManifestError: For a sample that `read_manifest` would refuse.
        FileError: For a value that JSON cannot hold, or a file that cannot be written.
    """
    path = Path(path)
    lines = [to_json({"schema": SCHEMA, "made": dict(sorted((made or {}).items()))}, str(path))]
    read_back = []
    for number, sample in enumerate(samples, start=1):
        where = f"sample {number} ({sample.id!r})"
        if clash := sorted(sample.extra.keys() & set(_NAMES)):
            raise ManifestError(f"expected other keys than {clash} in extra of {where}. Rename.")
        lines.append(to_json(_record(sample), where))
        read_back.append((where, parsed(json.loads(lines[-1]), where, path.parent)))
    unique(read_back)
    return write_whole(path, "".join(line + "\n" for line in lines).encode())


def unique(samples: Iterable[tuple[str, Sample]]) -> list[Sample]:
    """The samples, each given with where it stands.

    Raises:
        ManifestError: For an id that comes twice, with both places, and for a wrong twin.
    """
    places, kept = dict[str, str](), []
    for where, sample in samples:
        if (first := places.setdefault(sample.id, where)) != where:
            raise ManifestError(
                f"expected each id once, got {sample.id!r} in {first} and in {where}. Rename one."
            )
        kept.append(sample)
    kinds = {sample.id: sample.kind for sample in kept}
    for sample in kept:
        # One that is not there is for `check`: a part of a manifest is a manifest too.
        kind = kinds.get(sample.twin or "", "factual")
        if sample.twin is not None and (sample.kind == "factual" or kind != "factual"):
            raise ManifestError(
                f"expected a factual sample as twin of one that is not, got {sample.twin!r} "
                f"({kind}) as twin of {sample.id!r} ({sample.kind}) in {places[sample.id]}. "
                f"Correct the field 'twin', or take it out."
            )
    return kept


def parsed(record: Any, where: str, root: Path | None = None) -> Sample:
    """The sample that a JSON object describes; with `root`, its paths must stay below that folder.

    Raises:
        ManifestError: For anything wrong, with `where` and the field.
    """
    if not isinstance(record, dict):
        raise ManifestError(
            f"expected an object in {where}, got {type(record).__name__}. One sample a line."
        )
    if "id" not in record:
        raise ManifestError(f"expected a field 'id' in {where}, got {sorted(record)}. Add it.")
    known = {name: _value(name, record[name], where) for name in _NAMES if name in record}
    sample = Sample(**known, extra={k: v for k, v in record.items() if k not in _NAMES})
    if sample.items and (sample.video or sample.audio):
        raise ManifestError(
            f"expected items alone in {where}, got them beside 'video' or 'audio'. Write these "
            "among the items, in their order."
        )
    for name, path in sample.files if root is not None else ():
        inside(root or "", path, f"{where}, field {name!r}")
    return sample


def inside(root: str | Path, path: str | Path, where: str = "a path") -> Path:
    """The absolute form of `path`, which is relative to `root` and must not leave it.

    Raises:
        ManifestError: For an absolute path, `..`, or a symbolic link that leads out.
    """
    root, relative = Path(root), PurePosixPath(path)
    try:
        base = root.resolve()
        leaves = relative.is_absolute() or not (base / relative).resolve().is_relative_to(base)
        (base / relative).exists()  # raises for a name that is too long, or a forbidden folder
    except (OSError, RuntimeError, ValueError) as error:
        raise ManifestError(
            f"expected a path in {where}, got {str(path)!r} ({error}). Correct it."
        ) from error
    if leaves or ".." in relative.parts or relative == PurePosixPath("."):
        raise ManifestError(
            f"expected a path below {root.absolute()} in {where}, got {str(path)!r}. Move the file "
            f"there, or write the manifest to a folder above it."
        )
    return base / relative


def file_name(sample_id: str) -> str:
    """A file name for a sample, without suffix: safe, and another one for every id.

    Example:
        >>> file_name("dog+rain/2")
        'dog-rain-2-169c4a69'
    """
    readable = re.sub(r"[^A-Za-z0-9_]+", "-", sample_id).strip("-")[:80]
    # Ids may differ in letters that are left out, or in case alone.
    return f"{readable}-{hashlib.sha256(sample_id.encode()).hexdigest()[:32]}".removeprefix("-")


def rebased(sample: Sample, old: Path, new: Path) -> Sample:
    """The sample with paths relative to folder `new` instead of `old`."""
    moved = {}
    for name, path in sample.files:
        target = Path(os.path.relpath(inside(old, path), new.resolve())).as_posix()
        inside(new, target, f"sample {sample.id!r}, field {name!r}")
        moved[path] = target
    items = tuple((k, v if k == "text" else moved[v]) for k, v in sample.items)
    own = {name: moved[path] for name in _PATHS if (path := getattr(sample, name)) is not None}
    return replace(sample, **own, items=items)


def _lines(path: Path) -> list[tuple[int, Any]]:
    """Number and value of each line that is not blank; the first is a header of this schema."""
    # Not splitlines: captions may hold U+2028 and its kin.
    rows = enumerate(read_text(path).split("\n"), start=1)
    lines = [
        (number, parse_json(row, f"{path}, line {number}")) for number, row in rows if row.strip()
    ]
    advice = f'Start the file with {{"schema": {SCHEMA}}}, or write it with write_manifest.'
    if not lines:
        raise ManifestError(f"expected a header and samples in {path}, got an empty file. {advice}")
    number, header = lines[0]
    where = f"{path}, line {number}, field 'schema'"
    if not isinstance(header, dict) or "schema" not in header:
        raise ManifestError(f"expected a header with a schema in {where}, got none. {advice}")
    if type(header["schema"]) is not int or header["schema"] != SCHEMA:
        raise ManifestError(
            f"expected schema {SCHEMA} in {where}, got {header['schema']!r}. It was written by "
            f"another version of this package: use that one, or make the manifest again."
        )
    if not isinstance(header.get("made", {}), dict):
        raise ManifestError(f"expected an object in {path}, line {number}, field 'made'. {advice}")
    return lines


def _record(sample: Sample) -> dict[str, Any]:
    """The line of a sample: known keys in their order, then the others by name."""
    known = {name: getattr(sample, name) for name in _NAMES}
    kept = {name: value for name, value in known.items() if value not in (None, ())}
    return {**kept, **dict(sorted(sample.extra.items()))}


def _value(name: str, value: Any, where: str) -> Any:
    if name in _CAPTIONS:
        if isinstance(value, list) and all(isinstance(text, str) for text in value):
            return tuple(value)
        expected = "a list of texts"
    elif name == "items":
        pairs = [tuple(p) for p in value if isinstance(p, list)] if isinstance(value, list) else []
        texts = all(isinstance(w, str) and w.strip() for pair in pairs for w in pair)
        whole = pairs and texts and len(pairs) == len(value) and {*map(len, pairs)} == {2}
        if whole and {pair[0] for pair in pairs} <= {*_KINDS}:
            return tuple(pairs)
        expected = f"a list of pairs, each one of {_KINDS} and its file or words,"
    elif name in _NUMBERS:
        (low, high), number = _NUMBERS[name], type(value) in (int, float)
        if value is None or (number and low <= value <= high):
            return None if value is None else float(value)
        expected = f"a number from {low} to {high:g}"
    else:
        if (isinstance(value, str) and value.strip()) or (
            value is None and name not in ("id", "kind")
        ):
            return value
        expected = "a text that is not empty"
    raise ManifestError(
        f"expected {expected} in {where}, field {name!r}, got {value!r:.80}. Correct it."
    )
