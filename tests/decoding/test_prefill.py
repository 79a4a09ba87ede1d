"""A prefilled prompt gives what the prompt gives, without a pass over it."""

from dataclasses import replace
from typing import Any

import pytest
import torch

from hooked_omni import ablate, knockout, load, names, windows
from hooked_omni.decoding.generate import Generation
from hooked_omni.decoding.prefill import PrefilledPrompt, prefill, prefill_state
from hooked_omni.errors import HookError, PromptError, SpanError
from tests.support.models import left_padded, look
from tests.support.runs import bits_equal, close, unstopped

STEPS = 5
Passes = list[tuple[int, int]]
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


def widths(passes: Passes) -> list[int]:
    return [n_pos for _, n_pos in passes]


def same_captions(ours: list[Generation], plain: list[Generation]) -> None:
    for one, other in zip(ours, plain, strict=True):
        assert one.tokens.tolist() == other.tokens.tolist()
        close(one.logits, other.logits)


@pytest.mark.parametrize("name", CONDITIONS)
def test_captions_and_scores_are_the_same(omni, prompt, name):
    model, conditions, full = omni.model, CONDITIONS[name], prefill(omni.model, prompt)
    decoding = unstopped(STEPS)
    plain = model.generate_many(prompt, conditions, decoding)
    for _ in range(2):  # what a caption did to the cache would show in the next
        same_captions(model.generate_many(full, conditions, decoding), plain)
        alone = [model.generate(full, decoding, c).logits for c in conditions]
        close(alone, [other.logits for other in plain])
    text = torch.tensor([3, 1, 4, 1, 5])
    close(model.score(full, text, conditions), model.score(prompt, text, conditions))


def test_one_caption_is_the_same_to_the_bit(omni, prompt):
    full = prefill(omni.model, prompt)
    bits_equal(*(omni.model.generate(p, unstopped(STEPS)).logits for p in (full, prompt)))


def test_no_pass_over_the_prompt(omni, prompt, passes):
    full = prefill(omni.model, prompt)
    assert widths(passes) == [prompt.n_pos]
    omni.model.generate(full, unstopped(STEPS))
    omni.model.generate_many(full, CONDITIONS["sweep"], max_new_tokens=STEPS)
    omni.model.generate_many(full, CONDITIONS["last position too"], max_new_tokens=STEPS)
    omni.model.score(full, torch.tensor([1, 2, 3]), CONDITIONS["sweep"])
    assert max(widths(passes)[1:]) <= STEPS


def test_what_acts_on_the_prompt_makes_its_own_pass(omni, prompt, passes):
    full = prefill(omni.model, prompt)
    omni.model.generate_many(full, CONDITIONS["on the prompt"], max_new_tokens=STEPS)
    omni.model.generate(full, max_new_tokens=STEPS, fwd_hooks=[(names.resid_mid(1), look)])
    with omni.model.hooks([(names.resid_mid(1), lambda t, hook: t * 2)]):
        loud = omni.model.generate(full, unstopped(STEPS))
    assert widths(passes).count(prompt.n_pos) == 5
    plain = omni.model.generate(prompt, unstopped(STEPS))
    assert not torch.allclose(loud.logits[0], plain.logits[0], atol=1e-3)


def test_another_prompt_or_model_makes_its_own_pass(omni, prompt):
    full = prefill(omni.model, prompt)
    other = replace(full, embeds=full.embeds.flip(1))
    assert isinstance(other, PrefilledPrompt)
    plain = replace(prompt, embeds=prompt.embeds.flip(1))
    bits_equal(*(omni.model.generate(p, unstopped(1)).logits for p in (other, plain)))
    stranger = load("random-omni").model
    bits_equal(*(stranger.generate(p, unstopped(1)).logits for p in (full, prompt)))


@pytest.mark.parametrize("changed", ["audio@1.0-2.0s", "video", "last", "system"])
def test_only_what_differs_is_passed_over(omni, prompt, passes, changed):
    like = prefill(omni.model, prompt)
    embeds = prompt.embeds.clone()
    embeds[:, prompt.spans[changed]] *= -0.5
    other = replace(prompt, embeds=embeds)
    passes.clear()
    full = prefill(omni.model, other, like=like)
    first = int(prompt.spans[changed][0])
    assert first > 0 and widths(passes) == [prompt.n_pos - first]
    decoding = unstopped(STEPS)
    for conditions in (CONDITIONS["one"], CONDITIONS["sweep"]):
        ours, plain = (omni.model.generate_many(p, conditions, decoding) for p in (full, other))
        same_captions(ours, plain)


