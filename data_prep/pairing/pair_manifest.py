"""Which clips look like one thing and could be made to sound like another?

Algorithm 1 of the paper: cosine similarity of each clip's video captions to each clip's audio
captions, the assignment of sounds to pictures that minimizes the sum, and of these pairs the `k`
least similar: the counterfactual samples. `k` other clips keep their own sound: the factual ones;
or, for matched twins, the same `k` clips do.
"""

import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float, Int
from rich.progress import track

from data_prep.console import say_reasons
from data_prep.journal import Journal
from data_prep.manifest import OWN_CAPTIONS, Sample, read_manifest, rebased, write_manifest
from data_prep.pairing.assignment import Forbidden, assign_in_blocks
from data_prep.pairing.embedding import MODEL, embed, instruction, unlike_the_paper
from data_prep.pairing.loudness import Loudness, is_measured, measure
from data_prep.pairing.matrix import write_matrix
from hooked_omni.endings import say
from hooked_omni.errors import ManifestError, MediaError
from hooked_omni.inputs.container import opened

# Peak of the whole matrix while it is solved, by `benchmarks.pairs`: under 4 GiB at `WHOLE`.
CELL_BYTES = 14
WHOLE = 17_000


@dataclass(frozen=True)
class Config:
    """How many pairs, and which pairs are allowed."""

    k: int = 250  # counterfactual samples, and factual ones
    match_durations: float | None = None  # most seconds between the lengths of picture and sound
    match_loudness: float | None = None  # most dB between the picture's own sound and the new one
    exclude_silent: float | None = None  # leave out sounds below this many dB of full scale
    seed: int = 0  # which clips are factual, and which share a block
    block: int | None = None  # clips in a random block; None is one block of all, the optimum
    twins: bool = False  # the factual samples are the counterfactual ones' own clips

    def __post_init__(self) -> None:
        if self.k < 1:
            raise ManifestError(f"expected at least 1 pair, got k = {self.k}.")
        for name in ("match_durations", "match_loudness"):
            if (value := getattr(self, name)) is not None and not value >= 0:
                raise ManifestError(f"expected {name} >= 0, got {value}. Give a tolerance.")
        if self.exclude_silent is not None and not self.exclude_silent < 0:
            raise ManifestError(
                f"expected exclude_silent below 0 dB (full scale), got {self.exclude_silent}. "
                f"Try -60."
            )

    @property
    def needs_sound(self) -> bool:
        """Whether the clips have to be decoded."""
        return self.match_loudness is not None or self.exclude_silent is not None


class Constraints:
    """Which pairs are never made: a clip with itself, two clips of one video id, a poor match."""

    def __init__(self, clips: Sequence[Sample], sounds: Sequence[Loudness], config: Config) -> None:
        names = [_video_id(clip) for clip in clips] + [clip.audio_id or "" for clip in clips]
        codes = np.unique(names, return_inverse=True)[1]
        self._video, self._audio = codes[: len(clips)], codes[len(clips) :]
        most = {"seconds": config.match_durations, "decibels": config.match_loudness}
        self._close = [
            (np.array([getattr(sound, name) for sound in sounds]), tolerance)
            for name, tolerance in most.items()
            if tolerance is not None
        ]

    def among(self, members: Int[np.ndarray, " clip"]) -> Forbidden:
        """True where the clip of the row must not get the sound of the clip of the column."""
        video, audio = self._video[members], self._audio[members]
        forbidden = (video[:, None] == video) | (video[:, None] == audio)
        np.fill_diagonal(forbidden, True)
        for values, tolerance in self._close:
            forbidden |= np.abs(values[members][:, None] - values[members]) > tolerance
        return forbidden


def run(
    manifest: Path,
    out: Path,
    config: Config = Config(),
    model: str = MODEL,
    instruct: str | None = None,
    device: str | None = None,
) -> list[Sample]:
    """Write `k` counterfactual and `k` factual samples, most unlike pairs first; return them.

    Clips without audio or video captions are left out, and listed in the new manifest's header.
    What is embedded and measured is kept in a folder beside it. For `model`, `instruct` and
    `device` see `embed`.

    Raises:
        ManifestError: For fewer clips than needed, or constraints that no assignment meets.
    """
    samples = [rebased(sample, manifest.parent, out.parent) for sample in read_manifest(manifest)]
    kept = out.with_name(f"{out.stem}.cache")
    clips, sounds, left_out = _usable(samples, config, kept)
    _enough(len(clips), config, left_out)
    options = {"model": model, "cache_folder": kept, "instruct": instruct, "device": device}
    e_video = embed([clip.video_captions for clip in clips], **options)
    e_audio = embed([clip.audio_captions for clip in clips], **options)
    among = Constraints(clips, sounds, config).among
    block = config.block or len(clips)
    chosen = assign_in_blocks(e_video, e_audio, among, block, config.seed)
    similarity = np.sum(e_video * e_audio[chosen], axis=1)
    counterfactual, factual = choose(similarity, config.k, config.seed)
    own = np.sum(e_video * e_audio, axis=1)
    samples = [_swapped(clips[i], clips[chosen[i]], similarity[i]) for i in counterfactual]
    if config.twins:
        factual = counterfactual
        samples = [replace(one, twin=clips[i].id) for one, i in zip(samples, factual, strict=True)]
    samples += [replace(clips[i], similarity=_rounded(own[i])) for i in factual]
    picked = np.concatenate([counterfactual, factual])
    heard = np.concatenate([chosen[counterfactual], factual])
    write_matrix(out, [one.id for one in samples], e_video[picked], e_audio[heard])
    made = {
        "by": "pairs",
        "config": asdict(config),
        "model": model,
        "instruction": instruction(model, instruct),
        "clips": len(clips),
        "similarity_of_all_pairs": _rounded(similarity.mean()),
        "left_out": left_out,
    }
    write_manifest(out, samples, made)
    low, high = similarity[counterfactual[0]], similarity[counterfactual[-1]]
    say(
        f"{config.k} of {len(clips)} pairs, similarity {low:.3f} to {high:.3f}; {len(left_out)} "
        "clips left out"
    )
    say_reasons(left_out, "left out")
    if note := unlike_the_paper(made):
        say(f"note: {note}")
    return samples


