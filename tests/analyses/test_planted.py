"""The planted models are what they say: real classes in which only the planted heads move words.

Where heads attend, what the lens reads and which sinks there are is tested with the analyses, and
tuned towers with `modality_reliance`.
"""

from typing import Any

import pytest

from hooked_omni import HookedOmni, ablate, knockout
from tests.support.planted import HEARD_HEAD, SEEN_HEAD, TOLD_HEAD, WORDS, asked, planted

STEPS = 8


@pytest.fixture(scope="module")
def model() -> HookedOmni:
    return planted(heard_at=2, seen_at=5, told_at=1)


def said(omni: HookedOmni, *rules: str, **clip: Any) -> str | None:
    hooks = [knockout(rule) for rule in rules]
    return omni.model.generate(asked(omni, **clip), max_new_tokens=STEPS, fwd_hooks=hooks).text


def test_what_is_seen_wins_and_hides_what_is_heard(model: HookedOmni) -> None:
    clip = dict(heard="dog", seen="bus")
    assert said(model, **clip) == said(model, "G !-> V @ 0-4,6-7", **clip) == "A bus."
    assert said(model, "G !-> V @ 5", **clip) == "A dog."
    assert said(model, "G !-> A+V", **clip) == "A thing."


@pytest.mark.parametrize("word", WORDS)
def test_every_word_can_be_heard_and_seen(model: HookedOmni, word: str) -> None:
    assert said(model, heard=word, seen=None) == f"A {word}."
    assert said(model, heard=None, seen=word) == f"A {word}."
    assert said(model, heard=word, seen=None, heard_when="audio@1.0-2.0s") == f"A {word}."


def test_gains_and_missing_heads_decide() -> None:
    assert said(planted(gains=(2.0, 1.0)), heard="dog", seen="bus") == "A dog."
    assert said(planted(heard_at=None), heard="dog", seen=None) == "A thing."
    blind = planted(seen_at=None)
    assert said(blind, heard=None, seen="bus") == "A thing."
    assert said(blind, heard="dog", seen="bus") == "A dog."
    assert said(planted(None, family="vl"), kind="video", seen="chef") == "A chef."


def test_only_the_planted_heads_write(model: HookedOmni) -> None:
    prompt = asked(model)
    writes = {(1, TOLD_HEAD), (2, HEARD_HEAD), (5, SEEN_HEAD)}
    clean = model.model(prompt)
    for layer in range(8):
        for head in range(4):
            cut = ablate("attn.hook_z", span="prompt", layers=[layer], heads=[head])
            moved = (model.model.run_with_hooks(prompt, fwd_hooks=[cut]) - clean).abs().max()
            assert (float(moved) > 0.1) == ((layer, head) in writes), (layer, head)
