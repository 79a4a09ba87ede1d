"""How far is a model that hears from the base model that only sees?

The model answers a clip with sound, greedily. The base model, its vision-only origin, is shown the
same words and the same frames in its own chat template, and the answer is forced upon it in one
pass. At each token the two next-token distributions are compared: Kullback-Leibler divergence both
ways, and the base rank of the token that was said, which is unshifted (rank 1), marginal (2 or 3)
or shifted (more). Section 8 and figure 7 of arXiv 2604.02605.

The model's own distributions are read in the same way, in one pass over its answer: to rounding,
they are those that it chose from. Distributions are over the tokens that both models know; what
lies outside is left out and stated.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, cast

import pandas as pd
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from analyses.cases import KEYS, Asked, Case, Skip, door, plain_answer, tabulate
from analyses.distribution_shift.divergence import compare, places
from analyses.plots.figures import counted
from analyses.plots.published import published
from analyses.plots.statistics import in_words, mean_band
from analyses.text.events import Events
from analyses.text.pieces import pieces
from analyses.text.vocabulary import shared_vocabulary, tokenizer_of
from hooked_omni import EmbeddedPrompt, HookedOmni, Prompt
from hooked_omni.decoding.prefill import prefill
from hooked_omni.decoding.score import forced_logits
from hooked_omni.errors import MediaError, PromptError, ResultsError

__all__ = ["SHIFTS", "Config", "headline", "plot", "retagged", "run", "shift_of"]

SHIFTS = ("unshifted", "marginal", "shifted")
_COLUMNS = (
    *("place", "token", "text", "event", "logprob", "base_logprob", "base_rank", "shift"),
    *("kl_base_model", "kl_model_base", "left_out", "base_left_out", "answer"),
)
_COLORS = {"unshifted": "tab:blue", "marginal": "tab:orange", "shifted": "tab:red"}
_PAIR = "qwen2.5-omni-3b|qwen2.5-vl"


@dataclass(frozen=True)
class Config:
    """How long an answer is compared, and which tokens speak of sounds.

    Attributes:
        max_new_tokens: Longest answer, in tokens; 50 in the paper's scripts.
        own: Words or phrases by sound event, besides the table of `events.py`.
    """

    max_new_tokens: int = 50
    own: Mapping[str, Sequence[str]] = field(default_factory=dict)


def run(
    omni: HookedOmni,
    cases: Asked,
    config: Config = Config(),
    *,
    base: HookedOmni,
    base_prompts: Mapping[str, EmbeddedPrompt] | None = None,
) -> pd.DataFrame:
    """How the base would have gone on, at every token of the model's answer.

    Args:
        omni: The model that hears and sees.
        cases: Who is asked what, of clips with sound and picture.
        config: What to compare.
        base: The model that only sees.
        base_prompts: What the base is asked, by case id, for cases whose prompt is embedded
            already; of any other, the prompt is made from the case's own: its words and video.

    Returns:
        One row per sample and token of the answer, without the end token, with the columns
        `sample`, `kind`, `question`, `place` (from 0), `token`, `text`, `event` (sound events that
        the word names which the token is part of, comma-separated), `logprob` and `base_logprob`
        (of the token, nats), `base_rank` (from 1), `shift` (one of `SHIFTS`), `kl_base_model` =
        KL(base || model) and `kl_model_base` (nats), `left_out` and `base_left_out` (probability of
        tokens that the other does not know), and `answer`. Distributions are renormalized over the
        tokens that both know.

    Raises:
        ResultsError: For two models with different words, or an embedded case without its prompt
            for the base.
    """
    shared = shared_vocabulary(omni.model, base.model)
    tokenizer, events = tokenizer_of(omni.model), Events.every(config.own)

    def rows(case: Case) -> Iterator[dict[str, Any]]:
        prompt = prefill(omni.model, door(omni, case, "audio", "video"))
        asked = _base_prompt(omni, base, case, base_prompts or {})
        answer = plain_answer(omni, case, prompt, config.max_new_tokens)
        ends = torch.tensor(omni.model.cfg.eos_tokens, dtype=torch.long)
        tokens = answer.tokens[~torch.isin(answer.tokens, ends)]
        if not len(tokens):
            raise Skip("expected an answer, got none: the model ends at once.")
        said = places(shared.first, tokens)
        if bool((said < 0).any()):
            strange = tokenizer.decode([int(tokens[said < 0][0])])
            raise Skip(f"expected an answer in tokens of both models, got {strange!r}.")
        logits = forced_logits(omni.model, prompt, tokens)
        of_base = forced_logits(base.model, asked, shared.second[said])
        measured = compare(logits, of_base, shared, said)
        texts = pieces(tokenizer, tokens.tolist())
        for place, (text, named) in enumerate(zip(texts, _events(texts, events), strict=True)):
            yield dict(
                place=place,
                token=int(tokens[place]),
                text=text,
                event=named,
                shift=shift_of(int(measured["base_rank"][place])),
                answer=answer.text,
                **{name: value[place].item() for name, value in measured.items()},
            )

    return tabulate(rows, cases, _COLUMNS)


def _base_prompt(
    omni: HookedOmni, base: HookedOmni, case: Case, given: Mapping[str, EmbeddedPrompt]
) -> EmbeddedPrompt:
    """The same words and frames, without sound."""
    if case.id in given:
        prompt = given[case.id]
    elif isinstance(case.prompt, Prompt):
        media = case.prompt.media or omni.media
        silent = dict(audio=None, use_audio_in_video=False, rope="model", media=media)
        try:
            prompt = base.embed(replace(case.prompt, **cast(Any, silent)))
        except (MediaError, PromptError) as error:
            raise Skip(f"the base cannot be asked: {error}") from error
    else:
        raise ResultsError(
            f"expected base_prompts with {case.id!r}, whose prompt is embedded for one model "
            f"already, got {sorted(given)}. Embed it for the base too, or give a `Prompt`."
        )
    if "audio" in prompt.spans or "video" not in prompt.spans:
        raise Skip("expected a prompt for the base with video and without audio.")
    return prompt


def shift_of(base_rank: int) -> str:
    """The class of a token by its rank in the base: 1, up to 3, or beyond."""
    return SHIFTS[0] if base_rank == 1 else SHIFTS[1] if base_rank <= 3 else SHIFTS[2]


def _events(texts: Sequence[str], events: Events) -> list[str]:
    """For each token of an answer the sound events whose words it is part of."""
    named: list[set[str]] = [set() for _ in texts]
    found, start = events.matches("".join(texts)), 0
    for place, text in enumerate(texts):
        stop = max(start + len(text), start + 1)  # a piece of a character counts with its first
        named[place] |= {m.event for m in found if start < m.stop and m.start < stop}
        start += len(text)
    return [", ".join(sorted(names)) for names in named]


def retagged(
    table: pd.DataFrame, words: Mapping[tuple[str, str, str], Sequence[str]]
) -> pd.DataFrame:
    """The table with somebody else's word on which words tell of sounds, such as a judge's.

    Args:
        table: What `run` returned.
        words: The words of an answer that tell of sounds, by sample, kind and question. Of answers
            without an entry no token counts: they are missing wherever such tokens are.

    Returns:
        All rows; `event` is the word that the token is part of.
    """
    parts = []
    for key, rows in cast(Any, table.groupby(list(KEYS), sort=False)):
        named = Events({word: (word,) for word in map(str.lower, words.get(key, ()))})
        parts.append(rows.assign(event=_events(rows["text"].tolist(), named)))
    made = pd.concat(parts)
    made.attrs = table.attrs
    return made


def _shares(table: pd.DataFrame) -> pd.DataFrame:
    """Percent of each sample's tokens in each class, and its mean divergence and rank."""
    rows = []
    for key, group in cast(Any, table.groupby(list(KEYS), sort=False)):
        for tokens, part in (("all", group), ("events", group.query("event != ''"))):
            known = dict(zip(KEYS, key, strict=True)) | dict(tokens=tokens)
            for shift in SHIFTS:
                share = 100 * float((part["shift"] == shift).mean()) if len(part) else float("nan")
                rows.append({**known, "measure": shift, "value": share})
            for measure in ("kl_base_model", "base_rank"):
                rows.append({**known, "measure": measure, "value": part[measure].mean()})
    return pd.DataFrame(rows)


