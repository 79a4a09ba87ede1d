"""What does a result remember of how it was made?

A folder holds the table, the figure, and last of all `run.json`: a folder without it is unfinished.
Files are written under another name and renamed, so that a killed run leaves whole files alone.
"""

import dataclasses
import hashlib
import io
import json
import subprocess
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from importlib.metadata import version
from itertools import pairwise
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
from matplotlib.figure import Figure

from analyses.running.options import require_finished, require_folder
from data_prep.figure_text import drawn
from hooked_omni.errors import FileError, ResultsError
from hooked_omni.files import digest, parse_object, read_text, remove, to_json, write_whole

SCHEMA = 3
"""Of folders and tables; one more whenever a reader of the old ones would misread the new ones."""

_ATTRS = b"PANDAS_ATTRS"
_PACKAGES = ("hooked-omni", "torch", "transformers", "transformer-lens", "pandas")
_RUN = dict(analysis=str, rows=int, n_cases=int, cases=dict, skipped=dict, config=dict, facts=dict)
_G = (
    "generated positions: every position after the prompt. The last prompt position, from which "
    "the first new token is chosen, is not one of them."
)


def make_recipe(name: str, config: Any, facts: Mapping[str, Any]) -> dict[str, Any]:
    """What makes a result: two folders of one recipe hold the same numbers."""
    made = {"config": dataclasses.asdict(config), "facts": dict(facts)}
    return {"schema": SCHEMA, "analysis": name, **json.loads(json.dumps(made, default=str))}


def write_recipe(folder: Path, recipe: Mapping[str, Any]) -> None:
    """Mark the folder as one of this recipe, before anything is computed; as `require_same`."""
    require_same(folder, recipe)
    _write_json(folder / "recipe.json", recipe)


def require_same(folder: Path, recipe: Mapping[str, Any]) -> None:
    """Refuse, as a `ResultsError`, a folder of another recipe, with each difference."""
    require_folder(folder)
    for name in ("recipe.json", "run.json"):
        if not (folder / name).is_file():
            continue
        before = read_json(folder / name)
        differences = list(_differences({k: before.get(k) for k in recipe}, recipe))
        if differences:
            raise ResultsError(
                f"expected a folder for this {recipe['analysis']}, got {folder} with "
                f"{'; '.join(differences[:5])}. Choose another folder, or delete this one."
            )


def save(
    folder: Path, name: str, table: pd.DataFrame, figure: Figure, config: Any, **facts: Any
) -> Path:
    """Write `name.parquet`, `name.png`, `name.pdf`, then `run.json`; return the folder.

    What `table.attrs` say (cases, skipped ones) is in `run.json` too. Raises as `require_same`, and
    a `FileError` if a file cannot be written, for example because the disk is full.
    """
    recipe = make_recipe(name, config, facts)
    require_same(folder, recipe)
    made = {
        **recipe,
        "rows": len(table),
        **json.loads(json.dumps(table.attrs, default=str)),
        "schema": SCHEMA,
        "G": _G,
        "made": datetime.now(UTC).isoformat(timespec="seconds"),
        "commit": _commit(),
        "versions": {package: version(package) for package in _PACKAGES},
    }
    remove(folder / "run.json")
    write_table(folder / f"{name}.parquet", table, name)
    write_figure(folder / name, figure, dpi=200)
    _write_json(folder / "run.json", made)
    return folder


def _write_json(path: Path, made: Mapping[str, Any]) -> None:
    sealed = {**made, "checksum": digest(made)}
    write_whole(path, to_json(sealed, str(path), indent=2).encode())


def write_figure(path: Path, figure: Figure, dpi: int) -> None:
    """Write `path.png` and `path.pdf`."""
    endings = ("png", "pdf")
    for ending, data in zip(endings, drawn(figure, endings, dpi), strict=True):
        write_whole(path.with_name(f"{path.name}.{ending}"), data)


def load(folder: Path) -> pd.DataFrame:
    """The table of a finished run; a `ResultsError` for an unfinished or damaged one."""
    made = read_run(folder)
    return gather({folder / f"{made['analysis']}.parquet": {"cases": made.get("cases")}})


def write_table(path: Path, table: pd.DataFrame, name: str, **attrs: Any) -> None:
    """Write one Parquet file, with `table.attrs`, `attrs`, the schema's number and the analysis.

    A SHA-256 of all its bytes stands before the footer, where Parquet's readers do not look.
    """
    whole, buffer = table.copy(), io.BytesIO()
    whole.attrs = {**table.attrs, "schema": SCHEMA, "analysis": name, **attrs}
    whole.to_parquet(buffer)
    data = buffer.getvalue()
    at = _footer(data)
    write_whole(path, data[:at] + hashlib.sha256(data).digest() + data[at:])


def _footer(data: bytes) -> int:
    """Where a Parquet file's footer begins."""
    return max(len(data) - 8 - int.from_bytes(data[-8:-4], "little"), 0)


def read_table(path: Path) -> pd.DataFrame:
    """A table written by `write_table`; raises as `gather`."""
    return gather({path: {}})


