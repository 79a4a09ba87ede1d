"""What does the model answer under every mitigation, and at what cost?"""

from collections.abc import Iterator, Mapping, Sequence
from functools import cache, partial
from pathlib import Path
from typing import Any

import pandas as pd
import torch

from analyses.cases import Case, Cases, Skip, embedded, plain_answer, tabulate
from analyses.configs import PLAIN
from analyses.configs import MitigationConfig as Config
from analyses.mitigation.vectors import edited_clip, half, read_vectors
from analyses.mitigation.written import Mitigation, counterpart, read
from hooked_omni import EmbeddedPrompt, HookedOmni
from hooked_omni.decoding.contrast import Contrast, Term, contrast, positions
from hooked_omni.decoding.generate import Decoding, Generation
from hooked_omni.decoding.prefill import prefill
from hooked_omni.errors import SpanError
from hooked_omni.inputs.bundle import kept_checksum

COLUMNS = (
    *("mitigation", "setting", "random", "half", "caption", "n_tokens", "ended"),
    *("heard_found", "seen_found", "right", "plain_logprob", "positions", "cost"),
)
_Tried = tuple[str, bool, Mitigation]  # the name, whether at random, and what is done


def run(omni: HookedOmni, cases: Cases, config: Config = Config()) -> pd.DataFrame:
    """The answer under every setting of every mitigation, and of a random one of the same size.

    Returns:
        One row per case and setting, "plain" first, with

        * `sample`, `kind`, `question`: the case. `half`: "first", on which a setting is to be
          chosen, or "second", on which it is reported; by picture.
        * `mitigation`: its name. `setting`: as it is written. `random`: whether it is the random
          one beside it.
        * `caption`, `n_tokens`: the answer; `ended`, whether the model ended it, not the limit.
        * `heard_found`, `seen_found`: share of the events in the audio (video) captions that it
          names, 0 to 1.
        * `right`: 1 where it names all that is asked for (heard, seen, or both) and, of "hear" and
          "see", nothing that is only in the other captions; else 0. Missing without events.
        * `plain_logprob`: of the answer under the plain model, nats a token: how fluent it is.
        * `positions`: that the decoder runs for it, alone; `cost`: those, in plain captions.

        A case is skipped without sound, or picture, or a span that a mitigation names.
    """
    vectors = {} if config.vectors is None else read_vectors(Path(config.vectors), omni)
    n_layers, tried = omni.model.cfg.n_layers, list[_Tried]()
    for name, settings in config.mitigations.items():
        for text in settings:
            tried.append((name, False, read(text, vectors)))
            at_random = counterpart(text, n_layers) if config.random else None
            tried += [(name, True, read(at_random, vectors))] if at_random else []
    table = tabulate(omni, lambda case: _rows(omni, case, config, tried), cases, COLUMNS)
    # Parts of a run that goes on with other vectors do not agree, and are refused.
    table.attrs["vectors"] = config.vectors and kept_checksum(Path(config.vectors))
    return table


def _rows(
    omni: HookedOmni, case: Case, config: Config, tried: Sequence[_Tried]
) -> Iterator[dict[str, Any]]:
    prompt = prefill(omni.model, embedded(omni, case, "audio", "video or image"))
    plain = plain_answer(omni, case, prompt, config.max_new_tokens)
    found = case.events(config.own)
    other = cache(partial(edited_clip, omni, case))
    try:
        answers = _answers(omni, prompt, [one for *_, one in tried], other, config)
    except SpanError as error:
        raise Skip(str(error)) from error
    n_plain = positions(omni.model, prompt, Contrast((Term(1.0),)), len(plain.tokens))
    every = [(PLAIN, False, "", plain, n_plain)]
    for (name, random, own), (answer, n) in zip(tried, answers, strict=True):
        every.append((name, random, own.text, answer, n))
    scores: dict[tuple[int, ...], float] = {}
    for name, random, text, answer, n in every:
        tokens = tuple(answer.tokens.tolist())
        if tokens not in scores:
            logprobs = omni.model.score(prompt, torch.tensor(tokens), [[]])[0]
            scores[tokens] = float(logprobs.double().mean())
        shares = {side: events.share(answer.text) for side, events in found.items()}
        yield dict(
            mitigation=name,
            setting=text,
            random=random,
            half=half(case),
            caption=answer.text,
            n_tokens=len(tokens),
            ended=answer.ended,
            **{f"{side}_found": share for side, share in shares.items()},
            right=_right(case.question, answer.text, found),
            plain_logprob=scores[tokens],
            positions=n,
            cost=n / n_plain,
        )


def _answers(
    omni: HookedOmni,
    prompt: EmbeddedPrompt,
    tried: Sequence[Mitigation],
    other: Any,
    config: Config,
) -> list[tuple[Generation, int]]:
    """Answers, and the positions that each takes; interventions share their passes."""
    decoding, made = Decoding(config.max_new_tokens), dict[int, Generation]()
    alone = [i for i, one in enumerate(tried) if one.contrast is None]
    if alone:
        captions = omni.model.generate_many(prompt, [tried[i].condition for i in alone], decoding)
        made = dict(zip(alone, captions, strict=True))
    answers = []
    for i, one in enumerate(tried):
        how = Contrast((Term(1.0, one.condition),)) if one.contrast is None else one.contrast(other)
        answer = made[i] if i in made else contrast(omni.model, prompt, how, decoding)
        answers.append((answer, positions(omni.model, prompt, how, len(answer.tokens))))
    return answers


def _right(question: str, text: str | None, found: Mapping[str, Any]) -> float:
    """Whether all that is asked for is named, and nothing of the other side alone."""
    if text is None or not all(own.names for own in found.values()):
        return float("nan")
    named = {side: own.found(text) for side, own in found.items()}
    missed = {side: frozenset(own.names) - named[side] for side, own in found.items()}
    if question not in ("hear", "see"):
        return float(not any(missed.values()))
    side, other = ("heard", "seen") if question == "hear" else ("seen", "heard")
    return float(not missed[side] and not named[other] - {*found[side].names})
