"""What does the model answer, and how likely are other words, under every knockout?"""

from collections.abc import Iterator, Sequence
from typing import Any

import pandas as pd

from analyses.cases import Case, Cases, Skip, embedded, plain_answer, tabulate
from analyses.configs import KnockoutConfig as Config
from analyses.text.references import references, word_logprobs
from hooked_omni import EmbeddedPrompt, HookedOmni, knockout, windows
from hooked_omni.decoding.generate import Decoding, Generation
from hooked_omni.decoding.prefill import prefill
from hooked_omni.errors import ResultsError

COLUMNS = (
    *("key", "query", "center", "first_layer", "last_layer", "n_layers"),
    *("caption", "n_tokens", "ended", "n_same"),
    *("caption_logprob", "n_scored", "heard_logprob", "n_heard_words"),
    *("seen_logprob", "n_seen_words", "heard_found", "seen_found"),
)


def run(omni: HookedOmni, cases: Cases, config: Config = Config()) -> pd.DataFrame:
    """The answer, and the log-probability of other words, under every knockout.

    Returns:
        One row per case and condition, the baseline first, with

        * `sample`, `kind`, `question`: the case.
        * `key`: the span that is not read; "none" for the baseline. `query`: what does not read it.
        * `center`, `first_layer`, `last_layer`: the window, both ends in it; missing for the
          baseline. `n_layers`: of the model.
        * `caption`, `n_tokens`: the answer under this condition. `ended`: whether the model ended
          it, rather than the limit. `n_same`: how many tokens at its beginning are those of the
          baseline.
        * `caption_logprob`: of the whole baseline caption under this condition, in nats;
          `n_scored`: its tokens.
        * `heard_logprob`, `seen_logprob`: of the reference captions' words for what is heard and
          what is seen, when the caption is teacher-forced; nats a word, mean over `n_heard_words`
          and `n_seen_words`. A word that opens a caption is left out unless the last prompt
          position is cut, too. Missing without such a word.
        * `heard_found`, `seen_found`: share of the reference events that `caption` names, 0 to 1,
          by the words of `events.py`; missing without a reference event.

        Cases without a span of `config.keys`, or with an answer of one token, are skipped.
    """
    table = tabulate(omni, lambda case: _rows(omni, case, config), cases, COLUMNS)
    return table.astype(dict.fromkeys(("center", "first_layer", "last_layer"), "Int64"))


def chosen_windows(config: Config, n_layers: int) -> list[range]:
    """Windows of layers; by default whole ones only, as in the paper: centers 4, 6, ..., 30 of 36.

    A window that is not in the model is a `ResultsError`, an even or too large width a `HookError`.
    """
    if config.windows:
        chosen = [range(first, last + 1) for first, last in config.windows]
        wrong = [(w.start, w.stop - 1) for w in chosen if not 0 <= w.start < w.stop <= n_layers]
        if wrong:
            raise ResultsError(
                f"expected windows (first, last) in layers 0 to {n_layers - 1}, got {wrong}."
            )
        return chosen
    return windows(n_layers, config.width, config.step, "whole")


def _rows(omni: HookedOmni, case: Case, config: Config) -> Iterator[dict[str, Any]]:
    n_layers = omni.model.cfg.n_layers
    cuts: list[tuple[str, range | None]] = [("none", None)]
    cuts += [(key, layers) for key in config.keys for layers in chosen_windows(config, n_layers)]
    conditions = [
        [] if layers is None else [knockout(query=config.query, key=key, layers=layers)]
        for key, layers in cuts
    ]
    prompt = prefill(omni.model, embedded(omni, case, *config.keys))
    captions, scores = _captions(omni, case, prompt, conditions, config)
    events = case.events(config.own)
    measured = _reference_words(omni, case, prompt, conditions, config)
    for i, ((key, layers), caption) in enumerate(zip(cuts, captions, strict=True)):
        first, last = (None, None) if layers is None else (layers.start, layers.stop - 1)
        yield dict(
            key=key,
            query=config.query,
            center=None if first is None or last is None else (first + last) // 2,
            first_layer=first,
            last_layer=last,
            n_layers=n_layers,
            caption=caption.text,
            n_tokens=len(caption.tokens),
            ended=caption.ended,
            n_same=_n_same(caption, captions[0]),
            caption_logprob=float(scores[i].double().sum()),
            n_scored=len(captions[0].tokens),
            **{name: column[i] for name, column in measured.items()},
            **{f"{name}_found": named.share(caption.text) for name, named in events.items()},
        )


def _captions(
    omni: HookedOmni, case: Case, prompt: EmbeddedPrompt, conditions: Sequence[Any], config: Config
) -> tuple[list[Generation], Sequence[Any]]:
    """The caption under each condition, and what each gives the baseline's tokens, in nats."""
    n_new, budget = config.max_new_tokens, config.memory_budget
    # Only where other analyses have the answer, too: decoding it alone costs what it would save.
    shared = prompt is case.prefilled_prompt
    draft = tuple(plain_answer(omni, case, prompt, n_new).tokens.tolist()) if shared else ()
    draft = draft if len(draft) > 1 else ()
    decoding = Decoding(n_new, memory_budget=budget, draft=draft, score_draft=bool(draft))
    captions = omni.model.generate_many(prompt, conditions, decoding)
    baseline = captions[0].tokens
    if len(baseline) < 2:
        raise Skip(
            f"expected an answer of two tokens or more, got {captions[0].text!r}: a knockout of "
            "generated positions cannot reach its only one."
        )
    scores: Sequence[Any] = [made.draft_logprobs for made in captions]
    if tuple(baseline.tolist()) != draft:  # unknown, or in half precision rounded otherwise
        scores = omni.model.score(prompt, baseline, conditions, budget)
    return captions, scores


def _reference_words(
    omni: HookedOmni, case: Case, prompt: EmbeddedPrompt, conditions: Sequence[Any], config: Config
) -> dict[str, Sequence[Any]]:
    columns: dict[str, Sequence[Any]] = {}
    model, first_too = omni.model, config.query == "generated+last"
    for name, captions in case.captions.items():
        found = references(model.tokenizer, captions, config.references, config.own, first_too)
        logprobs = word_logprobs(model, prompt, found, conditions, config.memory_budget)
        columns[f"{name}_logprob"] = logprobs.tolist()
        columns[f"n_{name}_words"] = [sum(len(r.words) for r in found)] * len(conditions)
    return columns


def _n_same(caption: Generation, baseline: Generation) -> int:
    pairs = zip(caption.tokens.tolist(), baseline.tokens.tolist(), strict=False)
    differs = (i for i, (ours, theirs) in enumerate(pairs) if ours != theirs)
    return next(differs, min(len(caption.tokens), len(baseline.tokens)))