def plot(table: pd.DataFrame) -> Figure:
    """Unshifted, marginal and shifted tokens: all, and those that name sound events; divergence.

    Means over samples, with their confidence band; the paper's numbers stand beside, paler.
    """
    bands = mean_band(_shares(table), "value", by=["kind", "question", "tokens", "measure"])
    figure = Figure(figsize=(13, 3.8), layout="constrained")
    left, middle, right = figure.subplots(1, 3)
    left.set_title("all tokens")
    _bars(left, bands.query("tokens == 'all'"), {})
    middle.set_title("tokens that name sound events")
    theirs = {shift: _published(f"audio_tokens_{shift}") for shift in SHIFTS}
    _bars(middle, bands.query("tokens == 'events'"), theirs)
    figure.legend(*middle.get_legend_handles_labels(), loc="outside lower center", ncols=3)
    right.set(title="divergence, all tokens", ylabel="KL(base || model), nats")
    _divergences(right, bands.query("tokens == 'all' and measure == 'kl_base_model'"))
    for axes in (left, middle, right):
        axes.spines[["top", "right"]].set_visible(False)
    return figure


def _bars(axes: Axes, bands: pd.DataFrame, theirs: Mapping[str, float]) -> None:
    axes.set(ylabel="tokens, %", ylim=(0, 100))
    ticks = []
    groups: Any = bands.groupby(["kind", "question"], sort=False)
    for x, ((kind, question), group) in enumerate(groups):
        below = 0.0
        for shift in SHIFTS:
            point = group[group["measure"] == shift].iloc[0]
            label = shift if x == 0 else None
            axes.bar(x, point["mean"], bottom=below, color=_COLORS[shift], label=label)
            axes.vlines(x, below + point["low"], below + point["high"], color="black", lw=1)
            below += point["mean"]
        ticks.append(f"{kind},\n{question}\n({counted(group)})")
    if theirs:
        below = 0.0
        for shift, share in theirs.items():
            axes.bar(len(ticks), share, bottom=below, color=_COLORS[shift], alpha=0.35)
            below += share
        ticks.append("published,\nQwen2.5-Omni-3B")
    axes.set_xticks(range(len(ticks)), ticks, fontsize="small")


