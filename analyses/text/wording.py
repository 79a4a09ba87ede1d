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

OWN = "own"
"""The question of a sample with words of its own, and of a clip with the user's."""

_ORDERS = Literal["text-first", "clip-first"]
Order = _ORDERS | None


def worded(wording: Mapping[str, str]) -> dict[str, str]:
    """`QUESTIONS` in other words; a `ResultsError` for the words of an unknown question."""
    if unknown := sorted(wording.keys() - QUESTIONS.keys()):
        raise ResultsError(
            f"expected words for questions among {sorted(QUESTIONS)}, got some for {unknown}. Name "
            "the question, as in hear='What sounds?'."
        )
    return {**QUESTIONS, **wording}


def known_order(order: str | None) -> None:
    """Refuse, as a `ResultsError`, another order than those of `Order`."""
    if order not in (None, *get_args(_ORDERS)):
        raise ResultsError(f"expected an order among {get_args(_ORDERS)}, got {order!r}.")
