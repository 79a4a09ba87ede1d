"""An intervention that would touch nothing is refused, wherever the emptiness comes from."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from hooked_omni import EmbeddedPrompt, ablate, knockout, patch, scale_attention, steer, windows
from hooked_omni.decoding.score import forced_logits
from hooked_omni.errors import HookedOmniError, HookError
from tests.support.models import CLIP_OF, left_padded
from tests.support.runs import hooks_left, unstopped

TEXT = torch.tensor([5, 6])


def with_span(prompt: EmbeddedPrompt, name: str, positions: list[int]) -> EmbeddedPrompt:
    spans = replace(prompt.spans, positions={**prompt.spans.positions}, seconds={})
    edited = replace(prompt, spans=spans)
    spans.positions[name] = torch.tensor(positions, dtype=torch.long)
    return edited


def require_refused(model: Any, prompt: EmbeddedPrompt, edit: Any, n: int = 2) -> None:
    calls = {
        "run": lambda: model.run_with_hooks(prompt, fwd_hooks=[edit]),
        "cache": lambda: model.run_with_cache(prompt, fwd_hooks=[edit]),
        "generate": lambda: model.generate(prompt, unstopped(n), fwd_hooks=[edit]),
        "sweep": lambda: model.generate_many(prompt, [[], [edit]], unstopped(n)),
        "score": lambda: model.score(prompt, TEXT[:n], [[], [edit]]),
        "forced": lambda: forced_logits(model, prompt, TEXT[:n], [edit]),
    }
    for call in calls.values():
        with pytest.raises(HookedOmniError):
            call()
    assert hooks_left(model) == []


def edits(span: str, prompt: EmbeddedPrompt, cache: Any) -> list[Any]:
    return [
        knockout(query=span, key="system"),
        knockout(query="last+generated", key=span),
        scale_attention(query="last+generated", key=span, factor=0.5),
        ablate("hook_resid_post", span=span, layers=[1]),
        steer(torch.ones(64), span=span, layers=[1]),
        patch("hook_resid_post", span=span, cache=cache, prompt=prompt, layers=[1]),
    ]


@pytest.mark.parametrize("positions", [[], [500, 501], [-3, -2]])
def test_a_span_of_no_position_of_the_prompt(omni, prompt, positions):
    _, cache = omni.model.run_with_cache(prompt, "blocks.1.hook_resid_post")
    spoilt = with_span(prompt, "audio", positions)
    for edit in edits("audio", prompt, cache):
        require_refused(omni.model, spoilt, edit)


def test_padding_is_read_by_nothing(omni, clips):
    padded = omni.embed_inputs(**left_padded(omni, clips["omni", CLIP_OF["omni"]], 5))
    _, cache = omni.model.run_with_cache(padded, "blocks.1.hook_resid_post")
    for edit in edits("padding", padded, cache):
        require_refused(omni.model, padded, edit)


NOT_REACHED = [
    knockout("G !-> V"),
    knockout(query="audio+generated", key="generated"),
    scale_attention(query="last+generated", key="generated", factor=0.5),
    ablate("attn.hook_z", span="generated"),
    steer(torch.ones(64), span="generated"),
]


@pytest.mark.parametrize("edit", NOT_REACHED)
def test_positions_that_one_token_does_not_reach(omni, prompt, edit):
    """The first token is chosen at the last position of the prompt."""
    require_refused(omni.model, prompt, edit, n=1)
    omni.model.generate(prompt, unstopped(2), fwd_hooks=[edit])


def test_hooks_that_stay_must_be_reached_too(omni, prompt):
    hooks = knockout("G !-> V")(prompt.spans)
    with omni.model.hooks(hooks):
        for call in (
            lambda: omni.model.generate(prompt, unstopped(1)),
            lambda: forced_logits(omni.model, prompt, TEXT[:1]),
            lambda: omni.model.lens(prompt),
            lambda: omni.model(prompt),
        ):
            with pytest.raises(HookError, match="expected a run that reaches 'generated'"):
                call()
        assert len(omni.model.generate(prompt, unstopped(2)).tokens) == 2


def test_keys_of_another_prompt_are_refused(omni, prompt):
    """The queries may be the same, and the keys not."""
    [*_, moved] = prompt.spans["audio"].tolist()
    other = with_span(prompt, "audio", [moved])
    hooks = knockout(query="last", key="audio")(other.spans)
    with pytest.raises(HookError, match="made from this prompt's spans"):
        omni.model.run_with_hooks(prompt, fwd_hooks=hooks)


@pytest.mark.parametrize("what", ["layers", "heads"])
@pytest.mark.parametrize(
    "none", [[], range(3, 3), range(3, 1), (n for n in ()), np.arange(0), torch.arange(0)]
)
def test_no_layers_and_no_heads(as_installed, what, none):
    for make in (knockout, lambda **given: scale_attention(factor=2.0, **given)):
        with pytest.raises(HookError, match=f"expected {what} counted from 0"):
            make(query="last", key="video", **{what: none})
    with pytest.raises(HookError, match=f"expected {what} counted from 0"):
        ablate("attn.hook_z", span="audio", **{what: none})


@pytest.mark.parametrize("mask", [np.array([True, False]), torch.tensor([True, False])])
def test_a_mask_is_no_list_of_layers(as_installed, prompt, mask):
    """Its True would count as layer 1, its False as layer 0."""
    with pytest.raises(HookError, match="expected layers counted from 0"):
        knockout(query="last", key="video", layers=mask)
    fine: Any
    for fine in (np.arange(2), torch.arange(2)):
        assert len(knockout(query="last", key="video", layers=fine)(prompt.spans)) == 2


def test_windows_of_nothing():
    for width, step in ((0, 1), (9, 1), (3, 0)):
        with pytest.raises(HookError):
            windows(4, width, step)
