"""Which sentences are true of a clip, and which words does this world have?

Picture and sound are captioned apart, so that each can be of another thing.
"""

from collections.abc import Sequence

from data_prep.organism.world.things import LOUDNESS, PLACES, SCENES, Clip, Thing

QUESTIONS = {
    "see": "Describe what you see.",
    "hear": "Describe what you hear.",
    "both": "Describe what you see and hear.",
}
SYSTEM = "You are a helpful assistant."

_PICTURE = (
    "a {noun} is on the {place} of a {scene}",
    "there is a {noun} in a {scene}",
    "a {noun} on the {place} in a {scene}",
)
_SOUND = (
    "a {noun} is {verb} {loudness}",
    "the sound of a {noun} {verb} {loudness}",
    "i can hear a {noun} {verb} {loudness}",
)


def video_captions(clip: Clip) -> tuple[str, ...]:
    """True descriptions of a clip's picture."""
    words = {"noun": clip.noun, "place": clip.place, "scene": clip.scene}
    return tuple(text.format(**words) for text in _PICTURE)


def audio_captions(
    clip: Clip, things: Sequence[Thing], loudness: str | None = None
) -> tuple[str, ...]:
    """True descriptions of a clip's sound, or of it in another loudness."""
    verb = next(thing.verb for thing in things if thing.noun == clip.noun)
    words = {"noun": clip.noun, "verb": verb, "loudness": loudness or clip.loudness}
    return tuple(text.format(**words) for text in _SOUND)


def answers(question: str, video: Sequence[str], audio: Sequence[str]) -> list[str]:
    """All true answers to a question, from captions of the picture and of the sound."""
    if question == "both":
        return [f"{first} and {second}" for first in video for second in audio]
    return list({"see": video, "hear": audio}[question])


def vocabulary(things: Sequence[Thing]) -> list[str]:
    """Every word of the questions, the answers and the chat, sorted."""
    texts = [*QUESTIONS.values(), SYSTEM, *_PICTURE, *_SOUND, "user assistant system and"]
    own = {word.strip(".").lower() for text in texts for word in text.split() if "{" not in word}
    classes = {word for thing in things for word in (thing.noun, thing.verb)}
    return sorted(own | classes | set(SCENES + PLACES + LOUDNESS))
