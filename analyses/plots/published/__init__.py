"""Numbers published in arXiv 2604.02605, to draw under our own curves.

Each is of a checkpoint (and its base), a question and a kind of clips ("all" for the whole set);
what the paper does not state is empty, and fits anything. Figures 4 and 6 were read off the
published plots (within half a percentage point); `scalars` is from the text.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

import pandas as pd

__all__ = ["note", "number", "points", "title"]

_TITLES = {
    "Qwen/Qwen2.5-Omni-3B": "Qwen2.5-Omni-3B",
    "openbmb/MiniCPM-o-2_6": "MiniCPM-o 2.6",
    "DAMO-NLP-SG/VideoLLaMA2.1-7B-AV": "VideoLLaMA 2.1-AV",
    "OpenGVLab/InternOmni": "InternOmni",
}
_ORDERS = {"Qwen/Qwen2.5-Omni-3B": "text-first"}  # the others' own code puts the clip first


def points(name: str, of: Mapping[Any, Any], question: str, kind: str) -> pd.DataFrame:
    """The rows of a published table that are of this model, question and kind; none for others.

    Args:
        name: The table: its file name without the ending.
        of: `table.attrs`: "model", and "base" where one is compared with, by the whole name on the
            hub, or a folder that ends so ("/data/Qwen/Qwen2.5-Omni-3B"): another owner's is another
            model. "judge": a language model, or no score of the paper's fits. "order":
            another than the paper's fits nothing; "embedded", where it is not known, fits.
        question: As in our tables, such as "hear".
        kind: As in our tables, or "all" for factual and counterfactual clips together.
    """
    published = pd.read_csv(Path(__file__).with_name(f"{name}.csv"))
    fits = published["model"].map(lambda known: _is(of.get("model"), known))
    for column, own in (("question", question), ("kind", kind)):
        fits &= published[column].isna() | (published[column] == own)
    if "base" in published:
        fits &= published["base"].map(lambda known: pd.isna(known) or _is(of.get("base"), known))
    orders = (order for known, order in _ORDERS.items() if _is(of.get("model"), known))
    own = next(orders, "embedded")
    fits &= {own, of.get("order", "embedded")} <= {own, "embedded"}
    if "judge" in published and "model" not in of.get("judge", {"model": ""}):
        fits &= published["judge"].isna()
    return cast(pd.DataFrame, published[fits]).reset_index(drop=True)


def number(quantity: str, of: Mapping[Any, Any], question: str, kind: str) -> float | None:
    """One number of `scalars.csv`, in the unit that stands there; None if the paper has none."""
    own: Any = points("scalars", of, question, kind).query("quantity == @quantity")
    return None if own.empty else float(own["value"].iloc[0])


def title(of: Mapping[Any, Any]) -> str:
    """The paper's name of a model, for legends: "published, Qwen2.5-Omni-3B"."""
    known = (title for name, title in _TITLES.items() if _is(of.get("model"), name))
    return f"published, {next(known, 'another model')}"


def note(model: str) -> str | None:
    """Why no number is of a model whose last name alone is a published one's; None for others."""
    like = [name for name in _TITLES if _is(model, name.rpartition("/")[2])]
    if not like or _is(model, like[0]):
        return None
    return (
        f"published numbers are of {like[0]}, and none stands beside those of {model!r}, which may "
        f"be another model of that name. If it is the same, name its folder so"
    )


def _is(name: Any, known: str) -> bool:
    """Whether a name, of a hub or a path, ends in all parts of a known one."""
    parts = known.lower().split("/")
    return str(name or "").lower().rstrip("/").split("/")[-len(parts) :] == parts
