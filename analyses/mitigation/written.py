"""How is a mitigation written?

    last+generated !-> V @ 3-5                      a knockout
    last+generated x4-> A @ 3-5                     attention times 4, rows renormalized
    steer sound - silence x2 @ 4                    a fitted vector, on generated positions
    contrast; 1; 8 last+generated x4-> A @ 3-5      terms, the first is plain
    contrast; 2; -1 last+generated !-> A; plausible=0.1; entropy=0.6
    contrastive audio a=4 plausible=0.1             decoders.py; guidance audio scale=3,
    avcd a=0.5                                      vcd a=1, silence a=1 of another clip

`&` joins interventions.
"""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from hooked_omni import EmbeddedPrompt, knockout, scale_attention, steer
from hooked_omni.decoding import decoders
from hooked_omni.decoding.contrast import Contrast, Term
from hooked_omni.errors import HookError, PromptError, ResultsError
from hooked_omni.hooks.attention_edits import read_rule
from hooked_omni.hooks.types import Intervention

Vectors = Mapping[str, Tensor]
"""By name, a direction for each layer, `[layer, d_model]`."""

Other = Callable[[str], EmbeddedPrompt]
"""From "noise" or "silence" to the case's clip with it."""

_SCALE, _LAYERS = re.compile(r"\sx([\d.]+)->"), re.compile(r"@\s*([\d,\s-]+\d)")
_STEER = re.compile(r"steer (random )?(.+?) x(-?[\d.]+) @ (\d+)")
_DECODERS: Mapping[str, tuple[Callable[..., Contrast], str | None]] = {
    "contrastive": (lambda span, **more: decoders.contrastive(decoders.without(span), **more), ""),
    "guidance": (decoders.guidance, ""),
    "avcd": (decoders.avcd, None),
    "vcd": (decoders.distorted, "noise"),
    "silence": (decoders.distorted, "silence"),
}
"""The function, and what it needs first: a span (""), another clip, or nothing."""


@dataclass(frozen=True, eq=False)
class Mitigation:
    """Interventions alone, or a contrast, which may need other clips."""

    text: str
    condition: tuple[Intervention, ...] = ()
    contrast: Callable[[Other], Contrast] | None = None


def read(text: str, vectors: Vectors) -> Mitigation:
    """A mitigation from its written form; a `ResultsError` for what cannot be read."""
    name = (text.split() or [""])[0]
    try:
        if text.partition(";")[0].strip() == "contrast":
            how = _contrast(text, vectors)
            return Mitigation(text, contrast=lambda _: how)
        if name in _DECODERS:
            return Mitigation(text, contrast=_named(text))
        return Mitigation(text, tuple(_intervention(one, vectors) for one in text.split("&")))
    except (HookError, PromptError, TypeError, ValueError) as error:
        raise ResultsError(
            f"expected a mitigation such as 'last+generated !-> V @ 3-5', 'steer NAME x2 @ 4' or "
            f"'contrastive audio a=1', got {text!r}: {error} Look at written.py."
        ) from error


def _contrast(text: str, vectors: Vectors) -> Contrast:
    terms, gates = list[Term](), dict[str, float]()
    for part in (one.strip() for one in text.split(";")[1:]):
        name, equals, value = part.partition("=")
        if equals:
            gates[{"entropy": "least_entropy"}.get(name, name)] = float(value)
            continue
        weight, _, rules = part.partition(" ")
        own = [_intervention(one, vectors) for one in rules.split("&")] if rules else []
        terms.append(Term(float(weight), own))
    return Contrast(tuple(terms), **gates)


def _named(text: str) -> Callable[[Other], Contrast]:
    name, *words = text.split()
    make, needs = _DECODERS[name]
    spans = [word for word in words if "=" not in word]
    if len(spans) != (needs == ""):
        raise ValueError(f"{name} takes {1 if needs == '' else 'no'} span, got {spans}.")
    given = (word.split("=") for word in words if "=" in word)
    names = {"entropy": "least_entropy"}
    more: dict[str, Any] = {names.get(key, key): float(value) for key, value in given}
    # Wrong numbers are refused at once, though another clip is not there yet.
    decoders.contrastive((), **more) if needs else make(*spans, **more)
    return lambda other: make(*([other(needs)] if needs else spans), **more)


def _intervention(rule: str, vectors: Vectors) -> Intervention:
    if found := _STEER.fullmatch(rule.strip()):
        random, name, scale, layer = found.groups()
        if name not in vectors or int(layer) >= len(vectors[name]):
            shapes = {own: len(vector) for own, vector in vectors.items()}
            raise ValueError(f"the vectors, with their layers, are {shapes}.")
        own = vectors[name][int(layer)]
        vector = random_direction(own, int(layer)) if random else own
        return steer(vector, span="generated", layers=[int(layer)], scale=float(scale))
    if found := _SCALE.search(rule):
        query, key, layers, heads = read_rule(_SCALE.sub(" !->", rule))
        factor = float(found[1])
        return scale_attention(query=query, key=key, factor=factor, layers=layers, heads=heads)
    return knockout(rule)


def random_direction(like: Tensor, seed: int) -> Tensor:
    """A direction of the same norm."""
    drawn = torch.randn(like.shape, generator=torch.Generator().manual_seed(seed)).to(like)
    return drawn * like.norm() / drawn.norm()


def counterpart(text: str, n_layers: int) -> str | None:
    """The same, at random: a direction of the same norm, or as many other layers.

    None where nothing of it can be drawn: of all layers, or of too many. Equal texts have equal
    ones.
    """
    if _STEER.search(text):
        return None if "steer random" in text else text.replace("steer ", "steer random ")
    rng, drawn = np.random.default_rng(0), list[bool]()

    def others(found: re.Match[str]) -> str:
        own = read_rule(f"G !-> V @ {found[1]}")[2] or []
        left = [layer for layer in range(n_layers) if layer not in own]
        drawn.append(len(left) >= len(own))
        chosen = rng.choice(left, len(own), replace=False) if drawn[-1] else own
        return "@ " + ",".join(str(layer) for layer in sorted(chosen))

    made = _LAYERS.sub(others, text)
    return made if drawn and all(drawn) else None
