"""How much of an answer rests on what is heard, and how much on what is seen?

The model answers once. Then the sound is muted, or shifted against the picture, the picture is
blanked, or either is exchanged for another clip's, and the same answer is scored again, word by
word (teacher forcing): the log-probability that it loses is what rested on what was taken away. All
variants take the same tokens at the same positions. This is the cheapest first look at a new model:
no caption is judged, and nothing inside the model is touched. Not in arXiv 2604.02605.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import pandas as pd
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor

from analyses.cases import KEYS, Asked, Case, Skip, door, plain_answer, tabulate
from analyses.modality_reliance import variants
from analyses.plots.statistics import in_words, mean_band, paired_permutation
from analyses.text.pieces import pieces
from hooked_omni import EmbeddedPrompt, Generation, HookedOmni, Prompt
from hooked_omni.decoding.prefill import prefill
from hooked_omni.errors import MediaError, ResultsError

__all__ = ["COLUMNS", "MODALITIES", "Config", "headline", "plot", "run"]

COLUMNS = (
    *("variant", "modality", "token", "token_text", "logprob", "change"),
    *("n_tokens", "answer"),
)
MODALITIES: Mapping[str, str] = {
    "intact": "none",
    "mute": "audio",
    "shift": "audio",
    "swap sound": "audio",
    "blank": "video",
    "swap picture": "video",
    "mute and blank": "both",
}
"""Each variant, and which modality it takes away."""

_COLORS = {"audio": "tab:orange", "video": "tab:blue", "both": "tab:gray"}


@dataclass(frozen=True)
class Config:
    """Which variants to score, and how.

    Attributes:
        variants: Names in `MODALITIES`; each costs a pass over the prompt.
        swap_with: A clip with picture and sound; then "swap sound" and "swap picture" are scored.
        shift_seconds: By how much the sound is moved, its end to the front; None for half of it.
        blank: Frames are "black", or of the "mean" color of their clip.
        max_new_tokens: Longest answer, in tokens.
        tokens: Rows for each token of the answer, in place of their sum.
    """

    variants: tuple[str, ...] = ("mute", "blank")
    swap_with: str | None = None
    shift_seconds: float | None = None
    blank: Literal["black", "mean"] = "black"
    max_new_tokens: int = 50
    tokens: bool = False

    def __post_init__(self) -> None:
        swaps = ("swap sound", "swap picture")
        known = [v for v in MODALITIES if v != "intact" and v not in swaps]
        if set(self.variants) - set(known) or not (self.variants or self.swap_with):
            raise ResultsError(
                f"expected variants among {known}, got {self.variants!r}. For swaps, give the "
                "other clip as `swap_with`."
            )
        if self.blank not in ("black", "mean") or self.max_new_tokens < 1:
            raise ResultsError(
                f"expected blank 'black' or 'mean' and at least 1 new token, got {self.blank!r} "
                f"and {self.max_new_tokens}."
            )


def run(omni: HookedOmni, cases: Asked, config: Config = Config()) -> pd.DataFrame:
    """Log-probability of the answer to the intact clip, under every variant of the clip.

    Args:
        omni: The model.
        cases: Who is asked what; as `Prompt`s, since the towers must see the variants.
        config: Which variants.

    Returns:
        One row per case and variant, "intact" first, and per token if asked for, with the columns

        * `sample`, `kind`, `question`: the case.
        * `variant`, and `modality`: what it takes away, "audio", "video", "both" or "none".
        * `token`, counted from 0, and `token_text`; missing for the whole answer.
        * `logprob`: of the answer, or of the token, in nats.
        * `change`: that, minus the same for the intact clip; negative where the answer rested on
          what was taken away.
        * `n_tokens`: of the answer. `answer`.

        A clip without sound has no rows for variants of the sound, and one without a picture none
        for those of the picture; one with neither is skipped, as are prompts at the decoder's door.
    """
    edits = _edits(omni, config)

    def rows_of(case: Case) -> Iterator[dict[str, Any]]:
        yield from _rows(omni, case, config, edits)

    return tabulate(rows_of, cases, COLUMNS).astype({"token": "Int64"})


def _edits(omni: HookedOmni, config: Config) -> dict[str, Any]:
    mute, blank = variants.mute(), variants.blank(config.blank)
    every: dict[str, Any] = {
        "mute": mute,
        "shift": variants.shift(config.shift_seconds),
        "blank": blank,
        "mute and blank": lambda shown: blank(mute(shown)),
    }
    chosen = {name: every[name] for name in config.variants}
    if config.swap_with is not None:
        chosen["swap sound"] = variants.other_sound(config.swap_with, omni.media)
        chosen["swap picture"] = variants.other_picture(config.swap_with, omni.media)
    return chosen


def _rows(
    omni: HookedOmni, case: Case, config: Config, edits: Mapping[str, Any]
) -> Iterator[dict[str, Any]]:
    prompt = case.prompt
    if not isinstance(prompt, Prompt):
        raise Skip("expected a Prompt, whose clip can be changed, got one at the decoder's door.")
    intact = prefill(omni.model, door(omni, case))
    try:
        shown = omni.read_media(prompt)
    except MediaError as error:
        raise Skip(str(error)) from error
    has = {"video": shown[0] is not None, "audio": shown[1] is not None}
    has["both"] = all(has.values())
    possible = [name for name in edits if has[MODALITIES[name]]]
    if not possible:
        raise Skip(f"expected a clip that {' or '.join(edits)} would change, got {prompt}.")
    answer = plain_answer(omni, case, intact, config.max_new_tokens)
    before = _scored(omni, intact, answer)
    yield from _measures("intact", before, before, answer, _texts(omni, answer, config))
    for name in possible:
        other = omni.embed_media(prompt, *edits[name](shown))
        _require_same_positions(name, other, intact)
        after = _scored(omni, prefill(omni.model, other, like=intact), answer)
        yield from _measures(name, after, before, answer, _texts(omni, answer, config))


def _scored(omni: HookedOmni, prompt: EmbeddedPrompt, answer: Generation) -> Tensor:
    return omni.model.score(prompt, answer.tokens, [[]])[0].double().cpu()


def _require_same_positions(name: str, other: EmbeddedPrompt, intact: EmbeddedPrompt) -> None:
    same = torch.equal(other.tokens, intact.tokens)
    if not (same and torch.equal(other.position_ids, intact.position_ids)):
        raise Skip(
            f"expected the same {intact.n_pos} positions under {name!r}, got {other.n_pos}, or "
            "others: what changes would not be due to the clip alone."
        )


def _texts(omni: HookedOmni, answer: Generation, config: Config) -> list[str] | None:
    if not config.tokens:
        return None
    tokens = answer.tokens.tolist()
    tokenizer = omni.model.tokenizer
    return [str(t) for t in tokens] if tokenizer is None else pieces(tokenizer, tokens)


def _measures(
    name: str, after: Tensor, before: Tensor, answer: Generation, texts: list[str] | None
) -> Iterator[dict[str, Any]]:
    own = dict(variant=name, modality=MODALITIES[name], n_tokens=len(after), answer=answer.text)
    if texts is None:
        total, change = float(after.sum()), float((after - before).sum())
        yield own | dict(token=None, token_text=None, logprob=total, change=change)
        return
    for i, text in enumerate(texts):
        change = float(after[i] - before[i])
        yield own | dict(token=i, token_text=text, logprob=float(after[i]), change=change)


def plot(table: pd.DataFrame) -> Figure:
    """Mean change per variant in nats a token, with 95 % bands and every sample as a dot.

    One panel for each kind and question.

    Raises:
        ResultsError: For a table without rows.
    """
    changes = _per_token(table)
    groups = list(changes.groupby(["kind", "question"], sort=False))
    figure = Figure(figsize=(max(6.4, 4.8 * len(groups)), 3.6), layout="constrained")
    panels = figure.subplots(1, len(groups), sharey=True, squeeze=False)[0]
    for axes, (keys, group) in zip(panels, groups, strict=True):
        _panel(axes, group)
        axes.set_title(", ".join(map(str, keys)))
    panels[0].set_ylabel("change in log p of the answer,\nnats a token")
    return figure


def _panel(axes: Axes, changes: Any) -> None:
    order = [name for name in MODALITIES if name in set(changes["variant"])]
    bands = mean_band(changes, "change", by=["variant"]).set_index("variant")
    labels = []
    for x, name in enumerate(order):
        band: Any = bands.loc[name]
        color = _COLORS[MODALITIES[name]]
        own = changes[changes["variant"] == name]["change"]
        axes.bar(x, band["mean"], color=color, alpha=0.5, width=0.6)
        axes.vlines(x, band["low"], band["high"], color=color, linewidth=2)
        axes.scatter([x] * len(own), own, color=color, s=8, alpha=0.6)
        missing = f",\n{int(band['missing'])} missing" if band["missing"] else ""
        labels.append(f"{name}\nn = {int(band['n'])}{missing}")
    axes.axhline(0, color="black", linewidth=1)
    axes.set_xticks(range(len(order)), labels)
    axes.spines[["top", "right"]].set_visible(False)


def headline(table: pd.DataFrame) -> list[str]:
    """What each variant costs the answer, and whether sound or picture costs more.

    Raises:
        ResultsError: For a table without rows.
    """
    said = []
    for keys, group in _per_token(table).groupby(["kind", "question"], sort=False):
        where = ", ".join(map(str, keys))
        bands = mean_band(group, "change", by=["variant"])
        for _, band in bands.iterrows():
            changed = in_words(band, "nats a token", 3)
            said.append(f"{where}: {band['variant']} changes log p of the answer by {changed}.")
        heard, seen = (group[group["variant"] == name] for name in ("mute", "blank"))
        if set(heard["sample"]) & set(seen["sample"]):
            test = paired_permutation(seen, heard, "change", by=["kind"], correction="none").iloc[0]
            more = "picture" if test["difference"] < 0 else "sound"
            told = "rests" if test["p"] < 0.05 else "seems to rest, within chance,"
            said.append(
                f"{where}: the answer {told} more on the {more}, by {abs(test['difference']):.3f} "
                f"nats a token (p = {test['p']:.2g}, n = {int(test['n'])})."
            )
    return said


def _per_token(table: pd.DataFrame) -> Any:
    """Change of each answer in nats a token, by case and variant; the intact clip left out."""
    rows = table[table["variant"] != "intact"]
    if rows.empty:
        raise ResultsError("expected rows, got none. Look at `table.attrs['skipped']`.")
    grouped = rows.groupby([*KEYS, "variant"], sort=False, as_index=False)
    answers = grouped.agg(change=("change", "sum"), n_tokens=("n_tokens", "first"))
    return answers.assign(change=answers["change"] / answers["n_tokens"])
