"""Every hook point holds what Hugging Face computes there, and reading it changes no bit."""

from contextlib import nullcontext
from typing import Any

import pytest
import torch

from hooked_omni import names
from hooked_omni.hf.capture import find_decoder
from tests.support.hugging_face import EXACT, NORMS, Place, hf_run
from tests.support.models import eager, look
from tests.support.runs import bits_equal, hook_name, kind_of, layers_of, one_of_each, opened

INSIDE_ATTENTION = {
    f"attn.hook_{name}" for name in ("rot_q", "rot_k", "attn_scores", "pattern", "result")
} | {f"attn.hook_{name}" for name in ("attn_in", "q_input", "k_input", "v_input")}


def test_every_hook_point_has_a_place_here(omni):
    model = omni.model
    kinds = {kind_of(name) for name in model.hook_dict}
    norms = {f"{norm}.hook_{what}" for norm in NORMS for what in ("scale", "normalized")}
    assert kinds == set(EXACT) | norms | INSIDE_ATTENTION
    per_layer = [k for k in kinds if not k.startswith(("hook_embed", "ln_final"))]
    assert len(model.hook_dict) == len(per_layer) * model.cfg.n_layers + 3


def test_caching_changes_no_bit(subject):
    _omni, _inputs, model, prompt = subject
    logits, cache = model.run_with_cache(prompt)
    assert set(cache.keys()) == set(model.hook_dict)
    bits_equal(logits, model.run_with_hooks(prompt, fwd_hooks=opened(model)))
    logits, cache = model.run_with_cache(prompt, lambda n: not n.endswith(names.PATTERN_LIKE))
    assert len(cache) == len(model.hook_dict) - 2 * model.cfg.n_layers
    bits_equal(logits, model(prompt))


def test_reading_one_hook_point_changes_no_bit(subject):
    """Also for a hook that returns what it was given."""
    _omni, _inputs, model, prompt = subject
    unopened = model(prompt)
    for name in one_of_each(model):
        expected = unopened
        if name.endswith(names.PATTERN_LIKE):
            layer = names.layer_of(name)
            assert layer is not None
            expected = model.run_with_hooks(prompt, fwd_hooks=[(names.pattern(layer), look)])
        cached = model.run_with_cache(prompt, names_filter=name)[0]
        returned = model.run_with_hooks(prompt, fwd_hooks=[(name, lambda tensor, hook: tensor)])
        assert torch.equal(cached, expected), name
        assert torch.equal(returned, expected), name


@pytest.mark.parametrize("kind", sorted(EXACT))
def test_activations_are_hugging_faces(subject, kind):
    omni, inputs, model, _ = subject
    for layer in layers_of(kind, model):
        name = hook_name(kind, layer)
        for attention, hooks in ((nullcontext, []), (eager, opened(model))):
            with attention(omni):
                theirs, logits = hf_run(omni, inputs, EXACT[kind], layer)
                prompt = omni.embed_inputs(**inputs)
            ours, cache = model.run_with_cache(prompt, name, fwd_hooks=hooks)
            bits_equal(ours, logits)
            bits_equal(cache[name].reshape(theirs.shape), theirs)


@pytest.mark.parametrize("norm", sorted(NORMS))
def test_norms_are_hugging_faces(subject, norm):
    omni, inputs, model, prompt = subject
    _, cache = model.run_with_cache(prompt, lambda name: norm in name)
    for layer in layers_of(norm, model):
        before, _ = hf_run(omni, inputs, Place(NORMS[norm], "in"), layer)
        after, _ = hf_run(omni, inputs, Place(NORMS[norm], "out"), layer)
        weight: Any = find_decoder(omni.hf).get_submodule(NORMS[norm].format(layer)).weight
        at = hook_name(f"{norm}.hook_", layer)
        normalized, scale = cache[at + "normalized"], cache[at + "scale"]
        bits_equal(weight * normalized, after)
        assert scale.shape == (1, prompt.n_pos, 1)
        mean_square = before.double().pow(2).mean(-1, keepdim=True)
        torch.testing.assert_close(scale.double(), (mean_square + 1e-6).sqrt())
        torch.testing.assert_close(before / scale, normalized)


def test_attention_is_hugging_faces(subject):
    omni, inputs, model, prompt = subject
    with eager(omni) as hf:
        prompt = omni.embed_inputs(**inputs)
        out = hf(**inputs, output_attentions=True, use_cache=True)
    _, cache = model.run_with_cache(prompt)
    groups = model.cfg.n_heads // model.cfg.n_key_value_heads
    causal = torch.ones(prompt.n_pos, prompt.n_pos).tril().bool()
    for layer in range(model.cfg.n_layers):
        at = f"blocks.{layer}.attn.hook_"
        bits_equal(cache[at + "pattern"], out.attentions[layer])
        bits_equal(cache[at + "attn_scores"].softmax(-1), cache[at + "pattern"])
        kept = out.past_key_values.layers[layer]
        bits_equal(cache[at + "rot_k"].transpose(1, 2), kept.keys)
        bits_equal(cache[at + "v"].transpose(1, 2), kept.values)
        wide_keys = kept.keys.repeat_interleave(groups, dim=1)
        scores = cache[at + "rot_q"].transpose(1, 2) @ wide_keys.mT * model.cfg.d_head**-0.5
        ours = cache[at + "attn_scores"]
        torch.testing.assert_close(ours[..., causal], scores[..., causal])
        assert (ours[..., ~causal] == torch.finfo(ours.dtype).min).all()
        wide_values = kept.values.repeat_interleave(groups, dim=1)
        z = (out.attentions[layer] @ wide_values).transpose(1, 2)
        torch.testing.assert_close(cache[at + "z"], z)
        head_outputs = cache[at + "result"]
        assert head_outputs.shape == (1, prompt.n_pos, model.cfg.n_heads, model.cfg.d_model)
        torch.testing.assert_close(head_outputs.sum(2), cache[names.attn_out(layer)])
        one_head = cache[at + "z"][:, :, 1] @ model.W_O[layer, 1]
        torch.testing.assert_close(head_outputs[:, :, 1], one_head)


def test_hidden_states_are_hugging_faces(subject):
    omni, inputs, model, prompt = subject
    theirs = omni.hf(**inputs, output_hidden_states=True).hidden_states
    _, cache = model.run_with_cache(prompt, lambda name: "resid" in name or name == names.EMBED)
    bits_equal(cache[names.EMBED], theirs[0])
    n_layers = model.cfg.n_layers
    for layer in range(n_layers):
        bits_equal(cache[names.resid_pre(layer)], theirs[layer])
        if layer < n_layers - 1:  # the last hidden state is after the final norm
            bits_equal(cache[names.resid_post(layer)], theirs[layer + 1])
    final = model.ln_final(cache[names.resid_post(n_layers - 1)])
    bits_equal(final, theirs[n_layers])
