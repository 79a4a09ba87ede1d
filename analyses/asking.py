"""Which prompt puts a question about a sample to a model?

Known without a model, so that prompts can be made where only the towers run, and without torch.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import Any, NamedTuple

from analyses.text.choices import CHOICES, choices
from analyses.text.wording import OWN, QUESTIONS, known_order, worded
from data_prep.manifest import MODALITY, Sample, read_manifest
from data_prep.questions import ChoiceQuestion
from hooked_omni.errors import ResultsError, closest
from hooked_omni.inputs.items import Prompt


class SampleQuestion(NamedTuple):
    """A question, by its name, about a sample, as a prompt; with the answers given, if they are."""

    sample: Sample
    question: str
    prompt: Prompt
    choice: ChoiceQuestion | None = None


def sample_questions(
    manifest: str | Path,
    questions: Sequence[str] = ("hear",),
    kinds: Sequence[str] | None = None,
    rope: Any = "model",
    wording: Mapping[str, str] | None = None,
    system: str | None = None,
    order: str | None = None,
) -> list[SampleQuestion]:
    """Each of `questions` about every sample of a manifest; arguments, errors as `read_cases`."""
    words = worded(wording or {})
    unknown = [name for name in questions if name not in (*QUESTIONS, OWN, *CHOICES)]
    if unknown or not questions:
        raise ResultsError(
            f"expected questions among {[*sorted(QUESTIONS), *CHOICES]}, got {unknown}. Your own "
            "words about a clip go into --ask."
            + closest("".join(unknown[:1]), [*QUESTIONS, *CHOICES])
        )
    samples = read_manifest(manifest)
    chosen = [s for s in samples if kinds is None or s.kind in kinds]
    if not chosen:
        raise ResultsError(
            f"expected a sample of kind {kinds or 'any'} in {manifest}, got "
            f"{len(samples)} of {sorted({s.kind for s in samples})}."
        )
    more, found = (Path(manifest).parent, order, system), list[SampleQuestion]()
    for sample, question in product(chosen, questions):
        named = [(sample, question, words, None)]
        if question in CHOICES:
            media = tuple(item for item in sample.items if item[0] != "text")
            named = [
                (replace(sample, items=media), name := f"{question}.{i}", {name: one.text}, one)
                for i, one in enumerate(choices(sample, question, words), start=1)
            ]
        for of, name, own, choice in named:
            prompt = replace(prompt_of(of, name, own, *more), rope=rope)
            found.append(SampleQuestion(of, name, prompt, choice))
    if not found:
        raise ResultsError(
            f"expected a sample in {manifest} of which {list(questions)} can be asked, got none of "
            f"{len(chosen)}. Import a benchmark's questions, or choose counterfactual samples."
        )
    return found


def prompt_of(
    sample: Sample,
    question: str,
    words: Mapping[str, str],
    folder: Path,
    order: str | None = None,
    system: str | None = None,
) -> Prompt:
    """A question, by its name in `words` or "own", about a sample of a manifest in `folder`.

    `order` and `system` as in `cases.read_cases`; a `ResultsError` for what does not go together.
    """
    own = [item for item in sample.items if item[0] == "text"]
    if bool(own) != (question == OWN):
        raise ResultsError(
            f"expected the question {OWN!r} for samples with words of their own and for no others, "
            f"got {question!r} for {sample.id!r}, which has {len(own)}. Ask them in another run."
        )
    media = [(kind, folder / one if kind != "text" else one) for kind, one in sample.items]
    if own and order is not None:
        raise ResultsError(
            f"expected no order for {sample.id!r}, whose words stand where its items have them, "
            f"got {order!r}. Leave it out, or write the items in that order."
        )
    if own:
        return Prompt(items=media, system=system)
    video, audio = (None if p is None else folder / p for p in (sample.video, sample.audio))
    prompt = ordered(words[question], video, audio, order, media)
    heard = sample.extra.get(MODALITY) != "visual"
    return replace(prompt, system=system, use_audio_in_video=heard and prompt.use_audio_in_video)


def ordered(
    text: str, video: Any, audio: Any, order: str | None, media: Sequence[Any] = ()
) -> Prompt:
    """A question about a clip, or about items in its place; a `ResultsError` for another order."""
    known_order(order)
    if order is None and not media:
        return Prompt(text, video, audio)
    clip = [("video", video, audio)] if video else [("audio", audio)] if audio else []
    given, words = [*media, *clip], [("text", text)]
    return Prompt(items=[*given, *words] if order == "clip-first" else [*words, *given])


def kind_of(prompt: Any) -> str:
    """What a prompt's sample is: "counterfactual" with another file's sound, else "factual"."""
    files = [getattr(prompt, name, None) for name in ("video", "audio")]
    swapped = all(files) and len({Path(str(file)).resolve() for file in files}) > 1
    return "counterfactual" if swapped else "factual"


def without_sound(prompt: Prompt) -> Prompt:
    """The prompt for a base that only sees: the same words and pictures."""

    def seen(items: Sequence[Any]) -> list[Any]:
        return [(item[0], item[1]) for item in items if item[0] != "audio"]

    turns = [(role, seen(items)) for role, items in prompt.messages[:-1]]
    own = dict(audio=None, items=seen(prompt.items) if prompt.items else (), turns=turns)
    return replace(prompt, **own, use_audio_in_video=False, rope="model")
