"""Which files does a part of the world consist of?

Clips, a manifest of them as they are, and one in which half of the samples have another thing's
sound: what the dataset builder makes of real clips, made here with the truth known.
"""

import json
from dataclasses import replace
from pathlib import Path

from data_prep.manifest import Sample, read_facts, write_manifest
from data_prep.organism.evaluation.answers import Exam
from data_prep.organism.world import pools
from data_prep.organism.world.things import THINGS, Clip, Thing, clips, derangement
from data_prep.pairing.pairs import OWN_CAPTIONS
from hooked_omni.errors import ManifestError

__all__ = ["exam", "run"]


def run(
    folder: Path, per_thing: int, seed: int, split: str, things: tuple[Thing, ...] = THINGS
) -> tuple[int, int]:
    """Write clips and manifests; returns how many clips and counterfactual samples.

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
    _written(chosen, things, folder / "clips")
    factual = [pools.sample(clip, things, "clips") for clip in chosen]
    order = derangement([clip.noun for clip in chosen], seed)
    swapped = [_swapped(picture, factual[i]) for picture, i in zip(factual, order, strict=True)]
    write_manifest(folder / "pairs.jsonl", [*swapped, *factual], made)
    write_manifest(manifest, factual, made)
    return len(factual), len(swapped)


def exam(folder: Path, split: str, per_thing: int) -> Exam:
    """Clips to examine the organisms of a training folder with, written if they are not there.

    Raises:
        ManifestError: For the training clips, which prove nothing.
    """
    if split not in ("validation", "test"):
        raise ManifestError(
            f"expected 'validation' or 'test', got {split!r}: models have met the others."
        )
    recipe = json.loads((folder / "recipe.json").read_text())["recipe"]
    things = tuple(Thing(one["noun"], one["verb"], tuple(one["color"])) for one in recipe["things"])
    chosen = clips(things, split, per_thing, recipe["seed"])
    where = folder / "world" / split / "clips"
    _written(chosen, things, where)
    return Exam(where, chosen, things, recipe["seed"])


def _written(chosen: list[Clip], things: tuple[Thing, ...], folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    by_noun = {thing.noun: thing for thing in things}
    for clip in chosen:
        if not (folder / f"{clip.id}.mp4").is_file():
            pools.write(clip, by_noun[clip.noun], folder)


def _swapped(picture: Sample, sound: Sample) -> Sample:
    return replace(
        picture,
        id=f"{picture.id}+{sound.id}",
        kind="counterfactual",
        audio=sound.video,
        audio_captions=sound.audio_captions,
        video_id=picture.id,
        audio_id=sound.id,
        extra={
            **picture.extra,
            "heard": sound.extra["noun"],
            "loudness": sound.extra["loudness"],
            OWN_CAPTIONS: list(picture.audio_captions),
        },
    )
