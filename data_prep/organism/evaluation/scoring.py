"""Does an answer name the right thing, in exact words and without those of another?"""

from collections.abc import Sequence
from dataclasses import dataclass

from data_prep.organism.world.things import Thing


@dataclass(frozen=True)
class Score:
    """Which words an answer has; None where its question is not about them."""

    audio: bool | None = None  # noun and verb of the audible thing, and of no other
    audio_noun: bool | None = None
    audio_verb: bool | None = None
    says_visible: bool | None = None  # in the part about the sound, its noun and no other's
    video: bool | None = None  # noun of the visible thing, and of no other


def score(text: str, question: str, seen: str, heard: str, things: Sequence[Thing]) -> Score:
    """Score an answer.

    Example:
        >>> score("a dog is wailing softly", "hear", "dog", "siren", THINGS)
        Score(audio=False, audio_noun=False, audio_verb=True, says_visible=True, video=None)

    Args:
        text: The answer.
        question: "see", "hear" or "both".
        seen: Noun of the visible thing.
        heard: Noun of the audible thing.
        things: All that could be named.
    """
    picture, sound = text, text
    if question == "both":  # the second part is missing if the answer has one alone
        picture, _, sound = text.partition(" and ")
    video = None if question == "hear" else _nouns(picture, things) == {seen}
    if question == "see":
        return Score(video=video)
    verb = next(thing.verb for thing in things if thing.noun == heard)
    nouns, verbs = _nouns(sound, things), {t.verb for t in things} & set(sound.split())
    right_noun, right_verb = nouns == {heard}, verbs == {verb}
    return Score(right_noun and right_verb, right_noun, right_verb, nouns == {seen}, video)


def _nouns(text: str, things: Sequence[Thing]) -> set[str]:
    return {thing.noun for thing in things} & set(text.split())
