"""What is the text of a token, and which tokens do two models share?"""

import re
from functools import lru_cache
from typing import Any, NamedTuple

import torch
from jaxtyping import Int
from torch import Tensor
from transformers.convert_slow_tokenizer import bytes_to_unicode

from hooked_omni import HookedTransformer
from hooked_omni.errors import ResultsError


class SharedVocabulary(NamedTuple):
    """Tokens that two models both have: their ids in the first and the second, in one order."""

    first: Int[Tensor, " token"]
    second: Int[Tensor, " token"]


def tokenizer_of(model: HookedTransformer) -> Any:
    """The model's tokenizer; a `ResultsError` if it has none."""
    if model.tokenizer is None:
        raise ResultsError(
            f"expected a tokenizer for {model.cfg.model_name}, got none: its tokens could not be "
            "read. Pass `processor=` to `from_hf`."
        )
    return model.tokenizer


def text_of(tokenizer: Any, token: int) -> str:
    """The text of a token; bytes that are only a piece of a character as "<0xE8><0xAD>"."""
    piece = tokenizer.convert_ids_to_tokens(token) if token < len(tokenizer) else None
    if piece is None:
        return f"<no token {token}>"
    text = tokenizer.decode([token])
    if text and "\ufffd" not in text:
        return text
    byte_of = {symbol: byte for byte, symbol in bytes_to_unicode().items()}
    if text and all(symbol in byte_of for symbol in piece):
        return "".join(f"<0x{byte_of[symbol]:02X}>" for symbol in piece)
    return str(piece)


def first_tokens(tokenizer: Any, word: str) -> dict[int, bool]:
    """First token of each spelling of a word, and whether it is the whole word.

    Spellings are with a space before it and without, as given and with a capital. If one of them is
    a single token, only such count; a word that has none is known by its first token alone:
    " ambul" stands for "ambulance", and for "ambulate".
    """
    spelled = [word, word[:1].upper() + word[1:]]
    unknown = getattr(tokenizer, "unk_token_id", None)
    found: dict[int, bool] = {}
    for spelling in (space + form for form in dict.fromkeys(spelled) for space in (" ", "")):
        tokens = tokenizer.encode(spelling, add_special_tokens=False)
        if tokens and tokens[0] != unknown and text_of(tokenizer, tokens[0]).strip():
            found[tokens[0]] = found.get(tokens[0], False) or len(tokens) == 1
    return {token: True for token, whole in found.items() if whole} or found


def shared_vocabulary(first: HookedTransformer, second: HookedTransformer) -> SharedVocabulary:
    """Tokens that both models have, paired by their text, not by their numbers.

    Markup (placeholders, turns) that only one of them has is left out, and so are rows of the
    unembedding that stand for no token. A word of one vocabulary alone is a `ResultsError`.
    """
    tokenizers = tokenizer_of(first), tokenizer_of(second)
    sizes = tuple((len(t), m.cfg.d_vocab) for t, m in zip(tokenizers, (first, second), strict=True))
    return _shared(*tokenizers, *sizes)


@lru_cache(maxsize=4)
def _shared(
    first: Any, second: Any, size_first: tuple[int, int], size_second: tuple[int, int]
) -> SharedVocabulary:
    ids = first.get_vocab(), second.get_vocab()
    markup = _markup(first) | _markup(second)
    words = [sorted((i, piece) for piece, i in v.items() if piece not in markup) for v in ids]
    for here, there in ((0, 1), (1, 0)):
        for i, piece in words[here]:
            if piece not in ids[there]:
                names = ("the model's", "the base's")
                raise ResultsError(
                    f"expected two models with the same words, got {piece!r}, token {i} of "
                    f"{names[here]} {len(words[here])}, in no place of {names[there]} "
                    f"{len(words[there])}. Choose the base that this model was made from."
                )
    both = sorted(
        (i, ids[1][piece])
        for piece, i in ids[0].items()
        if piece in ids[1] and i < size_first[1] and ids[1][piece] < size_second[1]
    )
    pairs = torch.tensor(both, dtype=torch.long).reshape(-1, 2)
    return SharedVocabulary(pairs[:, 0].contiguous(), pairs[:, 1].contiguous())


def _markup(tokenizer: Any) -> set[str]:
    """Added tokens that are no words: special ones, and any in brackets, such as <tool_call>."""
    added = tokenizer.added_tokens_decoder.values()
    return {t.content for t in added if t.special or re.fullmatch(r"<.*>|\[.*\]", t.content)}
