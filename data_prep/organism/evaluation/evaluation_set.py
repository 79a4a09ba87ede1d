"""Which clips, none of which was trained on, are the organisms evaluated on?

Clips with their own sound, the same pictures with another thing's, and a sound or a picture alone.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from data_prep.organism.training.recipe import parse_recipe
from data_prep.organism.world.captions import QUESTIONS
from data_prep.organism.world.dataset import write_clips
from data_prep.organism.world.things import Clip, Thing, clips, derangement
from hooked_omni import Prompt
from hooked_omni.errors import ManifestError
from hooked_omni.files import parse_object, read_text, to_json

CASES = (
    *[(kind, question) for kind in ("factual", "counterfactual") for question in QUESTIONS],
    ("sound", "hear"),
    ("picture", "see"),
)
"""Kinds of prompts, and their questions."""


@dataclass(frozen=True)
class EvaluationSet:
    """Clips, as many of each thing, and the prompts about them."""

    folder: Path  # where `{clip.id}.mp4` lies
    clips: Sequence[Clip]
    things: Sequence[Thing]
    seed: int = 0  # of which sound goes to which picture

    def pairs(self, kind: str) -> list[tuple[Clip, Clip]]:
        """Clip of the picture and clip of the sound."""
        if kind != "counterfactual":
            return [(clip, clip) for clip in self.clips]
        order = derangement([clip.noun for clip in self.clips], self.seed)
        return [(clip, self.clips[i]) for clip, i in zip(self.clips, order, strict=True)]

    def prompt(self, kind: str, question: str, seen: Clip, heard: Clip) -> Prompt:
        """The question about a picture with a sound, or about one of them alone."""
        picture, sound = (self.folder / f"{clip.id}.mp4" for clip in (seen, heard))
        text = QUESTIONS[question]
        if kind == "sound":
            return Prompt(text, audio=sound)
        if kind == "picture":
            return Prompt(text, video=picture, use_audio_in_video=False)
        return Prompt(text, video=picture, audio=None if kind == "factual" else sound)


def write_evaluation_set(folder: Path, split: str, per_thing: int) -> EvaluationSet:
    """Clips to evaluate the organisms of a training folder on, written if they are not there.

    Raises:
        ManifestError: For the training clips, which prove nothing.
    """
    if split not in ("validation", "test"):
        raise ManifestError(
            f"expected 'validation' or 'test', got {split!r}: models were trained on the others."
        )
    path = folder / "recipe.json"
    found = parse_object(read_text(path), str(path), recipe=dict)["recipe"]
    recipe = parse_recipe(seed=found.pop("seed", None), text=to_json(found, str(path)))
    chosen = clips(recipe.things, split, per_thing, recipe.seed)
    where = folder / "world" / split / "clips"
    write_clips(chosen, recipe.things, where)
    return EvaluationSet(where, chosen, recipe.things, recipe.seed)
