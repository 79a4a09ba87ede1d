"""Wrong numbers that would look right: each of these was possible once, or nearly."""

from typing import Any

import pytest
import torch
from torch import Tensor

from hooked_omni import HookedOmni, Prompt, ablate, knockout, load, names, prove, steer
from hooked_omni.errors import HookError
from tests.support.clips import write_clip
from tests.support.runs import close, kind_of, noise, unstopped


@pytest.mark.parametrize("span", ["generated", "generated+last"])
def test_an_edit_at_every_hook_point_acts_in_a_sweep(omni, prompt, span):
    """Scale and result are derived numbers: they are read only if something was edited."""
    model = omni.model
    with model.every_hook_point():
        _, cache = model.run_with_cache(prompt)
        for name in (n for n in cache if not n.endswith(names.PATTERN_LIKE)):
            layer = names.layer_of(name)
            push = noise(cache[name].shape[-1], seed=1).sigmoid() + 1
            layers = None if layer is None else [layer]
            condition = [steer(push, span=span, at=kind_of(name), layers=layers)]
            plain, swept = model.generate_many(prompt, [[], condition], unstopped(4))
            close(swept.logits, model.generate(prompt, unstopped(4), condition).logits, 2e-5)
            assert not torch.equal(plain.logits, swept.logits), name


def test_a_hook_that_keeps_state_is_not_shared_by_conditions(omni, prompt):
    def remembering() -> Any:
        kept: dict[str, Tensor] = {}

        def add_the_last(resid: Tensor, hook: Any) -> Tensor | None:
            before = kept.get("resid")
            kept["resid"] = resid[:, -1:].clone()
            return None if hook.window.start == 0 or before is None else resid + before

        return add_the_last

    def conditions() -> list[Any]:
        shared = (names.resid_pre(2), remembering())
        return [[shared], [shared, knockout("G !-> V @ 0-1")]]

    swept = omni.model.generate_many(prompt, conditions(), unstopped(6))
    for i, caption in enumerate(swept):
        alone = omni.model.generate(prompt, unstopped(6), conditions()[i])
        assert torch.equal(caption.tokens, alone.tokens)


def test_a_run_inside_a_hook_leaves_the_outer_run_alone(omni, prompt):
    seen: list[range] = []

    def nest(resid: Tensor, hook: Any) -> None:
        if hook.window.stop == prompt.n_pos:
            omni.model(torch.arange(2, 30)[None])

    see = (names.resid_pre(1), lambda resid, hook: seen.append(hook.window))
    hooks = [(names.resid_pre(0), nest), see]
    logits = omni.model.run_with_hooks(prompt, hooks)
    assert torch.equal(logits, omni.model(prompt))
    assert seen == [range(28), range(prompt.n_pos)]


def test_hooks_of_another_prompts_spans_are_refused(omni, prompt, clips):
    other = omni.embed_inputs(**clips["omni", "audio"])
    hooks = knockout(query="last", key="audio")(other.spans)
    for run in (
        lambda: omni.model.run_with_hooks(prompt, hooks),
        lambda: omni.model.generate(prompt, max_new_tokens=3, fwd_hooks=hooks),
        lambda: omni.model.generate_many(prompt, [[], hooks], max_new_tokens=3),
    ):
        with pytest.raises(HookError, match="expected hooks made from this prompt's spans"):
            run()
    again = omni.embed_inputs(**clips["omni", "audio"])
    omni.model.run_with_hooks(again, hooks)  # equal spans are the same spans


def test_no_edit_opens_the_future(omni, prompt):
    tokens = torch.arange(2, 20)[None]
    other = tokens.clone()
    other[0, -1] = 99
    hooks = [(names.attn_scores(1), lambda scores, hook: torch.zeros_like(scores))]
    runs = [omni.model.run_with_hooks(t, hooks)[0, :-1] for t in (tokens, other)]
    assert torch.equal(*runs)
    _, cache = omni.model.run_with_cache(prompt, names.pattern(1))
    what: Any = dict(span="audio", layers=[1], to="mean", reference=[(cache, prompt)])
    with pytest.raises(HookError, match="expected a pattern without weight on later positions"):
        omni.model.run_with_hooks(prompt, [ablate("attn.hook_pattern", **what)])


def test_a_checkpoint_that_asks_for_more_than_argmax_is_named():
    omni = load("random-omni")
    omni.hf.generation_config.repetition_penalty = 1.05
    with pytest.warns(UserWarning, match=r"'repetition_penalty': 1\.05.*plain argmax"):
        adopted = HookedOmni.from_hf(omni.hf, omni.processor)
    prove(adopted, adopted.embed(Prompt("What now?")), decode_steps=4)
    assert omni.hf.generation_config.repetition_penalty == 1.05


def test_weights_that_move_later_are_followed():
    omni = load("random-omni")
    omni.hf.to(torch.float64)
    tokens = torch.arange(2, 20)[None]
    assert omni.model(tokens).dtype == torch.float64
    assert omni.model.generate(tokens, max_new_tokens=2).tokens.shape == (2,)


def test_times_are_the_clips_whatever_the_scripts_claim(omni, tmp_path):
    clip = write_clip(tmp_path / "short.mp4", seconds=1.0)
    for rope in ("model", "paper-scripts"):
        prompt = omni.embed(Prompt("What now?", video=clip, rope=rope))
        assert prompt.spans.seconds["video"].unique().tolist() == [0.0, 0.5]
