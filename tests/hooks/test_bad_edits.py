"""An edit that could not be what it says is refused, before any pass where that can be known."""

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch

from hooked_omni import EmbeddedPrompt, HookedOmni, ablate, names, patch, steer
from hooked_omni.errors import HookError, SpanError
from tests.support.edits import clip
from tests.support.models import frames, processed, sound
from tests.support.runs import hooks_left, noise


@pytest.fixture
def refused(omni: HookedOmni, prompt: EmbeddedPrompt, passes: list[Any]) -> Callable[..., None]:
    """Requires that `make(*arguments, **options)` is refused with a text, before any pass."""

    def require(text: str, make: Any, *arguments: Any, on: Any = prompt, **options: Any) -> None:
        before = len(passes)
        with pytest.raises((HookError, SpanError), match=text):
            omni.model.run_with_hooks(on, fwd_hooks=[make(*arguments, **options)])
        assert len(passes) == before and hooks_left(omni.model) == []

    return require


@pytest.mark.parametrize(("to", "n"), [("zero", 1), ("mean", 0), ("resample", 0), ("resample", 2)])
def test_references_that_are_too_many_or_too_few(prompt, to, n):
    text = f"expected no reference for to='zero', .* got to='{to}' with {n}"
    with pytest.raises(HookError, match=text):
        ablate("hook_resid_post", span="audio", to=to, reference=[({}, prompt)] * n)


def test_an_unknown_way_to_ablate(as_installed, prompt):
    way: Any = "noise"
    for given in ([], [({}, prompt)]):
        with pytest.raises(HookError, match="noise"):
            ablate("hook_resid_post", span="audio", to=way, reference=given)


BAD_PLACES: list[tuple[dict[str, Any], str]] = [
    (dict(at="hook_resid_post", layers=[4]), "4-layer .*'blocks.4.hook_resid_post'.*layers count"),
    (dict(at="hook_resid_post", layers=[1, 9]), "got 'blocks.9.hook_resid_post'"),
    (dict(at="resid_post"), "got 'resid_post'"),
    (dict(at="hook_resid_pst"), "expected a filter that some hook name passes"),
    (dict(at="hook_resid_pst", layers=[2]), "Closest is 'blocks.2.hook_resid_post'"),
    (dict(at="hook_resid_post", layers=[]), "expected layers counted from 0"),
    (dict(at="hook_resid_post", layers=[-1]), "expected layers counted from 0"),
    (dict(at="hook_resid_post", heads=[0]), "expected a hook point with heads, got heads="),
    (dict(at="mlp.hook_post", heads=[0]), "expected a hook point with heads, got heads="),
    (dict(at="attn.hook_z", heads=[4]), r"expected heads from 0 to 3, got \[4\]"),
    (dict(at="attn.hook_z", heads=[]), "expected heads counted from 0"),
    (dict(at="attn.hook_k", layers=[1], heads=[2]), r"expected heads from 0 to 1, got \[2\]"),
    (dict(at="attn.hook_rot_k", heads=[1, 3]), r"expected heads from 0 to 1, got \[3\]"),
    (dict(at="attn.hook_v", heads=[2]), r"keys and values have fewer"),
    (dict(at="hook_resid_post", span="smell"), "expected one of .* got 'smell'"),
    (dict(at="hook_resid_post", span="frame 9"), "the video has 3 grid steps"),
    (dict(at="hook_resid_post", span="generated"), "expected a run that reaches 'generated'"),
]


@pytest.mark.parametrize("edit", ["ablate", "steer", "patch"])
@pytest.mark.parametrize(("where", "text"), BAD_PLACES, ids=[str(w) for w, _ in BAD_PLACES])
def test_a_place_that_is_not_there(refused, prompt, edit, where, text):
    given = {"span": "audio", **where}
    if edit == "patch":
        if where.get("span") == "generated":
            text = "expected a span of the prompt, got 'generated': generated positions have no"
        whole = {names.in_block(given["at"], layer): noise(1, 144, 64) for layer in range(10)}
        given |= {"cache": {given["at"]: noise(1, 144, 64), **whole}, "prompt": prompt}
    vector = [noise(64)] if edit == "steer" else []
    refused(text, {"ablate": ablate, "steer": steer, "patch": patch}[edit], *vector, **given)


def test_key_heads_are_counted_before_a_caption_too(omni, prompt, passes):
    """All layers are a filter of names, and keys have fewer heads in all of them."""
    edit = ablate("attn.hook_k", span="generated", heads=[3])
    with pytest.raises(HookError, match=r"expected heads from 0 to 1, got \[3\]"):
        omni.model.generate(prompt, max_new_tokens=3, fwd_hooks=[edit])
    assert passes == []


@pytest.mark.parametrize(
    ("layers", "at", "name"),
    [
        ([2], "hook_resid_pre", "blocks.2.hook_resid_pre"),
        ([1], "attn.hook_z", "blocks.1.attn.hook_z"),
        (None, "hook_resid_pre", "blocks.0.hook_resid_pre"),
    ],
)
@pytest.mark.parametrize("to", ["mean", "resample"])
def test_a_cache_without_the_activation(refused, omni, prompt, layers, at, name, to):
    _, cache = omni.model.run_with_cache(prompt, names_filter=names.resid_pre(1))
    what: Any = dict(layers=layers, to=to, reference=[(cache, prompt)])
    refused(f"expected a cache that holds '{name}'", ablate, at, span="audio", **what)


