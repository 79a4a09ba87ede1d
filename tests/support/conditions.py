"""Conditions of every kind for a sweep, some of hooks that a user might write."""

import random
from collections.abc import Callable
from functools import partial
from typing import Any

from torch import Tensor

from hooked_omni import (
    EmbeddedPrompt,
    ablate,
    knockout,
    names,
    patch,
    scale_attention,
    steer,
    windows,
)
from tests.support.models import look
from tests.support.runs import noise


def halving(tensor: Tensor, hook: Any) -> None:
    """Edits the newest position in place."""
    tensor[:, -1] *= 0.5


def turned(tensor: Tensor, hook: Any) -> Tensor:
    """Returns a new tensor of another layout in memory."""
    return tensor.transpose(-1, -2).contiguous().transpose(-1, -2).roll(1, dims=-1) * 0.9


def other_heads(pattern: Tensor, hook: Any) -> Tensor:
    """Gives each head the next one's attention, and needs TransformerLens's shape for it."""
    assert pattern.shape[:2] == (1, 4) and pattern.ndim == 4
    return pattern.roll(1, dims=1)


def dimming(scores: Tensor, hook: Any) -> None:
    scores[:, 1, :, 10:30] -= 2.0


def louder_each_call(step: float = 0.1) -> Callable[..., Tensor]:
    """Keeps state: a hook that is called with another row, too, edits otherwise."""
    calls = [0]

    def louder(tensor: Tensor, hook: Any) -> Tensor:
        calls[0] += 1
        return tensor * (1 + step * calls[0])

    return louder


def zoo(prompt: EmbeddedPrompt, cache: Any) -> dict[str, list[Any]]:
    """Conditions of every kind; made anew for every run, since some keep state."""
    on_prompt = knockout("A !-> V")
    with_state, shared = louder_each_call(), look
    cut = partial(knockout, query="generated", key="video")
    cuts = {f"G !-> V {w}": [cut(layers=w)] for w in windows(4, 3)}
    return {
        "baseline": [],
        **cuts,
        "one head": [knockout("G !-> A @ 1 H2")],
        "two cuts": [knockout("G !-> A @ 1-2"), knockout("G !-> text @ 3 H0,1")],
        "same as before": [knockout("G !-> A @ 1-2"), knockout("G !-> text @ 3 H0,1")],
        "first token too": [knockout("G+last !-> V")],
        "first token too, late": [knockout("G+last !-> A @ 2-3 H1")],
        "first token alone": [knockout("last !-> A+V")],
        "prompt": [on_prompt],
        "prompt and answer": [on_prompt, knockout("G !-> V @ 2")],
        "prompt and last": [on_prompt, knockout("G+last !-> system")],
        "in place": [(names.in_block("attn.hook_z", 1), halving)],
        "another layout": [(names.resid_post(2), turned)],
        "state": [(names.resid_mid(1), with_state), (names.resid_mid(3), with_state)],
        "state at decode": [on_prompt, (names.in_block("mlp.hook_post", 2), louder_each_call(0.3))],
        "looks": [(names.pattern(1), shared)],
        "looks and cuts": [(names.pattern(1), shared), knockout("G !-> V @ 3")],
        "heads swapped": [(names.pattern(2), other_heads)],
        "dimmed": [(names.attn_scores(0), dimming)],
        "embedding": [(names.EMBED, lambda t, hook: t + noise(64, seed=1).to(t))],
        "final norm": [(names.FINAL_NORM, turned)],
        "filter": [(lambda name: name.endswith("hook_mlp_out"), halving)],
        "order": [(names.resid_pre(1), turned), (names.resid_pre(1), halving)],
        "other order": [(names.resid_pre(1), halving), (names.resid_pre(1), turned)],
        "ablated": [ablate("attn.hook_z", span="generated", layers=[1, 2], heads=[0, 3])],
        "ablated key": [ablate("attn.hook_k", span="generated+last", heads=[1])],
        "ablated prompt": [ablate("hook_resid_mid", span="frame 1", layers=[2])],
        "steered": [steer(noise(64, seed=2), span="generated", layers=[1], scale=2.0)],
        "steered all": [steer(noise(64, seed=3), span="generated+video", layers=[0, 3])],
        "steered embeddings": [
            steer(noise(64, seed=4), span="generated", at=names.EMBED, scale=3.0)
        ],
        "steered norm": [steer(noise(64, seed=5), span="generated", at=names.FINAL_NORM)],
        "scaled": [scale_attention(query="generated", key="audio", factor=3.0, layers=[1, 2])],
        "scaled last": [scale_attention(query="generated+last", key="video", factor=0.5)],
        "patched": [patch("hook_resid_pre", span="audio", cache=cache, prompt=prompt, layers=[2])],
    }


def random_part(dice: random.Random, hears: bool, shared: list[Any]) -> Any:
    """One hook or intervention, of a kind that prompts of this model have room for."""
    media = ["video", "frame 1", "video@0-1s", *(["audio", "audio@1.0-2.0s"] if hears else [])]
    query = dice.choice(["generated", "generated+last", "last", "generated+question"])
    layers = sorted(dice.sample(range(4), dice.randint(1, 4)))
    heads = dice.choice([None, sorted(dice.sample(range(4), dice.randint(1, 3)))])
    where = dice.choice(["generated", "generated+last", "last", "generated+video"])
    at = dice.choice(["hook_resid_pre", "hook_resid_post", "hook_attn_out", "hook_mlp_out"])
    kind = dice.randrange(9)
    if kind < 3:
        key = dice.choice([*media, "system", "generated"])
        query = "generated" if key == "generated" else query
        # The words come before the clip, so they cannot read it.
        query = query if key == "system" else query.replace("+question", "")
        return knockout(query=query, key=key, layers=layers, heads=heads)
    if kind == 3:
        return steer(noise(64, seed=dice.randrange(99)), span=where, at=at, layers=layers)
    if kind == 4:
        point = dice.choice(["attn.hook_z", "attn.hook_q", "attn.hook_rot_q"])
        return ablate(point, span=where, layers=layers[:1], heads=heads or [0])
    if kind == 5:
        factor = dice.choice([0.0, 0.5, 4.0])
        key = dice.choice(media)
        return scale_attention(query="generated+last", key=key, factor=factor, layers=layers)
    if kind == 6:
        return dice.choice(shared)
    if kind == 7:
        point = dice.choice([names.resid_post(layers[0]), names.FINAL_NORM, names.EMBED])
        return (point, dice.choice([halving, turned, look]))
    return (names.in_block("hook_mlp_out", layers[0]), louder_each_call(dice.random()))
