"""What does the base predict at every token of the model's answer?"""

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

import pandas as pd
import torch

from analyses.asking import without_sound
from analyses.cases import Case, Cases, Skip, as_cases, embedded, plain_answer, tabulate
from analyses.configs import DistributionShiftConfig as Config
from analyses.distribution_shift.divergence import compare, places
from analyses.distribution_shift.sound_words import token_events
from analyses.running.elsewhere import said
from analyses.text.events import Events
from analyses.text.pieces import pieces
from analyses.text.vocabulary import shared_vocabulary, text_of, tokenizer_of
from hooked_omni import EmbeddedPrompt, HookedOmni, Prompt
from hooked_omni.decoding.prefill import prefill
from hooked_omni.decoding.score import logits_at_once
from hooked_omni.errors import MediaError, PromptError, ResultsError

OWN_SYSTEM = "each model's own"
"""Stands for the families' system prompts, which may differ, and KL and ranks with them."""
SHIFTS = ("unshifted", "marginal", "shifted")
COLUMNS = (
    *("step", "token_id", "token_text", "events", "logprob", "base_logprob", "base_rank", "shift"),
    *("kl_base_model", "kl_model_base", "left_out", "base_left_out"),
    *("base_top", "base_top_logprob", "answer", "ended"),
)


def run(
    omni: HookedOmni,
    cases: Cases,
    config: Config = Config(),
    *,
    base: HookedOmni,
    base_prompts: Mapping[str, EmbeddedPrompt] | None = None,
) -> pd.DataFrame:
    """Next-token distributions of the model and the base at every token of the model's answer.

    `base_prompts` are the base's prompts by case id, for cases whose prompt is embedded already; of
    any other, the prompt is made from the case's own: its words and video.

    Returns:
        One row per sample and token of the answer, without the end token, with

        * `sample`, `kind`, `question`: the case.
        * `step`: index of the generated position, 0 for the first new token; `token_id` and
          `token_text` of the token there.
        * `events`: list of the sound events named by the word that the token is part of.
        * `logprob`, `base_logprob`: of the token in the model and in the base, in nats.
        * `base_rank`: of the token in the base, from 1. `shift`: its class, one of `SHIFTS`.
        * `kl_base_model` = KL(base || model), and `kl_model_base`, in nats.
        * `left_out`, `base_left_out`: probability of tokens that the other model does not have;
          everything else is renormalized over the tokens that both have.
        * `base_top`, `base_top_logprob`: lists of the base's five likeliest tokens there, the
          likeliest first, and of their log-probabilities in nats.
        * `answer`: its text; `ended`: whether the model ended it, rather than the limit.

        `attrs` hold "base", its name, and "system", the system prompts that both were given.

    Raises:
        ResultsError: For two models with different words, an embedded case without its prompt for
            the base, or a base prompt of another clip or question.
    """
    shared = shared_vocabulary(omni.model, base.model)
    tokenizer, events = tokenizer_of(omni.model), Events.every(config.own)

    def rows(case: Case) -> Iterator[dict[str, Any]]:
        prompt = prefill(omni.model, embedded(omni, case, "audio", "video or image"))
        base_prompt = _base_prompt(omni, base, case, base_prompts or {})
        _require_one_clip(case, prompt, base_prompt)
        answer = plain_answer(omni, case, prompt, config.max_new_tokens)
        ends = torch.tensor(omni.model.cfg.eos_tokens, dtype=torch.long)
        tokens = answer.tokens[~torch.isin(answer.tokens, ends)]
        if not len(tokens):
            raise Skip("expected an answer, got none: the model ends at once.")
        at = places(shared.first, tokens)
        if bool((at < 0).any()):
            strange = tokenizer.decode([int(tokens[at < 0][0])])
            raise Skip(f"expected an answer in tokens of both models, got {strange!r}.")
        base_logits = logits_at_once(base.model, base_prompt, shared.second[at])
        own: Any = answer.logits  # kept with every plain answer
        measured = compare(own[: len(tokens)], base_logits, shared, at)
        texts = pieces(tokenizer, tokens.tolist())
        likeliest = shared.first[measured.pop("base_top")].tolist()
        logprobs = measured.pop("base_top_logprob").tolist()
        for step, (text, named) in enumerate(zip(texts, token_events(texts, events), strict=True)):
            yield dict(
                step=step,
                token_id=int(tokens[step]),
                token_text=text,
                events=named,
                shift=shift_of(int(measured["base_rank"][step])),
                base_top=tuple(text_of(tokenizer, token) for token in likeliest[step]),
                base_top_logprob=tuple(logprobs[step]),
                answer=answer.text,
                ended=answer.ended,
                **{name: value[step].item() for name, value in measured.items()},
            )

    cases = as_cases(cases)
    table = tabulate(omni, rows, cases, COLUMNS)
    prompts = [case.prompt for case in cases if isinstance(case.prompt, Prompt)]
    systems = {prompt.system or OWN_SYSTEM: "model and base" for prompt in prompts}
    table.attrs |= {"base": base.model.cfg.model_name, "system": systems}
    return table


def _base_prompt(
    omni: HookedOmni, base: HookedOmni, case: Case, given: Mapping[str, EmbeddedPrompt]
) -> EmbeddedPrompt:
    """The same words and frames, without sound."""
    if case.id in given:
        prompt = given[case.id]
    elif isinstance(case.prompt, Prompt):
        media = case.prompt.media or omni.media
        try:
            prompt = base.embed(replace(without_sound(case.prompt), media=media))
        except (MediaError, PromptError) as error:
            raise Skip(f"the base cannot read the prompt: {error}") from error
    else:
        raise ResultsError(
            f"expected base_prompts with {case.id!r}, whose prompt is embedded for one model "
            f"already, got {sorted(given)}. Embed it for the base too, or give a `Prompt`."
        )
    if "audio" in prompt.spans or not any(name in prompt.spans for name in ("video", "image")):
        raise Skip("expected a prompt for the base with video or image and without audio.")
    return prompt


def _require_one_clip(case: Case, prompt: EmbeddedPrompt, base_prompt: EmbeddedPrompt) -> None:
    """Refuse, as a `ResultsError`, prompts of two clips or words, as far as their facts say."""
    both = [one.facts.get("prompt") or {} for one in (prompt, base_prompt)]
    own, other = map(_seen, both)
    pairs = zip(own, other, strict=False)
    differ = any(None not in (a[-1], b[-1]) and a != b for a, b in pairs) or len(own) != len(other)
    if all(both) and differ:
        raise ResultsError(
            f"expected a prompt of {case.id!r} for the base with {own}, got one with {other}. "
            "Embed it of the same clip and words."
        )


def _seen(prompt: Mapping[str, Any]) -> list[tuple[Any, ...]]:
    """What a prompt's facts say of it but for sounds, in order; None for what they leave out."""
    known = said(prompt, hears=False)
    items = known["items"] or [("text", known["text"], None), ("video", known["video"], None)]
    every = [(role, *item) for role, own in (*known["turns"], ("user", items)) for item in own]
    return [(role, kind, source) for role, kind, source, _ in every if kind != "audio"]


def shift_of(base_rank: int) -> str:
    """The class of a token by its rank in the base: 1, up to 3, or beyond."""
    return SHIFTS[0] if base_rank == 1 else SHIFTS[1] if base_rank <= 3 else SHIFTS[2]
