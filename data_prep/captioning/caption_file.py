"""Which captions does a file hold?

JSON: `{"id": "caption"}`, `{"id": ["caption", ...]}`, or a list of objects with `id` and
`video_captions` (or `captions`, or `caption`). CSV: columns `id` and `caption`, one caption a row.
"""

from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from data_prep.table import named, titled
from hooked_omni.errors import ManifestError
from hooked_omni.files import parse_json, read_text


def read_captions(path: Path) -> dict[str, tuple[str, ...]]:
    """The captions in a file by id, each once and on one line; ids without any are left out.

    Raises:
        ManifestError: If it holds anything else.
    """
    if path.suffix.lower() == ".csv":
        header, table = titled(path, ("id", "caption"))
        named_rows = (named(header, cells, where) for where, cells in table)
        rows: Iterable[tuple[str, Any]] = [(r["id"].strip(), r["caption"]) for r in named_rows]
    else:
        rows = _json_rows(path)
    captions: dict[str, list[str]] = defaultdict(list)
    for name, value in rows:
        texts = [value] if isinstance(value, str) else value
        if not isinstance(texts, list) or not all(isinstance(text, str) for text in texts):
            raise ManifestError(
                f"expected a caption or a list of captions for {name!r} in {path}, got "
                f"{str(value)[:60]!r}."
            )
        captions[name] += [" ".join(text.split()) for text in texts if text.strip()]
    return {name: tuple(dict.fromkeys(texts)) for name, texts in captions.items() if texts}


def _json_rows(path: Path) -> Iterable[tuple[str, Any]]:
    read = parse_json(read_text(path), str(path))
    if isinstance(read, dict):
        return read.items()
    names = ("video_captions", "captions", "caption")
    if not isinstance(read, list) or not all(
        isinstance(row, dict) and type(row.get("id")) in (str, int) for row in read
    ):
        raise ManifestError(
            f"expected id -> captions, or a list of objects with id, in {path}, got "
            f"{str(read)[:60]!r}. Correct it."
        )
    return [(str(row["id"]), next((row[n] for n in names if n in row), [])) for row in read]
