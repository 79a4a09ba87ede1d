"""Which things does this world have, and which clips show them?

A clip is one thing that is seen and heard, at the left or right of a scene, loud or soft. All of it
is drawn from a seed, so that it can be made again, to the byte, from its name.
"""

import hashlib
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from hooked_omni.errors import ManifestError

SCENES = ("street", "park", "beach", "room")
PLACES = ("left", "right")
LOUDNESS = ("loudly", "softly")
SPLITS = ("train", "validation", "test")
_CAPTION_WORDS = ("a", "is", "on", "the", "of", "in", "there", "sound", "i", "can", "hear", "and")


@dataclass(frozen=True)
class Thing:
    """A class: what it is called, what its sound is called, and its color."""

    noun: str  # one word, which begins with a consonant: captions have "a" before it
    verb: str  # one word
    color: tuple[int, int, int]  # red, green and blue, 0..255


THINGS: tuple[Thing, ...] = (
    Thing("dog", "barking", (222, 140, 40)),
    Thing("siren", "wailing", (235, 30, 40)),
    Thing("drill", "drilling", (250, 222, 20)),
    Thing("bell", "ringing", (255, 170, 190)),
    Thing("keyboard", "typing", (30, 30, 36)),
    Thing("motor", "revving", (110, 60, 190)),
    Thing("bird", "chirping", (20, 90, 255)),
    Thing("fountain", "splashing", (60, 235, 245)),
    Thing("horse", "galloping", (125, 55, 20)),
    Thing("door", "knocking", (20, 130, 40)),
    Thing("drum", "beating", (230, 20, 200)),
    Thing("whistle", "blowing", (140, 255, 60)),
)


@dataclass(frozen=True)
class Clip:
    """One thing that is seen and heard."""

    id: str  # the noun, the split, a number, and the world's seed
    noun: str
    place: str
    scene: str
    loudness: str
    seed: tuple[int, ...]  # of everything that has no name: sizes, shades, pitches, noise

    def rng(self, part: str) -> np.random.Generator:
        """The random stream of one part, "look" or "sound", independent of the other's."""
        return np.random.default_rng([*self.seed, *part.encode()])


def clips(things: Sequence[Thing], split: str, per_thing: int, seed: int) -> list[Clip]:
    """The clips of a split, thing by thing. More of them begin with the same ones.

    Raises:
        ManifestError: For things that collide, and an unknown split.
    """
    _check_things(things)
    if split not in SPLITS:
        raise ManifestError(f"expected a split of {SPLITS}, got {split!r}. Choose one of them.")
    if per_thing < 1 or seed < 0:
        raise ManifestError(
            f"expected at least 1 clip of each thing and a seed of at least 0, got {per_thing} and "
            f"{seed}."
        )
    return [_clip(thing.noun, split, n, seed) for thing in things for n in range(per_thing)]


def _clip(noun: str, split: str, number: int, seed: int) -> Clip:
    name = f"{noun}-{split}-{number:04d}-s{seed}"
    own = tuple(hashlib.sha256(name.encode()).digest()[:16])
    rng = np.random.default_rng(own)

    def drawn(values: Sequence[str]) -> str:
        return values[int(rng.integers(len(values)))]

    place, scene, loudness = drawn(PLACES), drawn(SCENES), drawn(LOUDNESS)
    return Clip(name, noun, place, scene, loudness, own)


def derangement(nouns: Sequence[str], seed: int) -> list[int]:
    """For each clip the index of one of another thing, whose sound it could get; each used once.

    Raises:
        ManifestError: If no such pairing was found.
    """
    rng = np.random.default_rng([seed, 7])
    order = rng.permutation(len(nouns))
    for _ in range(200):
        wrong = [i for i, other in enumerate(order) if nouns[i] == nouns[other]]
        if not wrong:
            return order.tolist()
        for i in wrong:
            j = int(rng.integers(len(nouns)))
            order[i], order[j] = order[j], order[i]
    raise ManifestError(
        f"expected clips that can swap sounds with another thing's, got {dict(Counter(nouns))}. "
        "Take as many clips of each thing, of at least two things."
    )


def _check_things(things: Sequence[Thing]) -> None:
    """Refuse things that captions or pictures do not distinguish."""
    if len(things) < 2:
        raise ManifestError(f"expected at least 2 things, got {len(things)}. Add some.")
    words = Counter(word for thing in things for word in (thing.noun, thing.verb))
    twice = sorted(word for word, count in words.items() if count > 1)
    if twice:
        raise ManifestError(
            f"expected every noun and verb once, got {twice} several times: captions would not "
            "distinguish these things. Rename one of them."
        )
    own = {*SCENES, *PLACES, *LOUDNESS, *_CAPTION_WORDS}
    for word in words:
        if word in own or not (word.isascii() and word.isalpha() and word.islower()):
            raise ManifestError(
                f"expected words of small letters that captions do not use otherwise, got "
                f"{word!r}. Rename the thing."
            )
    _check_looks(things)


def _check_looks(things: Sequence[Thing]) -> None:
    for i, first in enumerate(things):
        if first.noun[0] in "aeiou":
            raise ManifestError(
                f"expected nouns that begin with a consonant, got {first.noun!r}: 'an' before it "
                "would give it away. Rename it."
            )
        for second in things[i + 1 :]:
            if np.abs(np.subtract(first.color, second.color)).max() < 30:
                raise ManifestError(
                    f"expected colors at least 30 apart, got {first.noun} {first.color} and "
                    f"{second.noun} {second.color}: their pictures collide. Change one."
                )
