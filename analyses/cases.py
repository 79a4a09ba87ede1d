"""Which questions about which clips does an analysis run on?

Every analysis takes cases (or bare prompts) and returns one tidy table; a case that it cannot
measure is skipped, counted and listed, never dropped in silence.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import pandas as pd

from analyses.asking import SampleQuestion, kind_of, sample_questions
from analyses.text.events import Events
from data_prep.questions import ChoiceQuestion
from hooked_omni import EmbeddedPrompt, HookedOmni, HookedOmniError, Prompt, names
from hooked_omni.decoding.generate import Generation
from hooked_omni.decoding.prefill import PrefilledPrompt, prefill, prefill_state
from hooked_omni.errors import MediaError, ResultsError
from hooked_omni.fingerprint import unedited

KEYS = ("sample", "kind", "question")
"""The columns with which every table begins."""


class Skip(HookedOmniError):
    """Raised for a case that an analysis cannot measure; its message is the reason."""


@dataclass(frozen=True, eq=False)
class Case:
    """One question about one sample.

    ```python
    Case(Prompt("Describe what you hear.", video="dog.mp4"), sample="dog")
    ```

    Attributes:
        prompt: The question and its clip, or the same embedded.
        sample: Names the clip; (sample, question) is unique in a run.
        kind: "factual", "counterfactual", or a control, as in the manifest.
        question: Short name of the question: "see", "hear", "both", or a user's own.
        audio_captions: Reference captions of the audio.
        video_captions: Reference captions of the video.
        prefilled_prompt: The prompt as one model embedded and prefilled it; see `prefilled`.
        prefilled_from: The `prompt` that it was made of, and the model's `content_hash`; after a
            change of either it is not used.
        twin: The factual sample with the same picture, as in the manifest; None without one.
        choice: The answers that are given, if they are; see `text.choices`.
        answers: Plain answers to `prefilled_prompt`, by longest answer and end tokens.
    """

    prompt: Prompt | EmbeddedPrompt
    sample: str
    kind: str = "factual"
    question: str = "hear"
    audio_captions: tuple[str, ...] = ()
    video_captions: tuple[str, ...] = ()
    prefilled_prompt: PrefilledPrompt | None = None
    prefilled_from: tuple[Prompt | EmbeddedPrompt, str] | None = None
    twin: str | None = None
    choice: ChoiceQuestion | None = None
    answers: dict[tuple[int, frozenset[int]], Generation] = field(default_factory=dict)

    @property
    def id(self) -> str:
        """Sample and question."""
        return f"{self.sample}/{self.question}"

    @property
    def keys(self) -> dict[str, str]:
        """The columns with which this case's rows begin."""
        return {name: getattr(self, name) for name in KEYS}

    @property
    def captions(self) -> dict[str, tuple[str, ...]]:
        """Reference captions of what is "heard" and "seen"."""
        return {"heard": self.audio_captions, "seen": self.video_captions}

    def events(
        self, own: Mapping[str, Sequence[str]] | None = None, at_least: int = 1
    ) -> dict[str, Events]:
        """The sound events that these captions name; arguments as in `Events.of`."""
        return {name: Events.of(c, own, at_least) for name, c in self.captions.items()}


Cases = Iterable[Case | Prompt | EmbeddedPrompt]
"""What a `run` takes: cases, or bare prompts."""


def as_cases(given: Cases) -> list[Case]:
    """A list of cases, bare prompts named by number; a `ResultsError` for none, or one twice."""
    cases = [a if isinstance(a, Case) else Case(a, str(i), kind_of(a)) for i, a in enumerate(given)]
    if not cases:
        raise ResultsError("expected at least one prompt, got none. Check the list of clips.")
    seen: set[str] = set()
    for case in cases:
        if case.id in seen:
            raise ResultsError(
                f"expected each sample and question once, got {case.id!r} twice. Give one of them "
                "another `sample` or `question`."
            )
        seen.add(case.id)
    return cases


def read_cases(
    manifest: str | Path,
    questions: Sequence[str] = ("hear",),
    kinds: Sequence[str] | None = None,
    rope: Literal["model", "paper-scripts"] = "model",
    wording: Mapping[str, str] | None = None,
    system: str | None = None,
    order: str | None = None,
) -> list[Case]:
    """A case for every sample of a manifest and each of `questions` (names in `wording.QUESTIONS`).

    `wording` has other words for a question; `system` is a system prompt in place of the family's;
    `order` says whether the question or the clip comes first, None as the family has it (for native
    ones the question, as in the paper). The question "own" is for samples with words of their own.
    Those of `text.choices` become a case for each: "choice.1", "choice.2", ...

    Raises:
        FileError, ManifestError: For a manifest that cannot be read, or is wrong.
        ResultsError: For an unknown question, or no sample of these kinds, or that can be asked.
    """
    every = sample_questions(manifest, questions, kinds, rope, wording, system, order)
    return [case_of(one) for one in every]