def choose(
    similarity: Float[np.ndarray, " clip"], k: int, seed: int
) -> tuple[Int[np.ndarray, " k"], Int[np.ndarray, " k"]]:
    """The `k` clips of lowest similarity, lowest first, and `k` others at random.

    Example:
        >>> choose(np.array([0.3, 0.1, 0.2, 0.4]), k=2, seed=0)
        (array([1, 2]), array([0, 3]))
    """
    order = np.argsort(similarity, kind="stable")
    others = np.random.default_rng(seed).permutation(np.sort(order[k:]))[:k]
    return order[:k], np.sort(others)


def _usable(
    samples: Sequence[Sample], config: Config, kept: Path
) -> tuple[list[Sample], list[Loudness], dict[str, str]]:
    """Clips that can be paired, their loudness if it matters, and why the others cannot."""
    journal = Journal(kept / "sounds.jsonl", is_measured)
    clips, sounds, left_out = [], [], {}
    for clip in track(samples, "reading clips", disable=not config.needs_sound):
        try:
            sound = _loudness(clip, kept.parent, config, journal)
        except MediaError as error:
            left_out[clip.id] = str(error).replace(f"{kept.parent.absolute()}{os.sep}", "")
            continue
        clips.append(clip)
        sounds.append(sound)
    return clips, sounds, left_out


def _loudness(clip: Sample, folder: Path, config: Config, journal: Journal) -> Loudness:
    if clip.kind != "factual":
        raise ManifestError(
            f"expected clips with their own sound, got {clip.id!r}, which is {clip.kind}. Give the "
            f"manifest of the clips, not one of pairs."
        )
    if clip.items:
        raise MediaError("items, not one clip whose sound another's can replace")
    for name in ("audio_captions", "video_captions"):
        if not any(caption.strip() for caption in getattr(clip, name)):
            raise MediaError(f"no {name}")
    for path in (clip.video, clip.audio):
        if path is not None and not (folder / path).is_file():
            raise MediaError(f"no file at {path}")
    if config.twins:
        _require_own_sound(clip, folder)
    unmeasured = config.match_durations is not None and clip.seconds is None
    if not (config.needs_sound or unmeasured):
        return Loudness(clip.seconds or 0.0, 0.0)
    path = clip.audio or clip.video
    if path is None:
        raise MediaError("no clip to measure")
    sound = measure(folder / path, journal)
    if config.exclude_silent is not None and sound.decibels < config.exclude_silent:
        raise MediaError(f"near-silent: {sound.decibels:.1f} dB of full scale")
    return sound if clip.seconds is None else replace(sound, seconds=clip.seconds)


def _require_own_sound(clip: Sample, folder: Path) -> None:
    """A twin is a picture with the sound that was recorded with it."""
    if clip.video is None:
        raise MediaError("no picture, which twins share")
    if clip.audio_id not in (None, _video_id(clip)):
        raise MediaError(f"no sound of its own for a twin, but that of {clip.audio_id!r}")
    with opened(folder / (clip.audio or clip.video), "audio"):
        pass


def _enough(n_clips: int, config: Config, left_out: dict[str, str]) -> None:
    n_needed = config.k if config.twins else 2 * config.k
    if n_clips < n_needed:
        some = "".join(f"; {name}: {reason}" for name, reason in list(left_out.items())[:3])
        raise ManifestError(
            f"expected at least {n_needed} clips for {config.k} counterfactual and as many "
            f"factual samples, got {n_clips} ({len(left_out)} left out{some}). "
            f"Ask for fewer (k), or add clips."
        )
    if config.block is None and n_clips > WHOLE:
        raise ManifestError(
            f"expected at most {WHOLE} clips in one matrix, got {n_clips}, which take about "
            f"{CELL_BYTES * n_clips**2 / 2**30:.0f} GiB. Set block, such as 4000; "
            f"block={n_clips} insists."
        )


def _swapped(picture: Sample, sound: Sample, similarity: Any) -> Sample:
    return replace(
        picture,
        id=f"{picture.id}+{sound.id}",
        kind="counterfactual",
        audio=sound.audio or sound.video,
        audio_captions=sound.audio_captions,
        video_id=_video_id(picture),
        audio_id=sound.audio_id or _video_id(sound),
        similarity=_rounded(similarity),
        extra={**picture.extra, OWN_CAPTIONS: list(picture.audio_captions)},
    )


def _video_id(clip: Sample) -> str:
    return clip.video_id or clip.id


def _rounded(similarity: Any) -> float:
    return round(float(similarity), 6)
