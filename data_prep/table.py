"""Which rows does a CSV file hold?

UTF-8 and UTF-16 are recognized; another encoding has to be named, since a wrong guess would turn
captions into other captions without a word.
"""

import codecs
import csv
import io
from collections.abc import Iterator, Sequence
from pathlib import Path

from hooked_omni.errors import FileError, ManifestError


def rows(path: Path, encoding: str | None = None) -> Iterator[tuple[str, list[str]]]:
    """Where each row that is not blank ends ("FILE, line N"), and its cells.

    Raises:
        FileError: If the file cannot be read.
        ManifestError: If a quote is never closed.
    """
    reader = csv.reader(io.StringIO(_text(path, encoding), newline=""), strict=True)
    try:
        for cells in reader:
            if any(cell.strip() for cell in cells):
                yield f"{path}, line {reader.line_num}", cells
    except csv.Error as error:
        raise ManifestError(
            f"expected comma-separated values in {path}, line {reader.line_num}, got: {error}. "
            f"Put texts with quotes or commas in quotes, and double the quotes inside."
        ) from error


def named_rows(
    path: Path, columns: Sequence[str], encoding: str | None = None
) -> Iterator[tuple[str, dict[str, str]]]:
    """The rows of a file whose first row names its columns; more than `columns` may be there.

    Raises:
        ManifestError: For a missing column, or a row of another width.
    """
    table = rows(path, encoding)
    _, header = next(table, ("", []))
    header = [name.strip() for name in header]
    lacking = [name for name in columns if header.count(name) != 1]
    if lacking:
        raise ManifestError(
            f"expected the columns {list(columns)} once each in {path}, line 1, got {header}: "
            f"{lacking} missing or doubled. Name them in the first row, separated by commas."
        )
    for where, cells in table:
        if len(cells) != len(header):
            raise ManifestError(
                f"expected {len(header)} cells in {where}, got {len(cells)}. Put texts that "
                f"contain commas in quotes."
            )
        yield where, dict(zip(header, cells, strict=True))


def whole_seconds(text: str, where: str, name: str) -> int:
    """A time in whole seconds, as it is part of a file name.

    Raises:
        ManifestError: For anything else.
    """
    try:
        seconds = float(text)
        if seconds < 0 or seconds != int(seconds):
            raise ValueError
    except (ValueError, OverflowError):
        raise ManifestError(
            f"expected whole seconds in {where}, field {name!r}, got {text!r:.80}. Correct it."
        ) from None
    return int(seconds)


def _text(path: Path, encoding: str | None) -> str:
    try:
        data = path.read_bytes()
    except OSError as error:
        raise FileError(
            f"expected a file at {path}, got: {error.strerror}. Check the path."
        ) from error
    named = encoding or _marked(data)
    try:
        return data.decode(named).removeprefix("\ufeff")
    except LookupError as error:
        raise FileError(f"expected an encoding such as 'latin-1', got {named!r}.") from error
    except UnicodeDecodeError as error:
        line = data[: error.start].count(b"\n") + 1
        raise FileError(
            f"expected {named} in {path}, line {line}, got byte 0x{data[error.start]:02x}. Save "
            f"the file as UTF-8, or name its encoding, such as latin-1."
        ) from error


def _marked(data: bytes) -> str:
    if data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        return "utf-16"
    # Without a mark, every second byte of Latin letters is zero.
    if b"\0" in data[:2]:
        return "utf-16-be" if data[:1] == b"\0" else "utf-16-le"
    return "utf-8"
