"""How likely is each option under every condition, and which one is chosen?"""

from collections.abc import Iterator, Mapping, Sequence
from types import MappingProxyType
from typing import Any

import numpy as np
import pandas as pd

from analyses.cases import Case, Cases, Skip, embedded, tabulate
from analyses.choice.options import OptionScores, option_scores
from analyses.configs import PLAIN
from analyses.configs import ChoiceConfig as Config
from analyses.modality_reliance import variants
from data_prep.questions import ChoiceQuestion
from hooked_omni import EmbeddedPrompt, HookedOmni, Prompt, knockout
from hooked_omni.decoding.prefill import prefill
from hooked_omni.errors import MediaError, ResultsError, SpanError
from hooked_omni.hooks.interventions import Condition

COLUMNS = (
    *("task", "sub_task", "condition", "option", "words", "right"),
    *("first_logprob", "logprob", "n_tokens", "prior", "by", "value", "p", "chosen"),
)


def run(
    omni: HookedOmni,
    cases: Cases,
    config: Config = Config(),
    conditions: Mapping[str, Condition] = MappingProxyType({}),
) -> pd.DataFrame:
    """Log-probability of every option under every condition.

    `conditions` are hooks and interventions by name, beside the rules of `config.conditions`.

    Returns:
        One row per case, condition and option, "plain" first, with

        * `sample`, `kind`, `question`: the case. `task`, `sub_task`: the benchmark's.
        * `condition`: its name. `option`: as it is answered; `words`: what it stands for.
        * `right`: whether it is the right one; missing where nobody says.
        * `first_logprob`: of its first token, in nats; missing where options share it.
        * `logprob`: of all its `n_tokens`.
        * `prior`: the `value` under a silent, black clip; missing if not calibrated.
        * `by`: what options are compared by, as in `config`. `value`: that, in nats, or in nats a
          token; less `prior` if calibrated.
        * `p`: share among the options, the softmax of their `value`.
        * `chosen`: whether its value is the largest; none is where two are equal.

        A case without options is skipped, and one of which a condition names a span it lacks.
    """
    rules = {name: [knockout(rule) for rule in own] for name, own in config.conditions.items()}
    if twice := sorted({PLAIN, *rules} & conditions.keys()):
        raise ResultsError(f"expected each condition once, got {twice} again. Rename them.")
    every: dict[str, Condition] = {PLAIN: [], **rules, **conditions}
    table = tabulate(omni, lambda case: _rows(omni, case, config, every), cases, COLUMNS)
    return table.astype({"right": "boolean"})


def _rows(
    omni: HookedOmni, case: Case, config: Config, conditions: Mapping[str, Condition]
) -> Iterator[dict[str, Any]]:
    choice = _choice(case, config)
    prompt = prefill(omni.model, embedded(omni, case))
    budget, given = config.memory_budget, list(conditions.values())
    try:
        scores = option_scores(omni.model, prompt, choice.options, given, budget)
    except SpanError as error:
        raise Skip(str(error)) from error
    values, prior = scores.values(config.by), None
    if config.calibrate == "empty clip":
        empty = _under_empty_clip(omni, case, prompt)
        prior = option_scores(omni.model, empty, choice.options, [[]]).values(config.by)[0]
        values = values - prior
    for row in _measures(choice, scores, values, prior, list(conditions)):
        yield row | dict(by=config.by)


def _choice(case: Case, config: Config) -> ChoiceQuestion:
    if case.choice is not None:
        return case.choice
    if config.options:
        return ChoiceQuestion("?", config.options)
    raise Skip(
        "expected a question whose answers are given, got one without. Ask `choice`, `which` or "
        "`forced` of a manifest, or give `options`."
    )


def _under_empty_clip(omni: HookedOmni, case: Case, prompt: EmbeddedPrompt) -> EmbeddedPrompt:
    """The same prompt, its sound silent and its picture black, at the same positions."""
    if not isinstance(case.prompt, Prompt):
        raise Skip("expected a Prompt, to calibrate by an empty clip, got one that is embedded.")
    try:
        clip = omni.read_media(case.prompt)
    except MediaError as error:
        raise Skip(str(error)) from error
    empty = omni.embed_media(case.prompt, variants.blank()(variants.mute()(clip)))
    if empty.n_pos != prompt.n_pos:
        raise Skip(f"expected {prompt.n_pos} positions of an empty clip, got {empty.n_pos}.")
    return empty


def _measures(
    choice: ChoiceQuestion,
    scores: OptionScores,
    values: np.ndarray,
    prior: np.ndarray | None,
    conditions: Sequence[str],
) -> Iterator[dict[str, Any]]:
    for c, name in enumerate(conditions):
        row = values[c]
        share = np.exp(row - row.max())
        best = row == row.max()
        for i, option in enumerate(choice.options):
            yield dict(
                task=choice.task,
                sub_task=choice.sub_task,
                condition=name,
                option=option,
                words=choice.words[i] if choice.words else "",
                right=None if choice.label is None else option == choice.label,
                first_logprob=scores.first[c, i],
                logprob=scores.whole[c, i],
                n_tokens=scores.n_tokens[i],
                prior=np.nan if prior is None else prior[i],
                value=row[i],
                p=share[i] / share.sum(),
                chosen=bool(best[i] and best.sum() == 1),
            )