def gather(marks: Mapping[Path, Mapping[str, Any]]) -> pd.DataFrame:
    """Tables of one run as one, in this order; counts in `attrs` are added up, dicts joined.

    `marks` are what each table's `attrs` must say of whose it is. A missing or changed file, one of
    another version and another's is a `ResultsError`.
    """
    read = [_arrow(path, mark) for path, mark in marks.items()]
    tables, attrs = [table for table, _ in read], dict[str, Any]()
    for _, own in read:
        for key, value in own.items():
            attrs[key] = _joined(attrs[key], value, key) if key in attrs else value
    filled = [table for table in tables if len(table)] or tables[:1]
    # Arrow knows a column without a number in one part for the same column in another.
    whole: Any = _frame(pa.concat_tables(filled, promote_options="permissive"))
    whole.attrs = attrs
    return whole.reset_index(drop=True)


def _frame(table: pa.Table) -> pd.DataFrame:
    """The table in pandas, with tuples for lists, as the analyses make them.

    Equal lists are one object: a lens has millions of rows, and few lists.
    """
    lists = [f.name for f in table.schema if pa.types.is_list(f.type)]
    frame, known = table.drop_columns(lists).to_pandas(), dict[tuple[Any, ...], tuple[Any, ...]]()
    for name in lists:
        column = table[name].combine_chunks()
        values, ends = column.values.to_pylist(), column.offsets.to_pylist()
        rows = (tuple(values[start:end]) for start, end in pairwise(ends))
        pairs = zip(rows, column.is_valid().to_pylist(), strict=True)
        made = [known.setdefault(r, r) if ok else None for r, ok in pairs]
        frame.insert(table.column_names.index(name), name, pd.Series(made, dtype=object))
    return frame


def read_run(folder: Path) -> dict[str, Any]:
    """The `run.json` of a finished run; without one, or as `read_json`, a `ResultsError`."""
    require_finished(folder, "run.json")
    return read_json(folder / "run.json", **_RUN)


def read_json(path: Path, **kinds: type) -> dict[str, Any]:
    """A `run.json` or `recipe.json` with these keys of these types.

    Damage, or another version's, is a `ResultsError`.
    """
    try:
        text = read_text(path)
        made = parse_object(text, str(path))
        _require_schema(made.get("schema"), path)
        parse_object(text, str(path), **kinds)
    except FileError as error:
        raise ResultsError(f"{error} If it was not you who changed it, delete {path}.") from error
    if made.pop("checksum", None) != digest(made):
        raise ResultsError(
            f"expected {path} as it was written, got other values than its checksum is of. Delete "
            "it, and give the same command again."
        )
    return made


def _arrow(path: Path, mark: Mapping[str, Any]) -> tuple[pa.Table, dict[str, Any]]:
    try:
        data = path.read_bytes()
        at = _footer(data)
        whole = data[: max(at - 32, 0)] + data[at:]
        if data[max(at - 32, 0) : at] != hashlib.sha256(whole).digest():
            raise ValueError("other bytes than its checksum is of")
        table = pq.read_table(pa.BufferReader(whole))
        attrs = parse_object((table.schema.metadata or {}).get(_ATTRS, b"{}").decode(), "attrs")
    except (OSError, ValueError) as error:
        raise ResultsError(
            f"expected a whole table at {path}, got {error}. Delete it, and give the same command "
            "again."
        ) from error
    _require_schema(attrs.get("schema"), path)
    if wrong := {name: attrs.get(name) for name in mark if attrs.get(name) != mark[name]}:
        raise ResultsError(
            f"expected a table of this run with {dict(mark)!s:.150}, got {wrong!s:.150} in {path}. "
            "Delete it, and give the same command again."
        )
    return table, attrs


def _require_schema(found: Any, path: Path) -> None:
    if found != SCHEMA:
        raise ResultsError(
            f"expected results of schema {SCHEMA}, got {found or 'none'} in {path}. They are from "
            "another version of this project: use that one, or make them again in another folder."
        )


def _joined(before: Any, value: Any, key: str) -> Any:
    if key == "n_cases":
        return before + value
    if isinstance(before, dict) and isinstance(value, dict):
        return before | value
    if key == "order":
        return ", ".join(sorted({*f"{before}, {value}".split(", ")}))
    if before != value:
        raise ResultsError(f"expected parts that agree on {key!r}, got {before!r} and {value!r}.")
    return before


def _differences(there: Any, here: Any, path: str = "") -> Iterator[str]:
    """Where two recipes differ, in words."""
    if isinstance(there, dict) and isinstance(here, dict):
        for key in dict.fromkeys([*here, *there]):
            below = f"{path}.{key}" if path else str(key)
            yield from _differences(there.get(key), here.get(key), below)
    elif there != here:
        yield f"{path} {there!r} there and {here!r} in this run"


def _commit() -> str | None:
    here, command = Path(__file__).parent, ["git", "rev-parse", "HEAD"]
    done = subprocess.run(command, cwd=here, capture_output=True, text=True, check=False)
    return done.stdout.strip() or None
