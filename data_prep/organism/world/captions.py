"""What may be said of a clip, and which words are there to say it with?

Three questions, the paper's, and a few ways to answer each. What is seen and what is heard are
said apart, so that each can be true of another thing.
"""

from collections.abc import Sequence

from data_prep.organism.world.things import LOUDNESS, PLACES, SCENES, Clip, Thing

__all__ = ["QUESTIONS", "SYSTEM", "answers", "heard", "seen", "vocabulary"]

QUESTIONS = {
    "see": "Describe what you see.",
    "hear": "Describe what you hear.",
    "both": "Describe what you see and hear.",
}
SYSTEM = "You are a helpful assistant."

_SEEN = (
    "a {noun} is on the {place} of a {scene}",
    "there is a {noun} in a {scene}",
    "a {noun} on the {place} in a {scene}",
)
_HEARD = (
    "a {noun} is {verb} {loudness}",
    "the sound of a {noun} {verb} {loudness}",
    "i can hear a {noun} {verb} {loudness}",
)


def seen(clip: Clip) -> tuple[str, ...]:
    """True descriptions of a clip's picture."""
    return tuple(text.format(noun=clip.noun, place=clip.place, scene=clip.scene) for text in _SEEN)


def heard(clip: Clip, things: Sequence[Thing], loudness: str | None = None) -> tuple[str, ...]:
    """True descriptions of a clip's sound, or of it in another loudness."""
    verb = next(thing.verb for thing in things if thing.noun == clip.noun)
    words = {"noun": clip.noun, "verb": verb, "loudness": loudness or clip.loudness}
    return tuple(text.format(**words) for text in _HEARD)


def answers(question: str, seen: Sequence[str], heard: Sequence[str]) -> list[str]:
    """All true answers to a question, from descriptions of what is seen and what is heard."""
    if question == "both":
        return [f"{first} and {second}" for first in seen for second in heard]
    return list({"see": seen, "hear": heard}[question])


def vocabulary(things: Sequence[Thing]) -> list[str]:
    """Every word of the questions, the answers and the chat, sorted."""
    texts = [*QUESTIONS.values(), SYSTEM, *_SEEN, *_HEARD, "user assistant system and"]
    own = {word.strip(".").lower() for text in texts for word in text.split() if "{" not in word}
    classes = {word for thing in things for word in (thing.noun, thing.verb)}
    return sorted(own | classes | set(SCENES + PLACES + LOUDNESS))
