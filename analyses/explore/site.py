"""How is the site written? `python -m analyses explore STUDY ... --out DIR`.

A page from disk may not fetch, so all data are scripts that hand over one value each. Everything in
them is JSON of ASCII, in which no text can end a script or begin markup.
"""

import base64
import json
import os
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import count
from pathlib import Path
from typing import Any

from analyses.explore.opened import OpenStudy, open_study
from analyses.explore.overview import study_record
from analyses.explore.samples import SampleTables, attention_file
from analyses.running.options import require_folder
from analyses.running.progress import ProgressCallback, no_progress
from data_prep.manifest import file_name
from hooked_omni.errors import FileError, ResultsError

BUILT = Path(__file__).with_name("built")
"""The page, as its build has left it."""


def write_site(
    folders: Sequence[Path],
    out: Path,
    judge: str | None = None,
    data: Path | None = None,
    progress: ProgressCallback = no_progress,
) -> Path:
    """Write the site of one study or several, whole or not at all; return the path of its page.

    `judge` is whose scores are shown, where several judged; `data` the manifest, where it is not
    where the study found it. `progress` is called with "samples", how many are done, and of how
    many.

    Raises:
        ResultsError: For an `out` that is there and not empty, a study twice, and as `open_study`.
        FileError: If the site cannot be written.
    """
    require_folder(out)
    if out.exists() and any(out.iterdir()):
        raise ResultsError(
            f"expected a new folder for the site, got {out}, which is there and not empty. Choose "
            "another one, or delete it."
        )
    if len({folder.resolve() for folder in folders}) < max(len(folders), 1):
        raise ResultsError(f"expected studies, each once, got {[str(one) for one in folders]}.")
    studies = distinct([open_study(folder, judge, data) for folder in folders])
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=f".part-{out.name}-", dir=out.parent) as made:
            _write(studies, site := Path(made) / "site", progress)
            if out.exists():
                out.rmdir()
            os.replace(site, out)  # noqa: PTH105  # of a folder
    except OSError as error:
        raise FileError(
            f"expected to write the site to {out}, got: {error}. Make room, or choose another "
            "folder."
        ) from error
    return out / "index.html"


def distinct(studies: Sequence[OpenStudy]) -> list[OpenStudy]:
    """Each by as much of its path as no other ends in, and its judge, where there are several."""
    paths = [one.folder.resolve().parts for one in studies]
    judges = [one.scores.attrs["judge"]["name"] if len(one.scores) else "" for one in studies]
    several = len({*judges} - {""}) > 1
    named = []
    for study, own, judge in zip(studies, paths, judges, strict=True):
        n = next(n for n in count(1) if sum(own[-n:] == one[-n:] for one in paths) == 1)
        by = f", judged by {judge}" if several and judge else ""
        named.append(replace(study, name=f"{Path(*own[-n:])}{by}"))
    return named


def script(name: str, value: Any) -> bytes:
    """A script that hands `value` over to the page under `name`; no text in it can end it."""
    texts = (json.dumps(one, allow_nan=False, separators=(",", ":")) for one in (name, value))
    plain = ",".join(texts).replace("<", "\\u003c").replace(">", "\\u003e")
    return f"hookedOmni.put({plain});\n".encode("ascii")


def _write(studies: Sequence[OpenStudy], site: Path, progress: ProgressCallback) -> None:
    shutil.copytree(BUILT, site)
    others = [dict(name=one.name, samples=[*one.kinds_of]) for one in studies]
    n_all, n_done = sum(len(one.kinds_of) for one in studies), 0
    progress("samples", 0, n_all)
    for n, study in enumerate(studies):
        for name, value in _records(n, study, site / "media", others):
            path = site / "data" / f"{name}.js"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(script(name, value))
            if "/samples/" in name:
                progress("samples", n_done := n_done + 1, n_all)


def _records(
    n: int, study: OpenStudy, media: Path, others: list[dict[str, Any]]
) -> Iterator[tuple[str, Any]]:
    """Names and values of all scripts of a study."""
    from analyses.explore.media import clip_record  # takes seconds

    yield f"{n}/study", study_record(study, others)
    tables, folder = SampleTables(study), (study.manifest or study.folder).parent
    for sample in study.kinds_of:
        clip = clip_record(study.samples.get(sample), folder, study.media, media, study.hears)
        yield from sample_records(n, tables, sample, clip)


def sample_records(
    n: int, tables: SampleTables, sample: str, clip: dict[str, Any]
) -> Iterator[tuple[str, Any]]:
    """Names and values of the scripts of a sample."""
    yield f"{n}/samples/{file_name(sample)}", tables.record(sample, clip)
    for row in tables.rows("attention_map", sample):
        yield f"{n}/{attention_file(row)}", base64.b64encode(row["packed"]).decode()