def case_of(one: SampleQuestion) -> Case:
    """A question about a sample as a case."""
    sample, question, prompt, choice = one
    captions = sample.audio_captions, sample.video_captions
    return Case(
        prompt, sample.id, sample.kind, question, *captions, twin=sample.twin, choice=choice
    )


def _order(omni: HookedOmni, case: Case) -> str:
    """What comes first: "text-first", "clip-first", or "embedded" where that is not known."""
    if not isinstance(case.prompt, Prompt):
        return "embedded"
    text_first = case.prompt.content[0].kind == "text" and omni.family.one_clip != "first"
    return "text-first" if text_first else "clip-first"


@unedited()
def prefilled(omni: HookedOmni, case: Case) -> Case:
    """The same case, embedded and prefilled, for all analyses that run on it.

    ```python
    case = prefilled(omni, case)
    tables = [module.run(omni, [case]) for module in (attention_share, logit_lens, knockout)]
    ```

    It holds the prompt's keys and values, and the residual streams at audio and before the middle
    layer: some hundred megabytes in a model of 3B, so prefill one case at a time. Another model
    embeds the prompt anew. Raises as `embedded`.
    """
    prompt = embedded(omni, case)
    n_layers = omni.model.cfg.n_layers
    kept: dict[str, str | None] = {names.resid_pre(n_layers // 2): None}  # for the sinks
    if "audio" in prompt.spans:  # for the lens
        kept |= {names.resid_post(layer): "audio" for layer in range(n_layers)}
    prompt = prefill(omni.model, prompt, kept)
    answers = case.answers if prompt is case.prefilled_prompt else {}
    source = case.prompt, omni.content_hash()
    return replace(case, prefilled_prompt=prompt, prefilled_from=source, answers=answers)


@unedited()
def plain_answer(
    omni: HookedOmni, case: Case, prompt: EmbeddedPrompt, max_new_tokens: int
) -> Generation:
    """The model's plain answer to a case's prompt, with the logits that it was chosen from.

    It is generated once if the case is `prefilled`.
    """
    model = omni.model
    shared = prompt is case.prefilled_prompt and prefill_state(model, prompt) is not None
    known = case.answers if shared else {}  # else written, and never read
    wanted = max_new_tokens, frozenset(model.cfg.eos_tokens)
    if wanted not in known:
        known[wanted] = model.generate(prompt, max_new_tokens=max_new_tokens, return_logits=True)
    return known[wanted]


def embedded(omni: HookedOmni, case: Case, *needs: str) -> EmbeddedPrompt:
    """The case's prompt, embedded; as `prefilled` left it if it did for this model.

    Raises:
        Skip: If the clip cannot be read, or lacks one of the spans that it `needs`, such as
            "audio", or "video or image" for either.
    """
    known, prompt = case.prefilled_prompt, case.prompt
    if known is not None and known.state and known.state.model is omni.model:
        given, model = case.prefilled_from or (None, None)
        prompt = known if given is prompt and model == omni.content_hash() else prompt
    if isinstance(prompt, Prompt):
        try:
            prompt = omni.embed(prompt)
        except MediaError as error:
            raise Skip(str(error)) from error
    for need in needs:
        if not any(name in prompt.spans for name in need.split(" or ")):
            has = [name for name in ("audio", "video", "image") if name in prompt.spans]
            raise Skip(f"expected {' and '.join(needs)} in the prompt, got no {need}, but {has}.")
    return prompt


def tabulate(
    omni: HookedOmni,
    rows_of: Callable[[Case], Iterable[dict[str, Any]]],
    given: Cases,
    columns: Sequence[str],
) -> pd.DataFrame:
    """One tidy table over all cases; each row begins with sample, kind and question.

    `rows_of` raises `Skip` for a case that it cannot measure, and edits no model, which is hashed
    once for all its uses of a `prefilled` prompt; `columns` are the rows' own.

    Returns:
        The table. `table.attrs["skipped"]` lists each skipped case id with its reason,
        `table.attrs["n_cases"]` counts all cases, "model" is the name of the model, "order" says
        whether text or clip came first, and "twins" has the twin of each sample that has one, for
        `plots.twins.paired`.
    """
    cases, skipped, rows = as_cases(given), {}, []
    for case in cases:
        try:
            with unedited():
                rows += [{**case.keys, **row} for row in rows_of(case)]
        except Skip as reason:
            skipped[case.id] = str(reason)
    table = pd.DataFrame(rows, columns=[*KEYS, *columns])
    twins = {case.sample: case.twin for case in cases if case.twin is not None}
    order = ", ".join(sorted({_order(omni, case) for case in cases}))
    counts = {"n_cases": len(cases), "skipped": skipped, "twins": twins, "order": order}
    own = "" if omni.adapter is None else f" + {omni.adapter['name']}"  # another model's numbers
    table.attrs = {"model": omni.model.cfg.model_name + own, **counts}
    return table
