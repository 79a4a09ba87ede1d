"""Which samples does a Hugging Face dataset hold?

A sample's fields come from the columns of the same name, or from those that the user names; other
columns are kept where JSON can hold them. Clips inside the dataset are written beside the manifest.
"""

import os
import sys
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from data_prep.importers.clip_folder import Draft, Imported, Progress, Wanted, find_clips, measured
from data_prep.manifest import Sample, file_name, inside, unique
from hooked_omni.errors import FileError, ManifestError, MediaError
from hooked_omni.files import to_json, write_whole
from hooked_omni.inputs.container import existing, opened

_TEXTS = ("id", "kind", "video_id", "audio_id")
_CAPTIONS = ("audio_captions", "video_captions")
_MEDIA = ("video", "audio")
_FIELDS = (*_TEXTS, *_CAPTIONS, *_MEDIA)
_RESERVED = {*_FIELDS, "similarity", "seconds"}


def read_huggingface(
    dataset: str,
    root: Path,
    columns: Mapping[str, str] | None = None,
    split: str | None = None,
    clips: Path | None = None,
    progress: Progress = iter,
) -> Imported:
    """One sample per row of a dataset: a folder, or a name on the hub.

    Args:
        dataset: Such as the authors' `gamma-lab-umd/counterfactual-av-eval`.
        root: The manifest's folder.
        columns: The dataset's column for a field of `Sample`, where the names differ.
        split: Needed if there are several.
        clips: Folder of clips named after the ids, instead of those in the dataset.
        progress: Shows how far it is.

    Raises:
        ManifestError: If there is no such dataset, split or column, or an id comes twice.
    """
    table = _undecoded(_loaded(dataset, split))
    names = _chosen(table.column_names, columns or {})
    samples = _samples(table, names)
    if clips is not None or "video" not in names:
        wanted = Wanted([Draft(sample, (sample.id,)) for sample in samples])
        return find_clips(wanted, clips, root, progress)
    found, missing = [], {}
    for index, sample in progress(list(enumerate(samples))):
        try:
            found.append(_with_media(sample, table[index], names, dataset, root))
        except MediaError as error:
            missing[sample.id] = str(error)
    return Imported(found, missing)


def _loaded(dataset: str, split: str | None) -> Any:
    alone = "torch" not in sys.modules and "USE_TORCH" not in os.environ
    if alone:
        os.environ["USE_TORCH"] = "0"  # datasets would import it, for formats that are not used
    try:
        import datasets
    finally:
        if alone:
            del os.environ["USE_TORCH"]

    folder = Path(dataset)
    try:
        saved = any((folder / one).is_file() for one in ("state.json", "dataset_dict.json"))
        table = datasets.load_from_disk(dataset) if saved else datasets.load_dataset(dataset)
    except Exception as error:  # each builder, file system and hub client has errors of its own
        raise ManifestError(
            f"expected a Hugging Face dataset, a folder or a name, got {dataset!r}: "
            f"{(str(error) or repr(error)).splitlines()[0]}. Check the name and the network, or "
            f"download it and give its folder."
        ) from error
    if not isinstance(table, datasets.Dataset):
        splits = sorted(str(name) for name in table)
        if split is None and len(splits) == 1:
            split = splits[0]
        if split not in splits:
            raise ManifestError(f"expected a split of {splits} of {dataset}, got {split!r}.")
        table = table[split]
    return table


def _undecoded(table: Any) -> Any:
    """The table with media as bytes or paths: no decoder is needed to copy them."""
    for name, feature in table.features.items():
        if getattr(feature, "decode", False):
            table = table.cast_column(name, type(feature)(decode=False))
    return table


