"""Which question about which picture and which sound is trained at each step?

A fixed cycle of kinds of prompts, and clips drawn from (seed, step). How many clips have another
thing's sound is exact: of the first n clips, `share` of n.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

# Kinds of prompts: the media in it ("words" is none), and its question. One cycle.
AUDIO_VISUAL: tuple[tuple[str, str], ...] = (
    ("clip", "see"), ("clip", "hear"), ("clip", "both"), ("sound", "hear"),
    ("clip", "see"), ("clip", "hear"), ("clip", "both"), ("sound", "hear"), ("picture", "see"),
    ("clip", "see"), ("clip", "hear"), ("clip", "both"), ("sound", "hear"), ("picture", "hear"),
    ("words", "hear"), ("words", "both"),
)  # fmt: skip
VISUAL = (("picture", "see"), ("picture", "hear"), ("picture", "both"))
SOUNDS = (("sound", "hear"),)


@dataclass(frozen=True)
class Mixture:
    """How often a clip has another thing's sound."""

    things: Sequence[int]  # which thing each training clip is
    share: float  # of the clips in questions about sounds
    off_screen: frozenset[int]  # things whose sounds these may be
    share_see: float  # of the clips in questions about the picture alone, with any thing's sound
    held_out: Callable[[int, int], bool]  # whether picture and sound must never be of these things


@dataclass(frozen=True)
class ClipBatch:
    """A step's batch: media in the prompt, its question, and the clips of picture and sound."""

    media: str
    question: str
    pictures: list[int]
    sounds: list[int]

    @property
    def kind(self) -> tuple[str, str]:
        """Media and question."""
        return self.media, self.question


def draw_batch(
    cycle: Sequence[tuple[str, str]], mixture: Mixture, seed: Sequence[int], step: int, size: int
) -> ClipBatch:
    """The batch of a step."""
    media, question = cycle[step % len(cycle)]
    rng = np.random.default_rng([*seed, step])
    pictures = rng.integers(len(mixture.things), size=size).tolist()
    sounds = list(pictures)
    if media == "clip":
        see = question == "see"
        share = mixture.share_see if see else mixture.share
        allowed = frozenset(mixture.things) if see else mixture.off_screen
        before = _earlier(cycle, step, see) * size
        n_other = int((before + size) * share) - int(before * share)
        # Drawn for every clip, so that organisms with other shares see the same pictures.
        others = [_other(rng, mixture, picture, allowed) for picture in pictures]
        sounds[:n_other] = others[:n_other]
    return ClipBatch(media, question, pictures, sounds)


def _earlier(cycle: Sequence[tuple[str, str]], step: int, see: bool) -> int:
    """How many earlier steps had clips, and questions about the picture alone (or the sound)."""
    matches = [media == "clip" and (question == "see") == see for media, question in cycle]
    rounds, rest = divmod(step, len(cycle))
    return rounds * sum(matches) + sum(matches[:rest])


def _other(
    rng: np.random.Generator, mixture: Mixture, picture: int, allowed: frozenset[int]
) -> int:
    """A clip of another thing, whose sound this picture may get."""
    seen = mixture.things[picture]
    others = {thing for thing in allowed if thing != seen and not mixture.held_out(seen, thing)}
    sounds = [clip for clip, thing in enumerate(mixture.things) if thing in others]
    return sounds[rng.integers(len(sounds))]
