"""Which files does a part of the world consist of?

Clips, a manifest of them, and one in which half of the samples have another thing's sound.
"""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from data_prep.clips import write_clip
from data_prep.manifest import OWN_CAPTIONS, Sample, read_facts, write_manifest
from data_prep.organism.world import pictures, sounds
from data_prep.organism.world.captions import audio_captions, video_captions
from data_prep.organism.world.things import THINGS, Clip, Thing, clips, derangement
from hooked_omni.errors import ManifestError

SECONDS = 1.0  # length of a clip


def write_world(
    folder: Path, per_thing: int, seed: int, split: str, things: tuple[Thing, ...] = THINGS
) -> tuple[int, int]:
    """Write clips, `clips.jsonl` and `pairs.jsonl`.

    Returns:
        How many clips, and how many counterfactual samples.

    Raises:
        ManifestError: For things that collide, or a folder with another world.
    """
    chosen = clips(things, split, per_thing, seed)
    made = {"by": "organism world", "seed": seed, "split": split, "clips": per_thing}
    manifest = folder / "clips.jsonl"
    if manifest.is_file() and read_facts(manifest) != made:
        raise ManifestError(
            f"expected an empty folder or one of the same world, got {folder} with "
            f"{read_facts(manifest)} instead of {made}. Choose another folder."
        )
    write_clips(chosen, things, folder / "clips")
    factual = [sample_of(clip, things, "clips") for clip in chosen]
    order = derangement([clip.noun for clip in chosen], seed)
    swapped = [_swapped(picture, factual[i]) for picture, i in zip(factual, order, strict=True)]
    write_manifest(folder / "pairs.jsonl", [*swapped, *factual], made)
    write_manifest(manifest, factual, made)
    return len(factual), len(swapped)


def write_clips(chosen: Sequence[Clip], things: Sequence[Thing], folder: Path) -> None:
    """Write those clips that are not in `folder` yet."""
    folder.mkdir(parents=True, exist_ok=True)
    by_noun = {thing.noun: thing for thing in things}
    for clip in chosen:
        if not (folder / f"{clip.id}.mp4").is_file():
            write_mp4(clip, by_noun[clip.noun], folder)


def write_mp4(clip: Clip, thing: Thing, folder: Path) -> Path:
    """The clip as a file in `folder`; the same clip gives the same bytes."""
    frames, sound = pictures.frames(clip, thing, SECONDS), sounds.samples(clip, SECONDS)
    path = folder / f"{clip.id}.mp4"
    return write_clip(path, frames, pictures.FRAMES_PER_SECOND, sound, sounds.RATE)


def sample_of(clip: Clip, things: Sequence[Thing], folder: str) -> Sample:
    """The line of a clip in a manifest."""
    names = ("noun", "place", "scene", "loudness")
    return Sample(
        clip.id,
        video=f"{folder}/{clip.id}.mp4",
        audio_captions=audio_captions(clip, things),
        video_captions=video_captions(clip),
        seconds=SECONDS,
        extra={name: getattr(clip, name) for name in names},
    )


def _swapped(picture: Sample, sound: Sample) -> Sample:
    return replace(
        picture,
        id=f"{picture.id}+{sound.id}",
        kind="counterfactual",
        audio=sound.video,
        audio_captions=sound.audio_captions,
        video_id=picture.id,
        audio_id=sound.id,
        twin=picture.id,
        extra={
            **picture.extra,
            "heard": sound.extra["noun"],
            "loudness": sound.extra["loudness"],
            OWN_CAPTIONS: list(picture.audio_captions),
        },
    )
