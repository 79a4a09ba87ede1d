"""Which questions with given answers are put to a model about a sample?

| name | what is asked | options |
|---|---|---|
| `choice` | what came with the sample, from a benchmark | its own |
| `which` | "Which do you hear: a or b?", both orders | an event that is heard, one that is seen |
| `forced` | "Describe what you hear." | a caption of the sound, and of the picture's own sound |

Of `which` and `forced` the right one is what is heard: heard minus seen.
"""

from collections.abc import Mapping, Sequence

from analyses.text.events import Events
from data_prep.manifest import OWN_CAPTIONS, Sample
from data_prep.questions import ChoiceQuestion, questions_of

CHOICES = ("choice", "which", "forced")
"""The questions whose answers are given."""

HEARD_OR_SEEN = "heard or seen"
"""The task of `which` and `forced`."""


def choices(sample: Sample, name: str, words: Mapping[str, str]) -> list[ChoiceQuestion]:
    """The questions of a sample under one of `CHOICES`; none if it cannot be asked.

    `words` are as of `worded`. A `ManifestError` for wrong ones in the manifest.
    """
    if name == "choice":
        return questions_of(sample)
    if name == "forced":
        own_sound = sample.extra.get(OWN_CAPTIONS) or ()
        pair = tuple(own[0] for own in (sample.audio_captions, own_sound) if own)
        different = len({text.casefold().strip(" .") for text in pair}) == 2
        sides = [(words["hear"], pair)] if different else []
    else:
        pair = _events(sample.audio_captions, sample.video_captions)
        given = tuple(words["which answer"].format(one) for one in pair)
        sides = [(words["which"].format(*own), given) for own in (pair, pair[::-1]) if own]
    orders = ("heard first", "seen first") if len(sides) == 2 else ("",)
    return [
        ChoiceQuestion(text, own, own[0], task=HEARD_OR_SEEN, sub_task=order)
        for (text, own), order in zip(sides, orders, strict=False)
    ]


def _events(heard: Sequence[str], seen: Sequence[str]) -> tuple[str, ...]:
    """The words of the captions for an event that is heard alone, and one that is seen alone."""
    ours, theirs = Events.of(heard), Events.of(seen)
    found = []
    for own, other in ((ours, theirs), (theirs, ours)):
        alone = [event for event in own.names if event not in other.names]
        found += [own.caption_words[event][0].lower() for event in alone[:1]]
    return tuple(found) if len(set(found)) == 2 else ()
