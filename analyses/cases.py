"""Who is asked what?

A case is one question about one sample, with what is known to be true of it. Every analysis takes
cases (or bare prompts) and gives one tidy table; a case that it cannot be asked of is skipped,
counted and listed, never dropped in silence.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import pandas as pd

from data_prep.manifest import Sample, read_manifest
from hooked_omni import EmbeddedPrompt, HookedOmni, HookedOmniError, Prompt, names
from hooked_omni.decoding.generate import Generation
from hooked_omni.decoding.prefill import PrefilledPrompt, prefill, prefill_state
from hooked_omni.errors import MediaError, ResultsError

__all__ = [
    "KEYS",
    "QUESTIONS",
    "Asked",
    "Case",
    "Skip",
    "as_cases",
    "door",
    "plain_answer",
    "read_cases",
    "ready",
    "tabulate",
]

QUESTIONS: Mapping[str, str] = {
    "see": "Describe what you see.",
    "hear": "Describe what you hear.",
    "both": "Describe what you see and hear.",
}
"""The paper's three questions (section 4)."""

KEYS = ("sample", "kind", "question")
"""The columns with which every table begins."""


class Skip(HookedOmniError):
    """A case that an analysis cannot be asked of; says why."""


@dataclass(frozen=True, eq=False)
class Case:
    """One question about one sample.

    ```python
    Case(Prompt("Describe what you hear.", video="dog.mp4"), sample="dog")
    ```

    Attributes:
        prompt: The question and its clip; or the same at the decoder's door already.
        sample: Names the clip; (sample, question) is unique in a run.
        kind: "factual", "counterfactual", or a control, as in the manifest.
        question: Short name of what is asked: "see", "hear", "both", or a user's own.
        audio_captions: What is truly heard.
        video_captions: What is truly seen.
        at_door: The prompt at one model's door, with what its pass over it left; see `ready`.
        made_of: The prompt that `at_door` was made of; another `prompt` beside it is embedded anew.
        answers: Plain answers to `at_door`, by how many tokens were asked for and which end one.
    """

    prompt: Prompt | EmbeddedPrompt
    sample: str
    kind: str = "factual"
    question: str = "hear"
    audio_captions: tuple[str, ...] = ()
    video_captions: tuple[str, ...] = ()
    at_door: PrefilledPrompt | None = None
    made_of: Prompt | EmbeddedPrompt | None = None
    answers: dict[tuple[int, frozenset[int]], Generation] = field(default_factory=dict)

    @property
    def id(self) -> str:
        """Sample and question."""
        return f"{self.sample}/{self.question}"

    @property
    def keys(self) -> dict[str, str]:
        """The columns with which this case's rows begin."""
        return {name: getattr(self, name) for name in KEYS}


Asked = Iterable[Case | Prompt | EmbeddedPrompt]
"""What a `run` takes: cases, or bare prompts."""


def as_cases(asked: Asked) -> list[Case]:
    """Cases; bare prompts are named by their number.

    Raises:
        ResultsError: For none, or two of one sample and question.
    """
    cases = [a if isinstance(a, Case) else Case(a, str(i)) for i, a in enumerate(asked)]
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
) -> list[Case]:
    """Every sample of a manifest, asked each of `questions` (names in `QUESTIONS`).

    Raises:
        ManifestError: For a manifest with anything wrong in it.
        ResultsError: For an unknown question, or no sample of these kinds.
    """
    unknown = [question for question in questions if question not in QUESTIONS]
    if unknown or not questions:
        raise ResultsError(f"expected questions among {sorted(QUESTIONS)}, got {unknown}.")
    samples = read_manifest(manifest)
    chosen = [s for s in samples if kinds is None or s.kind in kinds]
    if not chosen:
        raise ResultsError(
            f"expected a sample of kind {kinds or 'any'} in {manifest}, got "
            f"{len(samples)} of {sorted({s.kind for s in samples})}."
        )
    folder = Path(manifest).parent
    return [_case(sample, folder, question, rope) for sample in chosen for question in questions]


