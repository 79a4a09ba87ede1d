"""What cannot be decoded or scored is refused, before any pass where that can be known."""

from typing import Any

import pytest
import torch

from hooked_omni import ablate, knockout, names
from hooked_omni.decoding.generate import Decoding
from hooked_omni.errors import HookedOmniError, HookError, PromptError, SpanError
from tests.support.models import look
from tests.support.runs import hooks_left, unstopped

ONE = torch.tensor([1])
CUT = [knockout("G !-> V")]
Refused = tuple[Any, dict[str, Any], type[HookedOmniError], str]
CAPTIONS: dict[str, Refused] = {
    "no conditions": ([], {}, PromptError, "at least one condition, got none"),
    "no tokens": ([[]], {"max_new_tokens": 0}, PromptError, "max_new_tokens=0"),
    "fewer than none": ([[]], {"max_new_tokens": -3}, PromptError, "max_new_tokens=-3"),
    "one condition": (CUT, {}, HookError, "expected a list of .* got one"),
    "one hook": ([(names.resid_post(1), look)], {}, HookError, "expected a list of .* got one"),
    "no hook at all": ([[], ["G !-> V"]], {}, HookError, "expected hooks .* got 'G !-> V'"),
    "an unknown hook": (
        *([[], [(names.resid_post(4), look)]], {}, HookError),
        "4-layer model, got 'blocks.4.hook_resid_post'",
    ),
    "a filter nothing passes": (
        *([[], [(lambda name: False, look)]], {}, HookError),
        "expected a filter that some hook name passes",
    ),
    "an unknown span": ([[], [knockout("G !-> X")]], {}, SpanError, "got 'X'"),
    "too few tokens": (
        *([[], CUT], {"max_new_tokens": 1}, HookError),
        "expected a run that reaches 'generated', got one over positions 0 to 143",
    ),
    "a key head that is not there": (
        *([[], [ablate("attn.hook_k", span="generated", layers=[1], heads=[2])]], {}, HookError),
        r"expected heads from 0 to 1, got \[2\].*keys and values have fewer",
    ),
    "a key head that is nowhere": (
        *([[], [ablate("attn.hook_v", span="generated", heads=[3])]], {}, HookError),
        r"expected heads from 0 to 1, got \[3\]",
    ),
    "a small budget": ([[]], {"memory_budget": 1000}, PromptError, "at least .* got 1,000"),
    "an unknown setting": (
        *([[]], {"max_tokens": 4}, PromptError),
        "got 'max_tokens'. Closest is 'max_new_tokens'",
    ),
    "a number for a Decoding": ([[]], {"decoding": 4}, PromptError, "expected a Decoding, got 4"),
}
SCORES: dict[str, tuple[torch.Tensor, Any, type[HookedOmniError], str]] = {
    "no conditions": (ONE, [], PromptError, "expected at least one condition, got none"),
    "no text": (ONE[:0], [[]], PromptError, r"expected one text \[n\] .* got shape \(0,\)"),
    "two texts": (ONE[None], [[]], PromptError, r"expected one text \[n\] .* got shape \(1, 1\)"),
    "another vocabulary": (998 * ONE, [[]], PromptError, "tokens from 0 to 265, got 998 to 998"),
    "fractions of tokens": (ONE * 1.0, [[]], PromptError, "an EmbeddedPrompt or tokens"),
    "too short a text": (ONE, [[], CUT], HookError, "expected a run that reaches 'generated'"),
}


@pytest.mark.parametrize("what", CAPTIONS)
def test_a_sweep_is_refused_before_any_pass(as_installed, omni, prompt, passes, what):
    conditions, settings, error, text = CAPTIONS[what]
    with pytest.raises(error, match=text):
        omni.model.generate_many(prompt, conditions, **{"max_new_tokens": 4, **settings})
    assert passes == [] and hooks_left(omni.model) == []


@pytest.mark.parametrize("what", SCORES)
def test_a_score_is_refused_before_any_pass(as_installed, omni, prompt, passes, what):
    tokens, conditions, error, text = SCORES[what]
    with pytest.raises(error, match=text):
        omni.model.score(prompt, tokens, conditions)
    assert passes == [] and hooks_left(omni.model) == []


def test_single_settings_change_a_decoding(omni, prompt):
    base = Decoding(2, return_logits=True)
    made = omni.model.generate(prompt, base, max_new_tokens=3, stop_at_eos=False)
    assert len(made.tokens) == 3 and made.logits is not None and base.max_new_tokens == 2
    assert omni.model.generate(prompt, max_new_tokens=1).logits is None
    with pytest.raises(PromptError, match=r"got 'stop_at_end'\. Closest is 'stop_at_eos'"):
        omni.model.generate(prompt, stop_at_end=True)


def test_text_has_no_clip_and_a_batch_no_caption(as_installed, omni, passes):
    tokens = torch.tensor([[72, 101, 108]])
    with pytest.raises(SpanError, match=r"expected one of .* got 'video'"):
        omni.model.generate_many(tokens, [[], [knockout("G !-> V")]], max_new_tokens=4)
    with pytest.raises(PromptError, match="expected one prompt, got a batch of 2"):
        omni.model.generate_many(tokens.repeat(2, 1), [[]], max_new_tokens=4)
    assert passes == []


@pytest.mark.parametrize("at", [names.resid_post(1), names.pattern(2), names.FINAL_NORM])
@pytest.mark.parametrize(
    ("spoil", "text"),
    [
        (lambda tensor: tensor[..., :-1], "to return shape"),
        (lambda tensor: tensor.double(), "to return dtype torch.float32, got torch.float64"),
        (lambda tensor: [tensor], "to return a tensor or None, got list"),
        (lambda tensor: tensor * torch.nan, "got NaN"),
    ],
)
def test_a_hook_that_returns_nonsense_while_decoding(omni, prompt, at, spoil, text):
    bad = (at, lambda tensor, hook: spoil(tensor) if hook.window.start else None)
    fine = (names.resid_post(0), look)
    for conditions in ([[], [bad]], [[fine], [fine, bad], [fine, knockout("G !-> V")]]):
        with pytest.raises(HookError, match=text) as refused:
            omni.model.generate_many(prompt, conditions, unstopped(4))
        assert at in str(refused.value)
    assert hooks_left(omni.model) == []