def test_a_cache_that_is_cut(refused, prompt):
    name, whole = names.resid_pre(1), noise(1, prompt.n_pos, 64)
    text = rf"expected '{name}' of one prompt with 144 positions, got shape"
    for cut in (whole[0], whole[:, :-1], whole.repeat(2, 1, 1)):
        what: Any = dict(layers=[1], cache={name: cut}, prompt=prompt)
        refused(text, patch, "hook_resid_pre", span="audio", **what)


def test_prompts_of_different_length(refused, omni):
    short, long = (clip(omni, frames(2 * n), sound(float(n))) for n in (2, 3))
    cache = {names.resid_pre(1): noise(1, long.n_pos, 64)}
    what: Any = dict(at="hook_resid_pre", cache=cache, prompt=long, layers=[1])
    for span, mine, theirs in (("audio", 50, 75), ("video", 12, 18), ("prompt", 113, 144)):
        text = rf"as many '{span}' tokens in both prompts, got {mine} here and {theirs} in"
        refused(text, partial(patch, **what), span=span, on=short)
    for span in ("question", "last", "audio@0-1s"):
        omni.model.run_with_hooks(short, fwd_hooks=[patch(span=span, **what)])
        text = "expected 'audio' or 'video' with known times to align by"
        refused(text, partial(patch, **what), span=span, align="time", on=short)


@pytest.mark.parametrize("at", ["attn.hook_pattern", "attn.hook_attn_scores"])
@pytest.mark.parametrize("to", ["mean", "resample"])
def test_patterns_of_prompts_of_different_length(refused, omni, at, to):
    """Their spans may be as long; what a row reads is not."""
    longer = omni.embed_inputs(**processed(omni, "audio in video", "What now, and what then?"))
    run = (omni.model.run_with_cache(longer)[1], longer)
    refused("expected", ablate, at, span="audio", layers=[1], to=to, reference=[run])


def test_scores_of_zero_would_open_the_future(refused):
    """A score is a logarithm: zero is a weight of one, for keys after the query as well."""
    refused("expected", ablate, "attn.hook_attn_scores", span="audio", layers=[1])


def test_an_unknown_alignment(as_installed, refused, prompt):
    cache: Any = {names.resid_pre(1): noise(1, 144, 64)}
    what: Any = dict(cache=cache, prompt=prompt, layers=[1], align="words")
    text = "expected align 'position' or 'time', got 'words'"
    refused(text, patch, "hook_resid_pre", span="audio", **what)


@pytest.mark.parametrize(
    ("at", "shape"),
    [
        *(("hook_resid_post", shape) for shape in ((63,), (2, 64), (75, 64), ())),
        *(("attn.hook_z", shape) for shape in ((64,), (3, 16), (75, 4, 16))),
        ("attn.hook_k", (4, 16)),
    ],
)
def test_a_vector_that_does_not_fit(as_installed, omni, prompt, at, shape):
    with pytest.raises(HookError, match="expected a vector"):
        edit = steer(torch.ones(shape), span="audio", at=at, layers=[1])
        omni.model.run_with_hooks(prompt, fwd_hooks=[edit])
    assert hooks_left(omni.model) == []


def test_a_vector_that_is_no_number(omni, prompt):
    edit = steer(torch.full((64,), torch.nan), span="audio", layers=[1])
    with pytest.raises(HookError, match=r"got NaN .* \['blocks.1.hook_resid_post'\]"):
        omni.model.run_with_hooks(prompt, fwd_hooks=[edit])
    assert hooks_left(omni.model) == []


def test_layers_of_a_place_that_has_none(refused):
    """They would be forgotten without a word."""
    for at in (names.EMBED, names.FINAL_NORM, names.resid_post(1)):
        refused("layers", ablate, at, span="audio", layers=[3])


@pytest.mark.parametrize(
    "given", [torch.tensor(1), np.array(1), np.int64(1), 1.5, torch.ones(1, 2)]
)
def test_layers_and_heads_that_are_no_list(as_installed, given):
    for options in ({"layers": given}, {"heads": given}):
        with pytest.raises(HookError, match=r"expected a list of (layers|heads), got .*\[3\]"):
            steer(torch.ones(16), span="audio", at="attn.hook_z", **options)


@pytest.mark.parametrize("kind", ["register_forward_hook", "register_forward_pre_hook"])
def test_hooks_of_pytorch_on_a_hook_point(omni, prompt, kind):
    """Their zeros of scores would open the future, and what they do in place would be lost."""
    for name in (names.attn_scores(1), names.pattern(1), names.resid_post(1)):
        point = omni.model.hook_dict[name]
        handle = getattr(point, kind)(lambda module, given, *made: given[0] * 0)
        for run in (omni.model, omni.model.generate, omni.model.lens):
            with pytest.raises(HookError, match=f"hooks put on '{name}' by `add_hook`"):
                run(prompt)
        handle.remove()


def test_an_edit_in_another_layout(omni, prompt):
    sparse = (names.resid_post(1), lambda tensor, hook: tensor.to_sparse())
    with pytest.raises(HookError, match="to return layout"):
        omni.model.run_with_hooks(prompt, fwd_hooks=[sparse])
