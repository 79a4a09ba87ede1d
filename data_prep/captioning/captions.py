"""What does each clip show, in words?

Video captions for every sample of a manifest: from a file, from a vision-language model behind a
server, or from one in this process (`captioners`). A clip is asked about once: answers are kept in
a journal beside the output, keyed by the clip's content, the words, the sampling and the model, so
that a stopped run goes on where it was. A clip without a caption is listed as missing.
"""

import csv
import io
import os
from collections import defaultdict
from collections.abc import Iterable
from concurrent.futures import Future, ThreadPoolExecutor, as_completed
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import track

from data_prep.captioning.captioners import Local, NoCaptionError, Server
from data_prep.journal import Journal
from data_prep.manifest import Sample, read_manifest, rebased, write_manifest
from hooked_omni.errors import ManifestError, MediaError
from hooked_omni.files import digest, file_hash, parse_json, read_text

__all__ = ["CaptionFile", "run"]


@dataclass(frozen=True)
class CaptionFile:
    """Captions on disk, by id of the sample or of its video.

    JSON: `{"id": "caption"}`, `{"id": ["caption", ...]}`, or a list of objects with `id` and
    `video_captions` (or `captions`, or `caption`). CSV: columns `id` and `caption`, one caption a
    row.
    """

    path: Path


def run(
    manifest: Path, out: Path, source: CaptionFile | Server | Local, *, again: bool = False
) -> dict[str, str]:
    """Write the manifest with video captions.

    Example:
        >>> run(Path("clips.jsonl"), Path("captioned.jsonl"), CaptionFile(Path("captions.csv")))
        {'02321': 'no caption in captions.csv'}

    Args:
        manifest: Samples, with or without video captions.
        out: The manifest to write; the journal is kept beside it.
        source: Who describes the clips.
        again: Ask also about samples that have video captions.

    Returns:
        Why, for each sample that is still without a caption.
    """
    samples = [rebased(sample, manifest.parent, out.parent) for sample in read_manifest(manifest)]
    asked = [sample for sample in samples if again or not sample.video_captions]
    if isinstance(source, CaptionFile):
        captions, missing = _from_file(source.path, asked)
        facts: dict[str, Any] = {"file": source.path.name}
    else:
        captions, missing = _from_model(source, asked, out)
        facts = source.facts
    written = [
        replace(sample, video_captions=captions[sample.id]) if sample.id in captions else sample
        for sample in samples
    ]
    made = {"by": "captions", **facts, "captioned": len(captions), "missing": missing}
    write_manifest(out, written, made)
    console = Console(stderr=True)
    console.print(f"{len(captions)} of {len(asked)} samples captioned; {len(missing)} are missing")
    for name, reason in list(missing.items())[:10]:
        console.print(f"  {name}: {reason}", markup=False)
    return missing


Answers = tuple[dict[str, tuple[str, ...]], dict[str, str]]


def _from_file(path: Path, samples: Iterable[Sample]) -> Answers:
    table, captions, missing = _read_captions(path), {}, {}
    for sample in samples:
        found = table.get(sample.id) or table.get(sample.video_id or "")
        if found:
            captions[sample.id] = found
        else:
            missing[sample.id] = f"no caption in {path.name}"
    return captions, missing


def _from_model(source: Server | Local, samples: Iterable[Sample], out: Path) -> Answers:
    """Ask about each clip that the journal does not know, `workers` at a time."""
    journal = Journal(out.with_name(f"{out.stem}.captions.jsonl"))
    sharing: dict[str, list[str]] = defaultdict(list)
    clips, missing = {}, {}
    for sample in samples:
        clip = out.parent / (sample.video or "")
        if not clip.is_file():
            missing[sample.id] = f"no clip at {sample.video}"
            continue
        key = digest(file_hash(clip), source.facts)
        sharing[key].append(sample.id)
        clips[key] = clip
    refused = _ask(
        {key: clip for key, clip in clips.items() if key not in journal}, source, journal
    )
    captions = {}
    for key, names in sharing.items():
        for name in names:
            if key in refused:
                missing[name] = refused[key]
            else:
                captions[name] = tuple(journal.get(key))
    return captions, missing


def _ask(clips: dict[str, Path], source: Server | Local, journal: Journal) -> dict[str, str]:
    """Fill the journal; why, for each clip that could not be captioned."""
    refused, folder = dict[str, str](), journal.path.parent.absolute()
    pool = ThreadPoolExecutor(source.workers, "captions")

    def ask(key: str, clip: Path) -> None:
        journal.put(key, [source.caption(clip)])

    try:
        futures: dict[Future[None], str] = {
            pool.submit(ask, key, clip): key for key, clip in clips.items()
        }
        done = as_completed(futures)
        for future in track(done, "asking", total=len(futures), disable=not futures):
            try:
                future.result()
            except (NoCaptionError, MediaError) as error:
                refused[futures[future]] = " ".join(
                    str(error).replace(f"{folder}{os.sep}", "").split()
                )
    finally:
        # A full disk or a Ctrl-C ends the run now, not after the clips in the queue.
        pool.shutdown(wait=True, cancel_futures=True)
    return refused


def _read_captions(path: Path) -> dict[str, tuple[str, ...]]:
    text = read_text(path)
    rows = _csv_rows(path, text) if path.suffix.lower() == ".csv" else _json_rows(path, text)
    table: dict[str, list[str]] = defaultdict(list)
    for name, said in rows:
        captions = [said] if isinstance(said, str) else said
        if not isinstance(captions, list) or not all(isinstance(one, str) for one in captions):
            raise ManifestError(
                f"expected a caption or a list of captions for {name!r} in {path}, got "
                f"{str(said)[:60]!r}."
            )
        kept = dict.fromkeys(" ".join(caption.split()) for caption in captions)
        table[name] += [caption for caption in kept if caption and caption not in table[name]]
    return {name: tuple(captions) for name, captions in table.items() if captions}


def _csv_rows(path: Path, text: str) -> Iterable[tuple[str, Any]]:
    reader = csv.DictReader(io.StringIO(text, newline=""))
    columns = set(reader.fieldnames or ())
    if not {"id", "caption"} <= columns:
        raise ManifestError(
            f"expected the columns id and caption in {path}, got {sorted(columns)}. Name them in "
            f"the first row."
        )
    for row in reader:
        if row["id"] is None or row["caption"] is None or None in row:
            raise ManifestError(
                f"expected {len(columns)} values in line {reader.line_num} of {path}, got others. "
                f"Quote captions that hold commas."
            )
        yield row["id"].strip(), row["caption"]


def _json_rows(path: Path, text: str) -> Iterable[tuple[str, Any]]:
    read = parse_json(text, str(path))
    if isinstance(read, dict):
        return read.items()
    names = ("video_captions", "captions", "caption")
    if not isinstance(read, list) or not all(isinstance(row, dict) and "id" in row for row in read):
        raise ManifestError(f"expected id -> captions, or a list of objects with id, in {path}.")
    return [(str(row["id"]), next((row[n] for n in names if n in row), [])) for row in read]
