"""A patch pairs tokens by position or by time, and restores what it takes back."""

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from hooked_omni import EmbeddedPrompt, Spans, names, patch
from hooked_omni.errors import HookError
from tests.support.edits import POINTS, clip
from tests.support.models import CLIP_OF, frames, sound
from tests.support.runs import bits_equal, noise, opened, unstopped


@pytest.mark.parametrize(("name", "kind"), CLIP_OF.items(), ids=list(CLIP_OF))
def test_patching_every_position_gives_the_other_run(models, clips, name, kind):
    omni = models[name]
    prompt = omni.embed_inputs(**clips[name, kind])
    spoiled = replace(prompt, embeds=prompt.embeds + noise(*prompt.embeds.shape))
    logits, cache = omni.model.run_with_cache(prompt)
    assert not torch.allclose(omni.model(spoiled), logits, atol=1e-2)
    for at, layer in (("hook_resid_pre", 0), ("hook_resid_mid", 1), ("hook_resid_post", 3)):
        restore = patch(at, span="prompt", cache=cache, prompt=prompt, layers=[layer])
        hooks = [restore, *opened(omni.model)]
        bits_equal(omni.model.run_with_hooks(spoiled, fwd_hooks=hooks), logits)
    restore = patch("hook_resid_pre", span="prompt", cache=cache, prompt=prompt, layers=[0])
    caption = omni.model.generate(spoiled, unstopped(5), [restore])
    bits_equal(caption.logits, omni.model.generate(prompt, unstopped(5)).logits)


def test_patching_the_clip_alone_restores_the_rest(model, prompt, source, clean):
    """The two prompts differ in their clips only, so the clip is all there is to restore."""
    other = source["prompt"]
    restore = [
        patch("hook_resid_pre", span=span, cache=clean, prompt=prompt, layers=[0])
        for span in ("audio", "video")
    ]
    bits_equal(model.run_with_hooks(other, fwd_hooks=restore), model(prompt))
    assert not torch.equal(model.run_with_hooks(other, fwd_hooks=restore[:1]), model(prompt))


def test_patching_itself_changes_nothing(model, prompt, clean):
    points: list[tuple[str, Any]] = [(at, "position") for at in POINTS]
    for at, align in [*points, ("hook_resid_pre", "time"), ("attn.hook_z", "time")]:
        edit = patch(at, span="audio", cache=clean, prompt=prompt, layers=[2], align=align)
        hooks = [edit, *opened(model)]
        _, edited = model.run_with_cache(prompt, names.FINAL_NORM, fwd_hooks=hooks)
        bits_equal(edited[names.FINAL_NORM], clean[names.FINAL_NORM])


def planted(prompt: EmbeddedPrompt, span: str) -> Tensor:
    """Activations that hold their own time, and their place in it."""
    marks = torch.zeros(1, prompt.n_pos, 64)
    where, seconds = prompt.spans[span], prompt.spans.seconds[span]
    marks[0, where, 0] = seconds
    order = torch.zeros(len(where))
    for start in seconds.unique():
        same = seconds == start
        order[same] = torch.arange(int(same.sum())).float()
    marks[0, where, 1] = order
    return marks


@pytest.mark.parametrize("span", ["audio", "video"])
@pytest.mark.parametrize(("mine", "theirs"), [(3.0, 5.0), (2.0, 3.0), (3.0, 3.0)])
def test_tokens_are_paired_by_their_time(omni, span, mine, theirs):
    short, long = (
        clip(omni, frames(int(2 * s), seed=int(s)), sound(s), words)
        for s, words in ((mine, "What now?"), (theirs, "And what is it that happens now?"))
    )
    name = names.resid_mid(1)

    def by_time(of: EmbeddedPrompt) -> Any:
        cache: Any = {name: planted(of, span)}
        more: Any = dict(layers=[1], align="time")
        return patch("hook_resid_mid", span=span, cache=cache, prompt=of, **more)

    _, cache = omni.model.run_with_cache(short, names_filter=name, fwd_hooks=[by_time(long)])
    bits_equal(cache[name][:, short.spans[span]], planted(short, span)[:, short.spans[span]])
    if mine != theirs:
        with pytest.raises(HookError, match=f"as long as this one to take from, got '{span}'"):
            omni.model.run_with_hooks(long, fwd_hooks=[by_time(short)])


def test_a_step_that_is_under_way_is_the_partner(model):
    """Between two starts, the earlier one counts."""
    seconds, bare = torch.tensor([0.0, 0.5, 1.0, 1.5]), model.as_prompt(torch.arange(10)[None])
    marks = torch.zeros(1, 10, 64)
    marks[0, 3:7] = seconds[:, None]
    times = {"audio": torch.tensor([0.2, 0.5, 0.99, 1.7])}
    own = {"audio": torch.tensor([2, 5, 6, 9]), "last": torch.tensor([9])}
    question, name = replace(bare, spans=Spans(own, 10, times)), names.resid_post(0)

    def from_start(late: float) -> Any:
        spans = Spans({"audio": torch.arange(3, 7)}, 10, {"audio": seconds + late})
        more: Any = dict(prompt=replace(bare, spans=spans), layers=[0], align="time")
        return patch("hook_resid_post", span="audio", cache={name: marks}, **more)

    _, cache = model.run_with_cache(question, names_filter=name, fwd_hooks=[from_start(0.0)])
    assert cache[name][0, [2, 5, 6, 9], 0].tolist() == [0.0, 0.5, 0.5, 1.5]
    # Earlier than the source begins, nothing is under way.
    with pytest.raises(HookError, match=r"got one from 0\.40 s for tokens at 0\.20 s"):
        model.run_with_hooks(question, fwd_hooks=[from_start(0.4)])
