"""Where do a study's clips lie, and who was asked?

What no number depends on, so that it is in no recipe: paths, relative to the study's folder, and
names. A page that shows the clips finds them by it.
"""

import os
from dataclasses import dataclass
from pathlib import Path

from hooked_omni.errors import FileError, ResultsError
from hooked_omni.files import parse_object, read_text, to_json, write_whole

_FILE = "sources.json"


@dataclass(frozen=True)
class Sources:
    """The names of model, base ("" without one) and judge; the manifest, and people's ratings."""

    model: str
    base: str
    judge: str
    data: Path
    ratings: tuple[Path, ...] = ()


def write_sources(sources: Sources, out: Path) -> Path:
    """Write `sources.json` into a study's folder; its paths are from here."""
    place = lambda path: Path(os.path.relpath(path, out)).as_posix()  # noqa: E731
    made = {name: getattr(sources, name) for name in ("model", "base", "judge")}
    made |= {"data": place(sources.data), "ratings": [place(path) for path in sources.ratings]}
    return write_whole(out / _FILE, to_json(made, _FILE, indent=2).encode())


def read_sources(folder: Path) -> Sources | None:
    """What it says, paths from here; None for a study that has none, a `ResultsError` for another.

    The files need not be there.
    """
    path = folder / _FILE
    if not path.is_file():
        return None
    try:
        names: dict[str, type] = dict(model=str, base=str, judge=str, data=str, ratings=list)
        made = parse_object(read_text(path), str(path), **names)
        ratings = tuple(folder / one for one in made["ratings"])
    except (FileError, TypeError) as error:
        raise ResultsError(f"expected {path} as a study wrote it, got: {error}") from error
    return Sources(made["model"], made["base"], made["judge"], folder / made["data"], ratings)
