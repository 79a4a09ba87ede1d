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
    return [text for start, end, text in word_ranges(pieces) for _ in range(start, end)]


def word_ranges(pieces: Sequence[str]) -> list[tuple[int, int, str]]:
    """First piece, the one after the last, and text of every whole word, as `words` has it."""
    starts, last = list[int](), ""
    for i, piece in enumerate(pieces):
        if not starts or (piece and not (_in_word(last[-1:]) and _in_word(piece[:1]))):
            starts.append(i)
        last = piece or last
    ends = [*starts[1:], len(pieces)]
    ranges = zip(starts, ends, strict=True) if starts else ()
    return [(start, end, "".join(pieces[start:end]).strip()) for start, end in ranges]


def _in_word(character: str) -> bool:
    return character.isalnum() or (character in _JOINING and character != "")
