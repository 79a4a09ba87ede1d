"""Which samples of a manifest get another sound, and what became of each?

Samples whose sound is another file's become files of their own, and so do the controls. A stopped
run goes on where it was: whole files are recognized.
"""

import os
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

from data_prep.manifest import (
    Sample,
    file_name,
    inside,
    read_facts,
    read_manifest,
    rebased,
    unique,
    write_manifest,
)
from data_prep.swapping.swap_clip import CONTROLS, is_swapped, swap
from hooked_omni.cluster.joining import Cluster
from hooked_omni.cluster.spreading import spread
from hooked_omni.cluster.tasks import Made, Task
from hooked_omni.errors import ManifestError, MediaError, WorkerLostError
from hooked_omni.files import exclusive

# Key in `extra` that marks a file made here, and of what.
_MARK = "swapped_from"


def run(
    manifest: Path,
    out: Path,
    controls: Sequence[str] = (),
    seed: int = 0,
    progress: Callable[[list[Sample]], Iterable[Sample]] = iter,
    cluster: Cluster | None = None,
) -> dict[str, str]:
    """Write a manifest whose samples all have their own sound, and the clips for it.

    Args:
        manifest: Samples; those with `audio` are swapped, and those of a control's kind.
        out: The manifest to write, in the same folder or one above. Clips go to a folder beside
            it, `{out.stem}.clips`.
        controls: Added for every factual sample: "self", "silence", "noise", "reversed".
        seed: Of the noise.
        progress: Shows how far it is.
        cluster: Where clips are made, in place of this process.

    Returns:
        Why each sample that is left out could not be made: a reason by id.

    Raises:
        ManifestError: For a manifest of which nothing can be made.
    """
    _check_request(manifest, out, controls)
    given = [rebased(sample, manifest.parent, out.parent) for sample in read_manifest(manifest)]
    factual = [sample for sample in given if sample.kind == "factual"]
    added = [_control(sample, control) for control in controls for sample in factual]
    places = [str(manifest)] * len(given) + ["the added controls"] * len(added)
    samples = unique(zip(places, given + added, strict=True))
    clips = f"{out.stem}.clips"
    kept, left_out = [], dict[str, str]()
    with exclusive(inside(out.parent, clips, "the folder of the new clips")):
        if cluster is not None:
            left_out |= _lost(cluster, samples, out.parent, clips, seed)
        for sample in progress([sample for sample in samples if sample.id not in left_out]):
            try:
                kept.append(_swapped(sample, out.parent, clips, seed))
            except MediaError as error:
                left_out[sample.id] = str(error).replace(f"{out.parent.resolve()}{os.sep}", "")
        if not kept:
            reason = next(iter(left_out.values()), "the manifest is empty")
            raise ManifestError(f"expected a sample that can be made, got none: {reason}")
        write_manifest(out, kept, _facts(manifest, controls, seed, left_out))
    return left_out


def _check_request(manifest: Path, out: Path, controls: Sequence[str]) -> None:
    unknown = sorted(set(controls) - set(CONTROLS))
    if unknown or len(set(controls)) < len(controls):
        raise ManifestError(f"expected controls of {list(CONTROLS)}, once each, got {controls}.")
    if out.exists() and out.samefile(manifest):
        raise ManifestError(f"expected another file than the manifest itself, got {out}. Rename.")


def _facts(
    manifest: Path, controls: Sequence[str], seed: int, left_out: dict[str, str]
) -> dict[str, Any]:
    before = read_facts(manifest)
    facts = {"by": "swap", "controls": list(controls), "seed": seed, "left_out": left_out}
    return {**facts, "from": before} if before else facts


def _control(sample: Sample, control: str) -> Sample:
    # No caption describes silence or noise.
    captions = () if control in ("silence", "noise") else sample.audio_captions
    made = {"id": f"{sample.id}+{control}", "kind": control, "twin": sample.id}
    return replace(sample, audio_captions=captions, **made)


def _request(sample: Sample, root: Path, clips: str) -> tuple[Path, Path | None, Path, Any] | None:
    """What `swap` is to do for a sample; None where its sound is in its clip.

    A `MediaError` for a sample without a video.
    """
    control: Any = sample.kind if sample.kind in CONTROLS else None
    if sample.audio is None and (_MARK in sample.extra or control is None):
        return None
    if sample.video is None:
        raise MediaError("expected a video to swap the sound of, got none in the manifest.")
    audio = None if sample.audio is None else inside(root, sample.audio)
    if control == "self" and audio is not None:
        control = None  # the own sound is in a file of its own
    return inside(root, sample.video), audio, root / _target(sample, clips), control


def _target(sample: Sample, clips: str) -> str:
    return f"{clips}/{file_name(sample.id)}.mp4"


def _swapped(sample: Sample, root: Path, clips: str, seed: int) -> Sample:
    """The sample with a clip of its own; one whose sound is in its clip stays as it is."""
    if (request := _request(sample, root, clips)) is None:
        return sample
    swap(*request, seed)
    made = {"video": sample.video, "audio": sample.audio, "control": request[3]}
    if request[3] == "noise":
        made["seed"] = seed
    extra = {**sample.extra, _MARK: made}
    return replace(sample, video=_target(sample, clips), audio=None, extra=extra)


def _lost(
    cluster: Cluster, samples: Iterable[Sample], root: Path, clips: str, seed: int
) -> dict[str, str]:
    """Make the clips that are not there on a cluster; why, for those that it lost workers by."""
    tasks, lost = [], {}
    for sample in samples:
        with suppress(MediaError):  # `_swapped` says what is wrong with it
            request = _request(sample, root, clips)
            if request is not None and not is_swapped(*request, seed):
                files = tuple(path for path in request[:2] if path is not None)
                given = (*files, *[None] * (2 - len(files)), request[3], seed)
                tasks.append(Task(sample.id, given, files, (request[2].absolute(),)))
    for task, future in spread(cluster, _worker, tasks):
        try:
            future.result()
        except WorkerLostError as reason:
            lost[task.name] = str(reason)
        except MediaError:
            continue  # `_swapped` says so
    return lost


def _worker() -> Made:
    def work(given: tuple[Any, ...], paths: Sequence[Path]) -> None:
        video, audio, control, seed = given
        swap(video, audio, paths[0], control, seed)

    return work, {}
