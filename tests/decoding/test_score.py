"""A text's logits are those of Hugging Face's cached pass to the bit, and its scores follow."""

from contextlib import nullcontext
from dataclasses import replace
from typing import Any

import pytest
import torch

from hooked_omni import knockout, names
from hooked_omni.decoding.prefill import prefill
from hooked_omni.decoding.score import forced_logits, logits_at_once
from hooked_omni.errors import HookError, PromptError
from tests.support.conditions import zoo
from tests.support.hugging_face import Cut, hf_cut, hf_forced, hf_logprobs
from tests.support.models import CLIP_OF, KINDS, eager, left_padded
from tests.support.runs import bits_equal, close, unstopped

Clips = dict[tuple[str, str], dict[str, Any]]
TEXT = torch.tensor([65, 7, 200, 65, 31])


def continued(inputs: dict[str, Any], tokens: torch.Tensor) -> dict[str, Any]:
    """The processor's output with a text after the prompt."""
    longer = dict(inputs)
    for name, row in (("input_ids", tokens), ("attention_mask", torch.ones_like(tokens))):
        longer[name] = torch.cat([inputs[name], row[None].to(inputs[name].dtype)], dim=1)
    if "mm_token_type_ids" in inputs:
        types = inputs["mm_token_type_ids"]
        longer["mm_token_type_ids"] = torch.cat([types, types.new_zeros(1, len(tokens))], dim=1)
    return longer


@pytest.mark.parametrize(("name", "kind"), KINDS)
def test_logits_are_hugging_faces(models, clips, name, kind):
    omni, inputs = models[name], clips[name, kind]
    prompt = omni.embed_inputs(**inputs)
    logits = forced_logits(omni.model, prompt, TEXT)
    assert torch.equal(logits[1:], hf_forced(omni, inputs, prompt, TEXT)[1:])
    # In one pass, sums are in another order.
    close(logits, omni.hf(**continued(inputs, TEXT[:-1])).logits[0, -len(TEXT) :])


def test_the_prompt_is_passed_over_once(omni, prompt, passes):
    full, seen = prefill(omni.model, prompt), []
    hooks: list[list[Any]] = [
        [],
        [knockout(query="generated", key="video")],
        [(names.resid_mid(0), lambda _resid, hook: seen.append(hook.window))],
    ]
    n_pos, total = prompt.n_pos, prompt.n_pos + len(TEXT) - 1
    whole = [forced_logits(omni.model, prompt, TEXT, condition) for condition in hooks]
    assert seen == [range(n_pos), range(n_pos, total)]  # a user's own hook sees the prompt, too
    passes.clear()
    for _ in range(2):  # what the first left in the cache would show in the second
        for condition, expected in zip(hooks, whole, strict=True):
            assert torch.equal(forced_logits(omni.model, full, TEXT, condition), expected)
    forced = len(TEXT) - 1
    assert [n for _, n in passes] == [forced, forced, n_pos, forced] * 2
    with omni.model.hooks([(names.resid_mid(1), lambda resid, hook: resid * 2)]):
        ours, plain = (forced_logits(omni.model, p, TEXT) for p in (full, prompt))
        assert torch.equal(ours, plain) and not torch.allclose(ours, whole[0], atol=1e-3)


@pytest.mark.parametrize("changed", [None, "last", "audio@1.0-2.0s", "video"])
def test_a_text_and_its_prompt_in_one_pass(omni, prompt, passes, changed):
    """To rounding, and only from where the prompt differs from one that is prefilled."""
    like, embeds = prefill(omni.model, prompt), prompt.embeds.clone()
    first = prompt.n_pos - 1 if changed is None else int(prompt.spans[changed][0])
    if changed is not None:
        embeds[:, first:] *= -0.5
    other = replace(prompt, embeds=embeds)
    expected = forced_logits(omni.model, other, TEXT)
    passes.clear()
    close(logits_at_once(omni.model, other, TEXT, like), expected)
    assert [n for _, n in passes] == [prompt.n_pos - first + len(TEXT) - 1]
    close(logits_at_once(omni.model, other, TEXT[:1], like), expected[:1])
    with omni.model.hooks([(names.resid_mid(1), lambda resid, hook: resid * 2)]):
        bits_equal(
            logits_at_once(omni.model, other, TEXT, like), forced_logits(omni.model, other, TEXT)
        )
    for wrong in (TEXT + 10_000, TEXT[:0]):
        with pytest.raises(PromptError):
            logits_at_once(omni.model, other, wrong, like)


