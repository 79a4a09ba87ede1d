"""How is a processor called for each of a prompt's media alone, with the text around it?

So every video keeps its own frame rate, and no sound is padded to the length of another.
"""

import re
from collections.abc import Callable
from itertools import pairwise
from typing import Any, NamedTuple

import torch
from torch import Tensor

from hooked_omni.errors import PromptError
from hooked_omni.families.family import Read
from hooked_omni.inputs.audio import Audio
from hooked_omni.inputs.image import Image
from hooked_omni.inputs.prompt import Prompt
from hooked_omni.inputs.video import Video

_KINDS = ("image", "video", "audio")
_ALONG_POSITIONS = ("input_ids", "attention_mask", "mm_token_type_ids")
_ALONG_TIME = ("input_features", "feature_attention_mask")


class Medium(NamedTuple):
    """An image, video or sound of a prompt, and the sound inside a video."""

    kind: str
    read: Image | Video | Audio
    inside: Audio | None = None


def media_of(prompt: Prompt, read: Read, hears: bool = True) -> list[Medium]:
    """What was read, by item; `hears` as in `Prompt.sources`."""
    found, rest = list[Medium](), iter(read)
    for source, one in zip(prompt.sources(hears), rest, strict=True):
        if source.inside and isinstance(one, Audio):
            found[-1] = found[-1]._replace(inside=one)
        else:
            found.append(Medium(source.kind, one))
    return found


def one_by_one(
    processor: Any,
    text: str,
    media: list[Medium],
    arguments: Callable[[Medium], dict[str, Any]],
) -> dict[str, Any]:
    """The processor's output for a text with placeholders, called for each medium by itself.

    `arguments` makes those of the processor, from a medium.

    Raises:
        PromptError: If the template did not write the media in the order of the prompt.
    """
    if not media:
        return dict(processor(text=text, return_tensors="pt"))
    made = []
    for part, medium in zip(_parts(processor, text, media), media, strict=True):
        later = {"add_special_tokens": False} if made else {}  # a text begins once
        made.append(dict(processor(text=part, **arguments(medium), **later, return_tensors="pt")))
    return made[0] if len(made) == 1 else _joined(made)


def _parts(processor: Any, text: str, media: list[Medium]) -> list[str]:
    """The text, cut in front of the brackets of each medium but the first.

    Special tokens stand there, where text can be cut and tokenized in parts.
    """
    if len(media) == 1:
        return [text]
    kinds = {getattr(processor, f"{kind}_token", None): kind for kind in _KINDS}
    pattern = "|".join(re.escape(token) for token in kinds if token)
    found = list(re.finditer(pattern, text))
    if (order := [kinds[one[0]] for one in found]) != [medium.kind for medium in media]:
        raise PromptError(
            f"expected a chat template that writes {[medium.kind for medium in media]} in this "
            f"order, got {order}. Give the media in an order that this model was made for."
        )
    special, cuts = {*processor.tokenizer.get_added_vocab()} | set(kinds), [0]
    for before, one in pairwise(found):
        between = text[before.end() : one.start()]
        opening = [len(token) for token in special if token and between.endswith(token)]
        cuts.append(one.start() - max(opening, default=0))
    return [text[start:end] for start, end in zip(cuts, [*cuts[1:], None], strict=True)]


def _joined(made: list[dict[str, Any]]) -> dict[str, Any]:
    """One output of many, in order."""
    joined = {}
    for name in dict.fromkeys(name for one in made for name in one):
        rows = [one[name] for one in made if one.get(name) is not None]
        if name in _ALONG_POSITIONS:
            joined[name] = torch.cat(rows, dim=1)
            continue
        if name in _ALONG_TIME:
            longest = max(row.shape[-1] for row in rows)
            rows = [torch.nn.functional.pad(row, (0, longest - row.shape[-1])) for row in rows]
        whole = all(isinstance(row, Tensor) for row in rows)
        joined[name] = torch.cat(rows) if whole else [one for row in rows for one in row]
    return joined
