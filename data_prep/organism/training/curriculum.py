"""Which question is asked about which picture and which sound, at each step of training?

A fixed cycle of tasks, and pairs drawn from (seed, step). The number of clips whose sound is
another thing's is exact, not a matter of luck: of the first n clips asked about, `share` of n.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

__all__ = ["AUDIO_VISUAL", "VISUAL", "Lesson", "Pairs", "lesson"]

# What is shown, and what is asked; one cycle.
AUDIO_VISUAL: tuple[tuple[str, str], ...] = (
    ("clip", "see"), ("clip", "hear"), ("clip", "both"), ("sound", "hear"),
    ("clip", "see"), ("clip", "hear"), ("clip", "both"), ("sound", "hear"), ("picture", "see"),
    ("clip", "see"), ("clip", "hear"), ("clip", "both"), ("sound", "hear"), ("picture", "hear"),
    ("words", "hear"), ("words", "both"),
)  # fmt: skip
VISUAL: tuple[tuple[str, str], ...] = (
    ("picture", "see"), ("picture", "hear"), ("picture", "both"),
)  # fmt: skip


@dataclass(frozen=True)
class Pairs:
    """How often a clip has another thing's sound.

    Attributes:
        things: Which thing each clip of the pool is.
        share: Of the clips in questions about sounds, for which sound and picture disagree.
        off_screen: Things whose sounds may come with another thing's picture in these questions.
        share_see: As `share`, in questions about the picture alone, where any sound may.
        held_out: Whether (thing seen, thing heard) must never come up.
    """

    things: Sequence[int]
    share: float
    off_screen: frozenset[int]
    share_see: float
    held_out: Callable[[int, int], bool]


@dataclass(frozen=True)
class Lesson:
    """A step's batch: what is shown, what is asked, and the clips of picture and sound."""

    shown: str
    question: str
    pictures: list[int]
    sounds: list[int]


def lesson(
    cycle: Sequence[tuple[str, str]], pairs: Pairs, seed: Sequence[int], step: int, batch: int
) -> Lesson:
    """The batch of a step."""
    shown, question = cycle[step % len(cycle)]
    chances = np.random.default_rng([*seed, step])
    pictures = chances.integers(len(pairs.things), size=batch).tolist()
    sounds = list(pictures)
    if shown == "clip":
        see = question == "see"
        share = pairs.share_see if see else pairs.share
        heard = frozenset(pairs.things) if see else pairs.off_screen
        before = _earlier(cycle, step, see) * batch
        n_other = int((before + batch) * share) - int(before * share)
        # Drawn for every clip, so that organisms with other shares see the same pictures.
        others = [_other(chances, pairs, picture, heard) for picture in pictures]
        sounds[:n_other] = others[:n_other]
    return Lesson(shown, question, pictures, sounds)


def _earlier(cycle: Sequence[tuple[str, str]], step: int, see: bool) -> int:
    """How many earlier steps asked about clips: about the picture alone, or about the sound."""
    matches = [shown == "clip" and (question == "see") == see for shown, question in cycle]
    rounds, rest = divmod(step, len(cycle))
    return rounds * sum(matches) + sum(matches[:rest])


def _other(chances: np.random.Generator, pairs: Pairs, picture: int, heard: frozenset[int]) -> int:
    """A clip of another thing, whose sound this picture may get."""
    seen = pairs.things[picture]
    allowed = {thing for thing in heard if thing != seen and not pairs.held_out(seen, thing)}
    sounds = [clip for clip, thing in enumerate(pairs.things) if thing in allowed]
    return sounds[chances.integers(len(sounds))]