@pytest.mark.parametrize(("name", "padding"), [("vl3", 0), ("vl3", 4), ("phi4", 0), ("audio", 4)])
def test_a_text_and_its_prompt_in_one_pass_of_other_decoders(models, clips, name, padding):
    """With vision features, windows, partial rotary; behind padding, too."""
    omni, inputs = models[name], clips[name, CLIP_OF[name]]
    prompt = omni.embed_inputs(**(left_padded(omni, inputs, padding) if padding else inputs))
    for first in (1, prompt.n_pos // 3, prompt.n_pos - 2):
        embeds = prompt.embeds.clone()
        embeds[:, first:] *= -0.5
        other = replace(prompt, embeds=embeds)
        ours = logits_at_once(omni.model, other, TEXT, prefill(omni.model, prompt))
        close(ours, forced_logits(omni.model, other, TEXT))


def test_scores_are_its_log_probabilities(omni, prompt):
    cut = [knockout(query="generated", key="video")]
    plain, scored = (omni.model.score(prompt, TEXT, [[], cut])[i] for i in (0, 1))
    for hooks, scores in (([], plain), (cut, scored)):
        logprobs = forced_logits(omni.model, prompt, TEXT, hooks).log_softmax(-1)
        chosen = logprobs.gather(1, TEXT[:, None])[:, 0]
        torch.testing.assert_close(chosen, scores, atol=2e-6, rtol=0)
    assert not torch.allclose(plain, scored, atol=1e-3)


def test_what_cannot_be_forced(omni, clips, as_installed):
    prompt = omni.embed_inputs(**clips["omni", "audio"])
    for text in (TEXT[None], TEXT[:0]):
        with pytest.raises(PromptError, match=rf"got shape \({', '.join(map(str, text.shape))}"):
            forced_logits(omni.model, prompt, text)
    with pytest.raises(PromptError, match="They belong to another vocabulary"):
        forced_logits(omni.model, prompt, TEXT + 10_000)
    with pytest.raises(HookError, match="it would do nothing"):
        forced_logits(omni.model, prompt, TEXT[:1], [knockout(query="generated", key="audio")])


@pytest.mark.parametrize("name", ["omni", "vl"])
@pytest.mark.parametrize("n", [1, 2, 7])
def test_scores_are_hugging_faces(models, clips, name, n):
    omni = models[name]
    prompt = omni.embed_inputs(**clips[name, CLIP_OF[name]])
    tokens = torch.randint(0, 256, (n,), generator=torch.Generator().manual_seed(n))
    cuts = [None, ("generated+last", "video"), ("generated+last", "question"), None]
    if n > 1:
        cuts += [("generated", "video"), ("generated", "system")]
    conditions = [[] if cut is None else [knockout(query=cut[0], key=cut[1])] for cut in cuts]
    together = omni.model.score(prompt, tokens, conditions)
    for ours, cut in zip(together, cuts, strict=True):
        assert ours.shape == (n,) and ours.dtype == torch.float32
        masked = nullcontext() if cut is None else hf_cut(omni, prompt, Cut("", *cut))
        with eager(omni), masked:
            close(ours, hf_logprobs(omni, prompt, tokens).float())
    bits_equal(together[0], together[3])
    assert not torch.allclose(together[0], together[1], atol=1e-3)


def test_a_captions_scores_are_the_ones_it_was_chosen_by(omni, prompt, reference):
    """Without hooks that count their calls: a text is read in one call, and written in many."""
    every = zoo(prompt, reference)
    for name in ("state", "state at decode", "in place", "filter", "order", "other order"):
        del every[name]
    made = omni.model.generate_many(prompt, list(every.values()), unstopped(6))
    plain = knockout("G !-> system @ 2")
    for name, own in zip(every, made, strict=True):
        chosen = own.logits.log_softmax(-1).amax(-1)
        scored = omni.model.score(prompt, own.tokens, [[], every[name], [plain]])[1]
        close(scored, chosen, why=name)
        close(omni.model.score(prompt, own.tokens, [every[name]])[0], scored)


def test_scores_of_a_padded_prompt(omni, clips, prompt):
    padded = omni.embed_inputs(**left_padded(omni, clips["omni", "audio in video"], 5))
    conditions = [[], [knockout("G+last !-> V")], [knockout("G !-> A @ 1")]]
    close(*(omni.model.score(p, TEXT, conditions) for p in (padded, prompt)))


def test_scores_of_plain_text(omni):
    text = torch.tensor([9, 8, 7, 6])
    tokens = torch.tensor([[72, 101, 108, 108]])
    edit = [(names.resid_post(1), lambda tensor, hook: tensor * 1.5)]
    ours = omni.model.score(tokens, text, [[], edit, []])
    both = torch.cat([tokens, text[None]], dim=1)
    for scores, hooks in zip(ours, ([], edit, []), strict=True):
        logits = omni.model.run_with_hooks(both, fwd_hooks=hooks)[0, 3:-1].log_softmax(-1)
        close(scores, logits[torch.arange(4), text])
