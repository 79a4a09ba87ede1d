"""What does each clip show, in words?

Video captions for every sample of a manifest: from a file, or from a vision-language model on a
server or in this process. Answers are kept in a journal beside the output, keyed by the clip's
content, the words, the sampling and the model: a stopped run goes on where it was.
"""

import os
from collections import defaultdict
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor, as_completed
from dataclasses import replace
from pathlib import Path
from typing import Any, Protocol

from rich.progress import track

from data_prep.captioning.caption_file import read_captions
from data_prep.clips import clip_hash
from data_prep.console import say_reasons
from data_prep.journal import Journal
from data_prep.manifest import Sample, read_manifest, rebased, write_manifest
from hooked_omni.cluster.joining import Cluster
from hooked_omni.cluster.spreading import spread
from hooked_omni.cluster.tasks import Task
from hooked_omni.endings import say
from hooked_omni.errors import HookedOmniError, MediaError, WorkerLostError
from hooked_omni.files import digest


class NoCaptionError(HookedOmniError, ValueError):
    """Why a clip could not be captioned; whether to `retry`, and after how many `seconds`."""

    def __init__(self, reason: str, retry: bool = False, seconds: float = 0.0) -> None:
        super().__init__(reason)
        self.retry, self.seconds = retry, seconds


class Captioner(Protocol):
    """A model that describes clips."""

    @property
    def workers(self) -> int: ...  # clips at a time

    @property
    def facts(self) -> dict[str, Any]: ...  # what decides the answers

    def caption(self, clip: Path) -> str: ...


def run(
    manifest: Path,
    out: Path,
    source: Path | Captioner,
    *,
    again: bool = False,
    cluster: Cluster | None = None,
) -> dict[str, str]:
    """Write the manifest with video captions.

    Example:
        >>> run(Path("clips.jsonl"), Path("captioned.jsonl"), Path("captions.csv"))
        {'02321': 'no caption in captions.csv'}

    Args:
        manifest: Samples, with or without video captions.
        out: The manifest to write; the journal is kept beside it.
        source: A file of captions by id of the sample or of its video, or a model.
        again: Also caption samples that have video captions.
        cluster: Where each worker has a `Local` model, in place of this process.

    Returns:
        Why, for each sample that is still without a caption.
    """
    samples = [rebased(sample, manifest.parent, out.parent) for sample in read_manifest(manifest)]
    todo = [sample for sample in samples if again or not sample.video_captions]
    if isinstance(source, Path):
        facts: dict[str, Any] = {"file": source.name}
        captions, missing = _from_file(source, todo)
    else:
        facts = source.facts
        captions, missing = _from_model(source, todo, out, cluster)
    written = [replace(s, video_captions=captions.get(s.id, s.video_captions)) for s in samples]
    made = {"by": "captions", **facts, "captioned": len(captions), "missing": missing}
    write_manifest(out, written, made)
    say(f"{len(captions)} of {len(todo)} samples captioned; {len(missing)} are missing")
    say_reasons(missing, "missing")
    return missing


# Captions by the sample's id, and why others have none.
Captions = tuple[dict[str, tuple[str, ...]], dict[str, str]]


def _from_file(path: Path, samples: Iterable[Sample]) -> Captions:
    table, captions, missing = read_captions(path), {}, {}
    for sample in samples:
        found = table.get(sample.id) or table.get(sample.video_id or "")
        if found:
            captions[sample.id] = found
        else:
            missing[sample.id] = f"no caption in {path.name}"
    return captions, missing


def _from_model(
    source: Captioner, samples: Iterable[Sample], out: Path, cluster: Cluster | None
) -> Captions:
    journal = Journal(out.with_name(f"{out.stem}.captions.jsonl"), _are_captions)
    sharing: dict[str, list[str]] = defaultdict(list)
    clips, missing = {}, {}
    for sample in samples:
        clip = out.parent / (sample.video or "")
        try:
            if not clip.is_file():
                kinds = [kind for kind, _ in sample.files]
                raise MediaError(f"no clip at {sample.video or f'all: its files are {kinds}'}")
            key = digest(clip_hash(clip), source.facts)
        except MediaError as error:
            missing[sample.id] = str(error)
            continue
        sharing[key].append(sample.id)
        clips[key] = clip
    new = {key: clip for key, clip in clips.items() if key not in journal}
    ended = _here(journal, new, source)
    if cluster is not None:
        ended = _there(journal, new, source, cluster)
    failed, captions = _failures(journal, track(ended, "captioning", len(new), disable=not new)), {}
    for key, names in sharing.items():
        if key in failed:
            missing |= dict.fromkeys(names, failed[key])
        else:
            captions |= dict.fromkeys(names, tuple(journal.get(key)))
    return captions, missing


def _are_captions(value: Any) -> bool:
    texts = value if isinstance(value, list) else []
    return len(texts) > 0 and all(isinstance(one, str) and one.strip() for one in texts)


def _failures(journal: Journal, ended: Iterable[tuple[str, Future[Any]]]) -> dict[str, str]:
    """Why, for each clip that could not be captioned."""
    failed, folder = dict[str, str](), journal.path.parent.absolute()
    for key, future in ended:
        try:
            future.result()
        except (NoCaptionError, MediaError, WorkerLostError) as error:
            reason = str(error).replace(f"{folder}{os.sep}", "")
            failed[key] = " ".join(reason.split())
    return failed


def _here(
    journal: Journal, clips: dict[str, Path], source: Captioner
) -> Iterator[tuple[str, Future[Any]]]:
    """Caption clips, and write down their captions; each as it ends."""
    pool = ThreadPoolExecutor(source.workers, "captions")

    def caption(key: str, clip: Path) -> None:
        journal.put(key, [source.caption(clip)])

    try:
        futures = {pool.submit(caption, key, clip): key for key, clip in clips.items()}
        yield from ((futures[future], future) for future in as_completed(futures))
    finally:
        # A full disk or a Ctrl-C ends the run now, not after the clips in the queue.
        pool.shutdown(wait=True, cancel_futures=True)


def _there(
    journal: Journal, clips: dict[str, Path], source: Any, cluster: Cluster
) -> Iterator[tuple[str, Future[Any]]]:
    """The same by the workers of a cluster."""
    keys = {Task(clip.name, clip.absolute(), (clip,)): key for key, clip in clips.items()}
    gpus = int(not source.device.startswith("cpu"))
    for task, future in spread(cluster, source.worker, [*keys], gpus=gpus):
        if future.exception() is None:
            journal.put(keys[task], [future.result()])
        yield keys[task], future