def _divergences(axes: Axes, bands: pd.DataFrame) -> None:
    ticks = []
    for x, point in enumerate(bands.to_dict("records")):
        axes.bar(x, point["mean"], color="tab:gray")
        axes.vlines(x, point["low"], point["high"], color="black", lw=1)
        ticks.append(f"{point['kind']},\n{point['question']}\n(n = {point['n']})")
    axes.bar(len(ticks), _published("kl_divergence"), color="tab:gray", alpha=0.35)
    axes.set_xticks(
        range(len(ticks) + 1), [*ticks, "published,\nQwen2.5-Omni-3B"], fontsize="small"
    )


def _published(quantity: str) -> float:
    scalars = published("scalars").set_index(["model", "quantity"])
    return float(cast(Any, scalars.at[(_PAIR, quantity), "value"]))


def headline(table: pd.DataFrame) -> list[str]:
    """How much of what is said of sounds the base would have said too, by kind and question."""
    bands = mean_band(_shares(table), "value", by=["kind", "question", "tokens", "measure"])
    lines = []
    for (kind, question), group in cast(Any, bands.groupby(["kind", "question"], sort=False)):
        point = {(p["tokens"], p["measure"]): p for p in group.to_dict("records")}
        same = "kind == @kind and question == @question and event != ''"
        ranks = table.query(same)["base_rank"]
        divergence = in_words(point["all", "kl_base_model"], "nats", 3)
        title = f"{kind}, {question}: KL(base || model) is {divergence} over all tokens"
        if not len(ranks):
            lines.append(f"{title}; no answer names a sound event.")
            continue
        shifts = ", ".join(f"{in_words(point['events', shift])} {shift}" for shift in SHIFTS)
        lines.append(
            f"{title}; of those that name sound events, {shifts}; their median rank in the base is "
            f"{ranks.median():g}."
        )
    theirs = ", ".join(f"{_published(f'audio_tokens_{s}')} % {s}" for s in SHIFTS)
    return [*lines, f"Published for Qwen2.5-Omni-3B: {theirs}, KL {_published('kl_divergence')}."]
