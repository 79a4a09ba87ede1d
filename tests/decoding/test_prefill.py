"""A prefilled prompt says what the prompt says, and makes no pass over it."""

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from hooked_omni import Capture, EmbeddedPrompt, HookedOmni, ablate, knockout, load, names, windows
from hooked_omni.decoding.prefill import PrefilledPrompt, prefill, prefill_state
from hooked_omni.errors import PromptError, SpanError
from tests.support.models import look, watched

STEPS = 5
CONDITIONS: dict[str, list[list[Any]]] = {
    "one": [[]],
    "sweep": [[], *([knockout(query="generated", key="video", layers=w)] for w in windows(4, 3))],
    "last position too": [[knockout("G+last !-> V")], [knockout("G+last !-> A")], []],
    "on the prompt": [[knockout("A !-> V")], [knockout("A !-> V"), knockout("G !-> V")], []],
    "a user's own": [[(names.resid_mid(1), look)], []],
    "all of them": [
        *([], [knockout("G !-> A")], [knockout("last !-> V")]),
        [ablate("hook_mlp_out", span="video", layers=[1])],
    ],
}


@pytest.fixture(scope="module")
def prompt(omni: HookedOmni, clips: dict) -> EmbeddedPrompt:
    return omni.embed_inputs(**clips["omni", "audio in video"])


@pytest.fixture
def positions(omni: HookedOmni) -> Iterator[list[int]]:
    """How many positions each pass has covered, once for each row."""
    seen: list[int] = []
    block: Any = omni.model.blocks[0]
    with watched(block, lambda args: seen.append(args[0].shape[1])):
        yield seen


def same(ours: Tensor | None, theirs: Tensor | None) -> None:
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-5)


@pytest.mark.parametrize("name", CONDITIONS)
def test_captions_and_scores_are_the_same(
    omni: HookedOmni, prompt: EmbeddedPrompt, name: str
) -> None:
    model, conditions, ready = omni.model, CONDITIONS[name], prefill(omni.model, prompt)
    more: dict[str, Any] = dict(stop_at_eos=False, return_logits=True)
    plain = model.generate_many(prompt, conditions, STEPS, **more)
    for _ in range(2):  # what a caption did to the cache would show in the next
        ours = model.generate_many(ready, conditions, STEPS, **more)
        for one, other in zip(ours, plain, strict=True):
            assert one.tokens.tolist() == other.tokens.tolist()
            same(one.logits, other.logits)
        alone = [model.generate(ready, STEPS, c, **more).logits for c in conditions]
        for one, other in zip(alone, plain, strict=True):
            same(one, other.logits)
    text = torch.tensor([3, 1, 4, 1, 5])
    for one, other in zip(
        model.score_many(ready, text, conditions),
        model.score_many(prompt, text, conditions),
        strict=True,
    ):
        same(one, other)


def test_one_caption_is_the_same_to_the_bit(omni: HookedOmni, prompt: EmbeddedPrompt) -> None:
    ready = prefill(omni.model, prompt)
    ours, plain = (omni.model.generate(p, STEPS, return_logits=True) for p in (ready, prompt))
    assert ours.logits is not None and plain.logits is not None
    assert torch.equal(ours.logits, plain.logits)


def test_no_pass_over_the_prompt(
    omni: HookedOmni, prompt: EmbeddedPrompt, positions: list[int]
) -> None:
    ready = prefill(omni.model, prompt)
    assert positions == [prompt.n_pos]
    omni.model.generate(ready, STEPS, stop_at_eos=False)
    omni.model.generate_many(ready, CONDITIONS["sweep"], STEPS)
    omni.model.generate_many(ready, CONDITIONS["last position too"], STEPS)
    omni.model.score_many(ready, torch.tensor([1, 2, 3]), CONDITIONS["sweep"])
    assert max(positions[1:]) <= STEPS


def test_what_acts_on_the_prompt_makes_its_own_pass(
    omni: HookedOmni, prompt: EmbeddedPrompt, positions: list[int]
) -> None:
    ready = prefill(omni.model, prompt)
    omni.model.generate_many(ready, CONDITIONS["on the prompt"], STEPS)
    omni.model.generate(ready, STEPS, [(names.resid_mid(1), look)])
    with omni.model.hooks([(names.resid_mid(1), lambda t, hook: t * 2)]):
        loud = omni.model.generate(ready, STEPS, return_logits=True)
    assert positions.count(prompt.n_pos) == 5
    plain = omni.model.generate(prompt, STEPS, return_logits=True)
    assert loud.logits is not None and plain.logits is not None
    assert not torch.allclose(loud.logits[0], plain.logits[0], atol=1e-3)


def test_another_prompt_or_model_makes_its_own_pass(
    omni: HookedOmni, prompt: EmbeddedPrompt
) -> None:
    ready = prefill(omni.model, prompt)
    other = replace(ready, embeds=ready.embeds.flip(1))
    assert isinstance(other, PrefilledPrompt)
    plain = replace(prompt, embeds=prompt.embeds.flip(1))
    first = [omni.model.generate(p, 1, return_logits=True).logits for p in (other, plain)]
    assert torch.equal(*first)  # pyright: ignore[reportArgumentType]
    stranger = load("random-omni").model
    first = [stranger.generate(p, 1, return_logits=True).logits for p in (ready, prompt)]
    assert torch.equal(*first)  # pyright: ignore[reportArgumentType]


