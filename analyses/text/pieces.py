"""Which word does each token of an answer belong to?"""

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

_JOINING = "'\u2019-"


def pieces(tokenizer: Any, tokens: Sequence[int]) -> list[str]:
    """The text that each token adds; "" for one that is a part of a character.

    Tokenizers disagree on which token brings a space, so each is decoded after the others. Without
    a tokenizer: the tokens' numbers.
    """
    if tokenizer is None:
        return [str(token) for token in tokens]
    texts = [tokenizer.decode(tokens[:n]).rstrip("\ufffd") for n in range(len(tokens) + 1)]
    return [after[len(before) :] for before, after in pairwise(texts)]


def words(pieces: Sequence[str]) -> list[str]:
    """The whole word that each piece is part of; punctuation and special tokens stand alone.

    Example:
        >>> words(["A", " sir", "en", " wails", "."])
        ['A', 'siren', 'siren', 'wails', '.']
    """
    numbers, last = [0], ""
    for piece in pieces:
        goes_on = not piece or (_in_word(last[-1:]) and _in_word(piece[:1]))
        numbers.append(numbers[-1] + (not goes_on))
        last = piece or last
    whole: dict[int, str] = {}
    for number, piece in zip(numbers[1:], pieces, strict=True):
        whole[number] = whole.get(number, "") + piece
    return [whole[number].strip() for number in numbers[1:]]


def _in_word(character: str) -> bool:
    return character.isalnum() or (character in _JOINING and character != "")
