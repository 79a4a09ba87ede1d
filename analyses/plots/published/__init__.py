"""Numbers published in arXiv 2604.02605, to draw under our own curves.

Each is of a model (and its base), a question and a kind of clips ("all" for the whole set); what
the paper does not state is empty, and fits anything. Figures 4 and 6 were read off the published
plots (within half a percentage point); `scalars` is from the text.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

import pandas as pd

__all__ = ["number", "points", "title"]

_TITLES = {
    "qwen2.5-omni-3b": "Qwen2.5-Omni-3B",
    "minicpm-o-2_6": "MiniCPM-o 2.6",
    "videollama2.1-7b-av": "VideoLLaMA 2.1-AV",
    "internomni": "InternOmni",
}
_ORDERS = {"qwen2.5-omni-3b": "text-first"}  # the others' own code puts the clip first


def points(name: str, of: Mapping[Any, Any], question: str, kind: str) -> pd.DataFrame:
    """The rows of a published table that are of this model, question and kind; none for others.

    Args:
        name: The table: its file name without the ending.
        of: `table.attrs`: "model", and "base" where one is compared with. The last part of a
            checkpoint's name counts, such as "Qwen2.5-Omni-3B". "judge": a language model, or no
            score of the paper's fits. "order": another than the paper's fits nothing; "embedded",
            where it is not known, fits.
        question: As in our tables, such as "hear".
        kind: As in our tables, or "all" for factual and counterfactual clips together.
    """
    published = pd.read_csv(Path(__file__).with_name(f"{name}.csv"))
    fits = published["model"] == _short(of.get("model"))
    for column, own in (("question", question), ("kind", kind)):
        fits &= published[column].isna() | (published[column] == own)
    if "base" in published:
        base = _short(of.get("base"))
        fits &= published["base"].map(lambda b: pd.isna(b) or base.startswith(str(b)))
    asked = _ORDERS.get(_short(of.get("model")), "embedded")
    fits &= {asked, of.get("order", "embedded")} <= {asked, "embedded"}
    if "judge" in published and "model" not in of.get("judge", {"model": ""}):
        fits &= published["judge"].isna()
    return cast(pd.DataFrame, published[fits]).reset_index(drop=True)


def number(quantity: str, of: Mapping[Any, Any], question: str, kind: str) -> float | None:
    """One number of `scalars.csv`, in the unit that stands there; None if the paper has none."""
    own: Any = points("scalars", of, question, kind).query("quantity == @quantity")
    return None if own.empty else float(own["value"].iloc[0])


def title(of: Mapping[Any, Any]) -> str:
    """The paper's name of a model, for legends: "published, Qwen2.5-Omni-3B"."""
    return f"published, {_TITLES.get(_short(of.get('model')), 'another model')}"


def _short(name: Any) -> str:
    return str(name or "").rstrip("/").rpartition("/")[2].lower()