@pytest.mark.parametrize("changed", ["audio@1.0-2.0s", "video", "last", "system"])
def test_only_what_differs_is_passed_over(
    omni: HookedOmni, prompt: EmbeddedPrompt, positions: list[int], changed: str
) -> None:
    like = prefill(omni.model, prompt)
    embeds = prompt.embeds.clone()
    embeds[:, prompt.spans[changed]] *= -0.5
    other = replace(prompt, embeds=embeds)
    positions.clear()
    ready = prefill(omni.model, other, like=like)
    first = int(prompt.spans[changed][0])
    assert (first < prompt.n_pos // 4) == (changed == "system")  # too little to be taken
    assert positions == [prompt.n_pos - (0 if changed == "system" else first)]
    more: dict[str, Any] = dict(stop_at_eos=False, return_logits=True)
    for conditions in (CONDITIONS["one"], CONDITIONS["sweep"]):
        for ours, plain in zip(
            omni.model.generate_many(ready, conditions, STEPS, **more),
            omni.model.generate_many(other, conditions, STEPS, **more),
            strict=True,
        ):
            assert ours.tokens.tolist() == plain.tokens.tolist()
            same(ours.logits, plain.logits)


def test_the_same_prompt_again_is_its_last_position(
    omni: HookedOmni, prompt: EmbeddedPrompt, positions: list[int]
) -> None:
    like = prefill(omni.model, prompt)
    positions.clear()
    again = prefill(omni.model, replace(prompt), like=like)
    assert positions == [1]
    assert prefill(omni.model, again) is again
    moved = replace(prompt, position_ids=prompt.position_ids + 1)
    prefill(omni.model, moved, like=like)
    assert positions == [1, prompt.n_pos]


# --- what else it carries --------------------------------------------------------------------


def test_plain_captions_are_remembered(
    omni: HookedOmni, prompt: EmbeddedPrompt, positions: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    ready = prefill(omni.model, prompt)
    monkeypatch.setattr(omni.model.cfg, "eos_tokens", ())
    plain = omni.model.generate(prompt, STEPS)
    first = omni.model.generate(ready, STEPS)
    positions.clear()
    again = omni.model.generate(ready, STEPS)
    assert positions == []
    assert plain.tokens.tolist() == first.tokens.tolist() == again.tokens.tolist()
    assert again.tokens.dtype == plain.tokens.dtype and again.text == plain.text
    first.tokens[0] += 1
    again.tokens[0] += 1
    assert omni.model.generate(ready, STEPS).tokens.tolist() == plain.tokens.tolist()
    assert len(omni.model.generate(ready, STEPS + 1).tokens) == STEPS + 1
    end = int(plain.tokens[1])
    monkeypatch.setattr(omni.model.cfg, "eos_tokens", (end,))
    n_until = plain.tokens.tolist().index(end) + 1
    assert len(omni.model.generate(ready, STEPS).tokens) == n_until < STEPS
    assert len(omni.model.generate(ready, STEPS, stop_at_eos=False).tokens) == STEPS


def test_only_plain_captions_are_remembered(
    omni: HookedOmni, prompt: EmbeddedPrompt, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = omni.model
    monkeypatch.setattr(model.cfg, "eos_tokens", ())
    plain, ready = model.generate(prompt, STEPS), prefill(model, prompt)
    assert ready.passed is not None
    loud = [(names.resid_mid(1), lambda resid, hook: resid * 5)]
    with model.hooks(loud):
        other = model.generate(ready, STEPS)
    assert other.tokens.tolist() != plain.tokens.tolist()
    assert other.tokens.tolist() == model.generate(ready, STEPS, loud).tokens.tolist()
    model.generate_many(ready, [[], [knockout("G !-> V")]], STEPS)
    model.generate_many(ready, [[]], STEPS)
    assert model.generate(ready, STEPS, return_logits=True).logits is not None
    assert model.generate(ready, STEPS, capture=Capture(segments=("audio",))).shares is not None
    assert not ready.passed.said
    assert model.generate(ready, STEPS).tokens.tolist() == plain.tokens.tolist()
    # and what is remembered is read by plain captions alone
    with model.hooks(loud):
        assert model.generate(ready, STEPS).tokens.tolist() == other.tokens.tolist()
    assert model.generate(ready, STEPS, loud).tokens.tolist() == other.tokens.tolist()
    assert model.generate(ready, STEPS, return_logits=True).logits is not None
    assert model.generate(ready, STEPS, capture=Capture(segments=("audio",))).shares is not None


def test_a_batch_does_not_read_the_memory(
    omni: HookedOmni, prompt: EmbeddedPrompt, positions: list[int]
) -> None:
    ready = prefill(omni.model, prompt)
    before = omni.model.generate_many(ready, [[]], STEPS, stop_at_eos=False)
    omni.model.generate(ready, STEPS, stop_at_eos=False)
    positions.clear()
    after = omni.model.generate_many(ready, [[]], STEPS, stop_at_eos=False)
    assert len(positions) == STEPS - 1
    assert before[0].tokens.tolist() == after[0].tokens.tolist()


def test_residual_streams_and_norms(omni: HookedOmni, prompt: EmbeddedPrompt) -> None:
    ready = prefill(omni.model, prompt, residuals="audio+last")
    at = prompt.spans["audio+last"]
    _, cache = omni.model.run_with_cache(prompt, lambda name: "hook_resid" in name)
    assert ready.passed is not None and ready.passed.kept.tolist() == at.tolist()
    for layer in range(omni.model.cfg.n_layers):
        behind, before = (cache[name(layer)][0] for name in (names.resid_post, names.resid_pre))
        assert torch.equal(ready.passed.residuals[layer], behind[at])
        assert torch.equal(ready.passed.norms[layer], before.norm(dim=-1))


def test_a_prompt_that_is_partly_another_has_its_own_norms(
    omni: HookedOmni, prompt: EmbeddedPrompt
) -> None:
    like = prefill(omni.model, prompt, residuals="audio")
    embeds = prompt.embeds.clone()
    embeds[:, prompt.spans["audio@1.0-2.0s"]] *= -3
    other = replace(prompt, embeds=embeds)
    partly = prefill(omni.model, other, like=like, residuals="audio").passed
    whole = prefill(omni.model, other).passed
    assert partly is not None and whole is not None and not len(partly.kept)
    torch.testing.assert_close(partly.norms, whole.norms, rtol=1e-5, atol=1e-5)


def test_nothing_is_kept_of_what_standing_hooks_edit(
    omni: HookedOmni, prompt: EmbeddedPrompt, positions: list[int]
) -> None:
    with omni.model.hooks([(names.resid_mid(1), lambda resid, hook: resid * 5)]):
        ready = prefill(omni.model, prompt, residuals="audio")
    assert ready.passed is None and positions == []
    ours, plain = (omni.model.generate(p, 1, return_logits=True).logits for p in (ready, prompt))
    assert ours is not None and plain is not None and torch.equal(ours, plain)


@pytest.mark.parametrize("at", ["blocks.1", "blocks.1.hook_resid_mid", "unembed"])
def test_nothing_is_used_while_torchs_own_hook_stands_on_a_module(
    omni: HookedOmni, prompt: EmbeddedPrompt, at: str
) -> None:
    model, ready = omni.model, prefill(omni.model, prompt, residuals="audio")
    said = model.generate(ready, STEPS).tokens.tolist()
    module: Any = model.get_submodule(at)
    handle = module.register_forward_hook(lambda _module, _args, out: out.flip(-1))
    try:
        assert prefill_state(model, ready) is None
        ours, plain = (model.generate(p, STEPS).tokens.tolist() for p in (ready, prompt))
        assert prefill(model, prompt).passed is None
    finally:
        handle.remove()
    assert ours == plain != said
    assert model.generate(ready, STEPS).tokens.tolist() == said


@pytest.mark.parametrize("inference", [False, True])
@pytest.mark.parametrize("what", ["embeds", "position_ids", "mask"])
def test_nothing_is_used_of_a_prompt_that_was_edited_in_place(
    omni: HookedOmni, prompt: EmbeddedPrompt, what: str, inference: bool
) -> None:
    with torch.inference_mode(inference):
        own = {n: getattr(prompt, n).clone() for n in ("embeds", "position_ids")}
        one = replace(prompt, **own, mask=torch.ones_like(prompt.tokens))
        assert one.embeds.is_inference() == inference
        ready = prefill(omni.model, one, residuals="audio")
        assert prefill_state(omni.model, ready) is not None and prefill(omni.model, ready) is ready
        omni.model.generate(ready, STEPS)
        if what == "mask":
            one.mask[:, 0] = 0  # pyright: ignore[reportOptionalSubscript]
        else:
            getattr(one, what)[..., prompt.spans["video"], *([0] * (what == "embeds"))] += 3
        assert prefill_state(omni.model, ready) is None
        ours, plain = (omni.model.generate(p, 1, return_logits=True).logits for p in (ready, one))
        assert ours is not None and plain is not None and torch.equal(ours, plain)
        again = prefill(omni.model, ready)
        assert again is not ready and prefill_state(omni.model, again) is not None


def test_a_span_that_is_not_there(omni: HookedOmni, clips: dict) -> None:
    with pytest.raises(SpanError, match="'audio'"):
        prefill(omni.model, omni.embed_inputs(**clips["omni", "video"]), residuals="audio")


def test_a_batch_of_prompts(omni: HookedOmni, as_installed: None) -> None:
    with pytest.raises(PromptError, match="expected one prompt, got a batch of 2"):
        prefill(omni.model, torch.tensor([[1, 2, 3], [4, 5, 6]]))