def _case(
    sample: Sample, folder: Path, question: str, rope: Literal["model", "paper-scripts"]
) -> Case:
    video, audio = (None if p is None else folder / p for p in (sample.video, sample.audio))
    return Case(
        prompt=Prompt(QUESTIONS[question], video=video, audio=audio, rope=rope),
        sample=sample.id,
        kind=sample.kind,
        question=question,
        audio_captions=sample.audio_captions,
        video_captions=sample.video_captions,
    )


def ready(omni: HookedOmni, case: Case) -> Case:
    """The same case, embedded and passed over once, for all analyses that are asked of it.

    ```python
    case = ready(omni, case)
    tables = [module.run(omni, [case]) for module in (attention_share, logit_lens, knockout)]
    ```

    It holds the prompt's keys and values, and the residual streams at audio and before the middle
    layer: some hundred megabytes in a model of 3B, so make one case ready at a time. Another model
    embeds the prompt anew.

    Raises:
        Skip: If the clip cannot be read.
    """
    prompt = door(omni, case)
    n_layers = omni.model.cfg.n_layers
    kept: dict[str, str | None] = {names.resid_pre(n_layers // 2): None}  # for the sinks
    if "audio" in prompt.spans:  # for the lens
        kept |= {names.resid_post(layer): "audio" for layer in range(n_layers)}
    at_door = prefill(omni.model, prompt, kept)
    answers = case.answers if at_door is case.at_door else {}
    return replace(case, at_door=at_door, made_of=case.prompt, answers=answers)


def plain_answer(
    omni: HookedOmni, case: Case, prompt: EmbeddedPrompt, max_new_tokens: int
) -> Generation:
    """The model's plain answer to a case's prompt, given once for all analyses if it is `ready`."""
    model = omni.model
    shared = prompt is case.at_door and prefill_state(model, prompt) is not None
    known = case.answers if shared else {}  # else written, and never read
    wanted = max_new_tokens, frozenset(model.cfg.eos_tokens)
    if wanted not in known:
        known[wanted] = model.generate(prompt, max_new_tokens=max_new_tokens)
    return known[wanted]


def door(omni: HookedOmni, case: Case, *needs: str) -> EmbeddedPrompt:
    """The case at the decoder's door, as `ready` left it if it did for this model.

    Args:
        omni: The model.
        case: What is asked.
        needs: Spans without which the question makes no sense, such as "audio".

    Raises:
        Skip: If the clip cannot be read, or has no such span.
    """
    at_door, prompt = case.at_door, case.prompt
    if at_door is not None and at_door.state and case.made_of is prompt:
        prompt = at_door if at_door.state.model is omni.model else prompt
    if isinstance(prompt, Prompt):
        try:
            prompt = omni.embed(prompt)
        except MediaError as error:
            raise Skip(str(error)) from error
    missing = [name for name in needs if name not in prompt.spans]
    if missing:
        raise Skip(f"expected {' and '.join(needs)} in the prompt, got no {missing[0]}.")
    return prompt


def tabulate(
    rows_of: Callable[[Case], Iterable[dict[str, Any]]], asked: Asked, columns: Sequence[str]
) -> pd.DataFrame:
    """One tidy table over all cases; each row begins with sample, kind and question.

    Args:
        rows_of: Rows of one case; raises `Skip` for one that cannot be asked.
        asked: Cases or prompts.
        columns: Every row's own columns, in order.

    Returns:
        The table. `table.attrs["skipped"]` lists each skipped case id with its reason, and
        `table.attrs["n_cases"]` counts all cases.

    Raises:
        ResultsError: For no cases, or the same one twice.
    """
    cases, skipped = as_cases(asked), {}

    def rows() -> Iterator[dict[str, Any]]:
        for case in cases:
            try:
                own = list(rows_of(case))
            except Skip as reason:
                skipped[case.id] = str(reason)
                continue
            yield from ({**case.keys, **row} for row in own)

    table = pd.DataFrame(list(rows()), columns=[*KEYS, *columns])
    table.attrs = {"n_cases": len(cases), "skipped": skipped}
    return table