def test_behind_padding_a_few_positions_are_not_taken(omni, clips, passes):
    """A mask skips no work: the kernel's own, for whole passes, does."""
    prompt = omni.embed_inputs(**left_padded(omni, clips["omni", "audio in video"], 3))
    like, middle = prefill(omni.model, prompt), prompt.n_pos // 2
    for first, width in ((prompt.n_pos // 8, prompt.n_pos), (middle, prompt.n_pos - middle)):
        embeds = prompt.embeds.clone()
        embeds[:, first:] *= -0.5
        passes.clear()
        other = replace(prompt, embeds=embeds)
        full = prefill(omni.model, other, like=like)
        assert widths(passes) == [width]
        same_captions(*([omni.model.generate(p, unstopped(STEPS))] for p in (full, other)))


def test_the_same_prompt_again_is_its_last_position(omni, prompt, passes):
    like = prefill(omni.model, prompt)
    passes.clear()
    again = prefill(omni.model, replace(prompt), like=like)
    assert widths(passes) == [1]
    assert prefill(omni.model, again) is again
    moved = replace(prompt, position_ids=prompt.position_ids + 1)
    prefill(omni.model, moved, like=like)
    assert widths(passes) == [1, prompt.n_pos]


@pytest.mark.parametrize("span", ["audio+last", None])
def test_activations_are_those_of_a_cache(omni, prompt, span):
    wanted = lambda name: name.endswith(("hook_resid_pre", "hook_pattern"))  # noqa: E731
    state = prefill(omni.model, prompt, wanted, span).state
    _, cache = omni.model.run_with_cache(prompt, wanted)
    at = torch.arange(prompt.n_pos) if span is None else prompt.spans[span]
    assert state is not None and set(state.activations.keys()) == set(cache.keys())
    for name, tensor in cache.items():
        axis = names.position_axis(name)
        assert torch.equal(state.activations[name], tensor.index_select(axis, at))
        assert state.kept[name].tolist() == at.tolist()


def test_each_name_may_have_a_span_of_its_own(omni, prompt, passes):
    spans = {names.resid_pre(2): None, names.resid_post(1): "audio"}
    full = prefill(omni.model, prompt, spans)
    assert full.state is not None
    shapes = {name: tensor.shape[1] for name, tensor in full.state.activations.items()}
    assert shapes == {names.resid_pre(2): prompt.n_pos, names.resid_post(1): 75}
    # What is held is not computed again, and what is not makes another pass.
    assert prefill(omni.model, full) is full
    assert prefill(omni.model, full, names.resid_post(1), "audio@1.0-2.0s") is full
    assert prefill(omni.model, full, names.resid_post(1), "video") is not full
    assert widths(passes) == [prompt.n_pos] * 2


def test_names_and_a_prompt_to_be_like_are_too_much(omni, prompt):
    like = prefill(omni.model, prompt)
    with pytest.raises(HookError, match="`like` another, got 1"):
        prefill(omni.model, prompt, names.resid_post(1), like=like)
    with pytest.raises(HookError, match=r"Closest is 'blocks\.1\.hook_resid_post'"):
        prefill(omni.model, prompt, {"blocks.1.hook_resid_pst": None})


def test_nothing_is_kept_of_what_standing_hooks_edit(omni, prompt, passes):
    with omni.model.hooks([(names.resid_mid(1), lambda resid, hook: resid * 5)]):
        full = prefill(omni.model, prompt)
    assert full.state is None and passes == []
    bits_equal(*(omni.model.generate(p, unstopped(1)).logits for p in (full, prompt)))


@pytest.mark.parametrize("at", ["blocks.1", "unembed"])
def test_nothing_is_used_while_torchs_own_hook_stands_on_a_module(omni, prompt, at):
    model, full, decoding = omni.model, prefill(omni.model, prompt), unstopped(STEPS)
    expected = model.generate(full, decoding).tokens.tolist()
    module: Any = model.get_submodule(at)
    handle = module.register_forward_hook(lambda _module, _args, out: out.flip(-1))
    try:
        assert prefill_state(model, full) is None
        ours, plain = (model.generate(p, decoding).tokens.tolist() for p in (full, prompt))
        assert prefill(model, prompt).state is None
    finally:
        handle.remove()
    assert ours == plain != expected
    assert model.generate(full, decoding).tokens.tolist() == expected


@pytest.mark.parametrize("inference", [False, True])
@pytest.mark.parametrize("what", ["embeds", "position_ids", "mask"])
def test_nothing_is_used_of_a_prompt_that_was_edited_in_place(omni, prompt, what, inference):
    with torch.inference_mode(inference):
        own = {n: getattr(prompt, n).clone() for n in ("embeds", "position_ids")}
        one = replace(prompt, **own, mask=torch.ones_like(prompt.tokens))
        assert one.embeds.is_inference() == inference
        full = prefill(omni.model, one)
        assert prefill_state(omni.model, full) is not None and prefill(omni.model, full) is full
        omni.model.generate(full, max_new_tokens=STEPS)
        if what == "mask":
            one.mask[:, 0] = 0  # pyright: ignore[reportOptionalSubscript]
        else:
            getattr(one, what)[..., prompt.spans["video"], *([0] * (what == "embeds"))] += 3
        assert prefill_state(omni.model, full) is None
        bits_equal(*(omni.model.generate(p, unstopped(1)).logits for p in (full, one)))
        again = prefill(omni.model, full)
        assert again is not full and prefill_state(omni.model, again) is not None


def _replaced(model: Any) -> None:
    part = model.blocks[3].mlp.down_proj
    part.weight = torch.nn.Parameter(part.weight.detach() * 2)


def _loaded(model: Any) -> None:
    state = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    state["blocks.2.attn.k_proj.bias"][5] += 1
    model.load_state_dict(state)


def _swapped(model: Any) -> None:
    heads = model.blocks[1].attn.q_proj.weight.data.view(4, 16, 64)
    heads[[0, 1]] = heads[[1, 0]]


EDITS: dict[str, Any] = {
    "through data": lambda model: model.blocks[0].mlp.up_proj.weight.data[7, 3:4].add_(1e-3),
    "through a view": lambda model: model.blocks[1].attn.W_Q.detach()[2, :, 4].mul_(0.5),
    "one head": lambda model: model.blocks[3].attn.W_O.data[1].zero_(),
    "two heads swapped": _swapped,
    "a parameter replaced": _replaced,
    "a state loaded": _loaded,
    "epsilon": lambda model: setattr(model.blocks[2].ln2, "eps", 1e-2),
    "rotary frequencies": lambda model: model.rotary.inv_freqs[0][1:2].mul_(1.01),
}


@pytest.mark.parametrize("name", EDITS)
def test_nothing_is_used_of_a_model_that_was_edited(prompt, name):
    own = load("random-omni")
    full = prefill(own.model, prompt)
    assert prefill_state(own.model, full) is not None
    EDITS[name](own.model)
    assert prefill_state(own.model, full) is None and prefill(own.model, full) is not full
    bits_equal(*(own.model.generate(p, unstopped(2)).logits for p in (full, prompt)))


def test_nothing_is_used_after_an_edit_of_hugging_faces_side_until_it_is_undone(omni, prompt):
    full = prefill(omni.model, prompt)
    weight = omni.hf.model.language_model.layers[0].self_attn.v_proj.weight
    kept = weight.data.clone()
    weight.data[1, 1] = 0.5
    assert prefill_state(omni.model, full) is None
    weight.data.copy_(kept)
    assert prefill_state(omni.model, full) is not None
    omni.model.double()
    assert prefill_state(omni.model, full) is None
    omni.model.float()
    assert prefill_state(omni.model, full) is not None
    kept = full.embeds.data[0, 0].clone()
    full.embeds.data[0, 0] += 1  # which no counter of versions sees
    assert prefill_state(omni.model, full) is None
    full.embeds.data[0, 0] = kept


def test_spans_that_are_not_there_and_batches_are_refused(omni, clips, as_installed):
    with pytest.raises(SpanError, match="'audio'"):
        prefill(omni.model, omni.embed_inputs(**clips["omni", "video"]), names.EMBED, "audio")
    with pytest.raises(PromptError, match="expected one prompt, got a batch of 2"):
        prefill(omni.model, torch.tensor([[1, 2, 3], [4, 5, 6]]))
