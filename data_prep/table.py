"""Which rows does a CSV file hold?

UTF-8 and UTF-16 are recognized; another encoding has to be named, since a wrong guess would turn
captions into other captions without a word.
"""

import codecs
import csv
import io
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from hooked_omni.errors import FileError, ManifestError
from hooked_omni.files import read_bytes


def rows(
    path: Path, encoding: str | None = None, delimiters: str = ",", spanning: bool = False
) -> Iterator[tuple[str, list[str]]]:
    """Where each row that is not blank ends ("FILE, line N"), and its cells.

    Cells are separated by that of the `delimiters` which is most frequent in the first line. With
    `spanning`, lines inside a cell may look like rows, as lists of captions do.

    Raises:
        FileError: If the file cannot be read.
        ManifestError: If a quote is never closed, or seems to be closed by another row's.
    """
    lines = list(io.StringIO(_text(path, encoding), newline=""))
    delimiter = max(delimiters, key=lines[0].count) if lines else ","
    reader, start = csv.reader(lines, delimiter=delimiter, strict=True), 0
    try:
        for cells in reader:
            inner, start = lines[start + 1 : reader.line_num], reader.line_num
            if not spanning and any(line.count(delimiter) >= len(cells) - 1 for line in inner):
                raise csv.Error(f"a quote over {len(inner) + 1} lines, one of them like a row")
            if any(cell.strip() for cell in cells):
                yield f"{path}, line {reader.line_num}", cells
    except csv.Error as error:
        raise ManifestError(
            f"expected comma-separated values in {path}, line {reader.line_num}, got: {error}. "
            f"Put texts with quotes or commas in quotes, on one line, and double the quotes inside."
        ) from error


def titled(
    path: Path, columns: Sequence[str], **how: Any
) -> tuple[list[str], Iterator[tuple[str, list[str]]]]:
    """The names in a file's first row, more than `columns` maybe, and the `rows` after it, read so.

    Raises:
        ManifestError: For a missing column, and one of any name that is there twice.
    """
    table = rows(path, **how)
    header = [name.strip() for name in next(table, ("", []))[1]]
    names = dict.fromkeys([*columns, *filter(None, header)])
    lacking = [name for name in names if header.count(name) != 1]
    if lacking:
        raise ManifestError(
            f"expected the columns {list(columns)} once each in {path}, line 1, got {header}: "
            f"{lacking} missing or doubled. Name them in the first row, separated by commas."
        )
    return header, table


def named(header: Sequence[str], cells: Sequence[str], where: str) -> dict[str, str]:
    """A row's cells by column; a `ManifestError` for a row of another width."""
    if len(cells) != len(header):
        raise ManifestError(
            f"expected {len(header)} cells in {where}, got {len(cells)}. Put texts that contain "
            f"commas in quotes."
        )
    return dict(zip(header, cells, strict=True))


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
    data = read_bytes(path)
    codec = encoding or _marked(data)
    try:
        text = data.decode(codec).removeprefix("\ufeff")
    except LookupError as error:
        raise FileError(f"expected an encoding such as 'latin-1', got {codec!r}.") from error
    except UnicodeDecodeError as error:
        line = data[: error.start].count(b"\n") + 1
        raise FileError(
            f"expected {codec} in {path}, line {line}, got byte 0x{data[error.start]:02x}. Save "
            f"the file as UTF-8, or name its encoding, such as latin-1."
        ) from error
    if "\0" in text:
        line = text[: text.index("\0")].count("\n") + 1
        raise FileError(f"expected text in {path}, line {line}, got a zero byte. Save it again.")
    return text


def _marked(data: bytes) -> str:
    if data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        return "utf-16"
    # Without a mark, every second byte of Latin letters is zero.
    if b"\0" in data[:2]:
        return "utf-16-be" if data[:1] == b"\0" else "utf-16-le"
    return "utf-8"