def _chosen(there: list[str], columns: Mapping[str, str]) -> dict[str, str]:
    """The column of each field that has one."""
    unknown = sorted(columns.keys() - set(_FIELDS))
    if unknown:
        raise ManifestError(f"expected fields of {list(_FIELDS)}, got {unknown}. Correct them.")
    names = {field: field for field in _FIELDS if field in there} | dict(columns)
    lacking = sorted(name for name in names.values() if name not in there)
    if lacking or "id" not in names:
        raise ManifestError(
            f"expected columns {lacking or ['id']}, got {there}. Say which column holds what, such "
            f"as id=name_of_column; the fields are {list(_FIELDS)}."
        )
    return names


def _samples(table: Any, names: Mapping[str, str]) -> list[Sample]:
    """All rows, without their media."""
    media = {name for name, feature in table.features.items() if hasattr(feature, "decode")}
    rows = enumerate(table.remove_columns(sorted(media)))
    return unique((where := f"row {i}", _sample(row, names, where)) for i, row in rows)


def _sample(row: Mapping[str, Any], names: Mapping[str, str], where: str) -> Sample:
    fields: dict[str, Any] = {}
    for name in _TEXTS:
        value = row[names[name]] if name in names else None
        if name == "id" or value is not None:
            if not isinstance(value, str | int) or isinstance(value, bool) or str(value) == "":
                raise ManifestError(f"expected a text in {where}, column {names[name]!r}.")
            fields[name] = str(value)
    for name in _CAPTIONS:
        value = row[names[name]] if name in names else None
        texts = [value] if isinstance(value, str) else value or []
        if not isinstance(texts, list) or not all(isinstance(text, str) for text in texts):
            raise ManifestError(
                f"expected a text or a list of texts in {where}, column {names[name]!r}, got "
                f"{value!r:.80}. Name another column."
            )
        fields[name] = tuple(text for text in texts if text.strip())
    used = {*names.values(), *_RESERVED}
    others = {name: value for name, value in row.items() if name not in used and _is_plain(value)}
    return Sample(**fields, extra=others)


def _is_plain(value: Any) -> bool:
    """Whether there is a value that JSON can hold."""
    try:
        to_json(value, "")
    except FileError:
        return False
    return value is not None


def _with_media(
    sample: Sample, row: Mapping[str, Any], names: Mapping[str, str], dataset: str, root: Path
) -> Sample:
    paths = {
        kind: _stored(row[names[kind]], file_name(sample.id), kind, dataset, root)
        for kind in _MEDIA
        if kind in names and (kind == "video" or row[names[kind]] is not None)
    }
    video, seconds = measured(paths["video"], root)
    with opened(existing(paths.get("audio", paths["video"])), "audio"):
        pass
    audio = paths["audio"].relative_to(root.resolve()).as_posix() if "audio" in paths else None
    return replace(sample, video=video, audio=audio, seconds=seconds)


def _stored(value: Any, name: str, kind: str, dataset: str, root: Path) -> Path:
    """Where a clip lies below `root`; if it does not, it is written there."""
    if isinstance(value, str):
        return _found(value, Path(dataset), kind, name, root)
    if not isinstance(value, dict) or not (value.get("bytes") or value.get("path")):
        raise MediaError(f"expected {kind} bytes or a path, got {value!r:.80}.")
    suffix = Path(value.get("path") or "").suffix or {"video": ".mp4", "audio": ".wav"}[kind]
    data = value.get("bytes") or existing(value["path"]).read_bytes()
    return _written(data, root / kind / f"{name}{suffix}")


def _found(text: str, folder: Path, kind: str, name: str, root: Path) -> Path:
    for base in (root, folder):
        try:
            path = inside(base, text)
        except ManifestError:
            continue
        if path.is_file() and path.is_relative_to(root.resolve()):
            return path
        if path.is_file():
            return _written(path.read_bytes(), root / kind / f"{name}{path.suffix}")
    raise MediaError(f"expected a {kind} below {root} or {folder}, got no file at {text!r}.")


def _written(data: bytes, path: Path) -> Path:
    if not path.is_file() or path.read_bytes() != data:
        write_whole(path, data)
    return path.resolve()
