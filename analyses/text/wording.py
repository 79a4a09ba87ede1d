"""In which words, and in which order, is a clip asked about?"""

from collections.abc import Mapping
from typing import Literal, get_args

from hooked_omni.errors import ResultsError

QUESTIONS: Mapping[str, str] = {
    "see": "Describe what you see.",
    "hear": "Describe what you hear.",
    "both": "Describe what you see and hear.",
}
"""The paper's three questions (section 4)."""

TEMPLATES: Mapping[str, str] = {"which": "Which do you hear: {} or {}?", "which answer": "{}"}
"""Frozen, as answers are compared across models: the question `which`, and an answer to it.

Other words are for models of few words, whose numbers stand alone.
"""

OWN = "own"
"""The question of a sample with words of its own, and of a clip with the user's."""

_ORDERS = Literal["text-first", "clip-first"]
Order = _ORDERS | None


def worded(wording: Mapping[str, str]) -> dict[str, str]:
    """`QUESTIONS` and `TEMPLATES` in other words.

    A `ResultsError` for those of an unknown question, and without the places of a template.
    """
    frozen = {**QUESTIONS, **TEMPLATES}
    if unknown := sorted(wording.keys() - frozen.keys()):
        raise ResultsError(
            f"expected words for questions among {sorted(frozen)}, got some for {unknown}. Name "
            "the question, as in hear='What sounds?'."
        )
    for name in TEMPLATES.keys() & wording.keys():
        n, text = TEMPLATES[name].count("{}"), wording[name]
        if not text.count("{}") == text.count("{") == text.count("}") == n:
            raise ResultsError(
                f"expected words for {name!r} with {n} {{}}, where events are named, got {text!r}. "
                f"Write them as in {TEMPLATES[name]!r}."
            )
    return {**frozen, **wording}


def known_order(order: str | None) -> None:
    """Refuse, as a `ResultsError`, another order than those of `Order`."""
    if order not in (None, *get_args(_ORDERS)):
        raise ResultsError(f"expected an order among {get_args(_ORDERS)}, got {order!r}.")
