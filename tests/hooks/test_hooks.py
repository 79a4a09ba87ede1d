"""Every hook point shows what Hugging Face computes there, and an edit there is that edit."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import pytest
import torch
from torch import Tensor

from hooked_omni import EmbeddedPrompt, HookedOmni, HookedTransformer, knockout, load, names
from hooked_omni.errors import HookError
from hooked_omni.hf.capture import find_decoder
from tests.support.models import eager, left_padded, look

POSITION = 40
CLOSE: Any = dict(rtol=1e-4, atol=1e-5)
EQUAL: Any = dict(rtol=0, atol=0)


@dataclass(frozen=True)
class Place:
    """Where Hugging Face computes what a hook point shows.

    Attributes:
        module: Inside the decoder; `{}` is the layer.
        side: Its input or its output.
        edit: The module whose output takes an edit of the same size, where it is another one.
    """

    module: str
    side: Literal["in", "out"]
    edit: str | None = None


# Hook points that hold exactly what goes in or out of a module.
EXACT = {
    "hook_embed": Place("", "in"),
    "hook_resid_pre": Place("layers.{}", "in"),
    "attn.hook_q": Place("layers.{}.self_attn.q_proj", "out"),
    "attn.hook_k": Place("layers.{}.self_attn.k_proj", "out"),
    "attn.hook_v": Place("layers.{}.self_attn.v_proj", "out"),
    "attn.hook_z": Place("layers.{}.self_attn.o_proj", "in"),
    "hook_attn_out": Place("layers.{}.self_attn", "out"),
    "hook_resid_mid": Place("layers.{}.post_attention_layernorm", "in", "layers.{}.self_attn"),
    "mlp.hook_pre": Place("layers.{}.mlp.gate_proj", "out"),
    "mlp.hook_pre_linear": Place("layers.{}.mlp.up_proj", "out"),
    "mlp.hook_post": Place("layers.{}.mlp.down_proj", "in"),
    "hook_mlp_in": Place("layers.{}.post_attention_layernorm", "in"),
    "hook_mlp_out": Place("layers.{}.mlp", "out"),
    "hook_resid_post": Place("layers.{}", "out"),
}
NORMS = {
    "ln1": "layers.{}.input_layernorm",
    "ln2": "layers.{}.post_attention_layernorm",
    "ln_final": "norm",
}
INSIDE_ATTENTION = {
    f"attn.hook_{name}" for name in ("rot_q", "rot_k", "attn_scores", "pattern", "result")
} | {f"attn.hook_{name}" for name in ("attn_in", "q_input", "k_input", "v_input")}


@pytest.fixture(params=["omni", "vl"])
def subject(request: pytest.FixtureRequest, models: dict, clips: dict) -> Any:
    """A model, with every hook point on, and the inputs of a clip."""
    omni = models[request.param]
    kind = {"omni": "audio in video", "vl": "video"}[request.param]
    with omni.model.every_hook_point():
        yield omni, clips[request.param, kind]


@pytest.fixture
def plain(omni: HookedOmni, clips: dict) -> tuple[HookedTransformer, EmbeddedPrompt]:
    """A model as loaded, and a prompt with sound inside a video."""
    return omni.model, omni.embed_inputs(**clips["omni", "audio in video"])


def kind_of(name: str) -> str:
    layer = names.layer_of(name)
    return name if layer is None else name.removeprefix(f"blocks.{layer}.")


def hook_name(kind: str, layer: int) -> str:
    return kind if kind.startswith(("hook_embed", "ln_final")) else f"blocks.{layer}.{kind}"


def layers_of(kind: str, model: HookedTransformer) -> list[int]:
    return [0] if kind.startswith(("hook_embed", "ln_final")) else [0, model.cfg.n_layers - 1]


def opened(model: HookedTransformer) -> list[Any]:
    return [(names.pattern(layer), look) for layer in range(model.cfg.n_layers)]


def bits_equal(ours: Tensor, theirs: Tensor) -> None:
    torch.testing.assert_close(ours, theirs, rtol=0, atol=0)


def first(kwargs: dict[str, Any], args: tuple[Any, ...]) -> Any:
    return args[0] if args else kwargs.get("hidden_states", kwargs.get("inputs_embeds"))


def hf_run(
    omni: HookedOmni,
    inputs: dict[str, Any],
    place: Place,
    layer: int,
    change: Callable[[Tensor], Tensor] | None = None,
) -> tuple[Tensor, Tensor]:
    """Hugging Face's activation at `place`, and its logits, with `change` made there if given."""
    seen: list[Tensor] = []

    def enter(_module: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        tensor = first(kwargs, args)
        seen.append(tensor.detach().clone())
        if change is None:
            return None
        if args:
            return (change(tensor), *args[1:]), kwargs
        key = "hidden_states" if "hidden_states" in kwargs else "inputs_embeds"
        return args, {**kwargs, key: change(tensor)}

    def leave(_module: Any, _args: Any, output: Any) -> Any:
        tensor = output[0] if isinstance(output, tuple) else output
        seen.append(tensor.detach().clone())
        if change is None:
            return None
        return (change(tensor), *output[1:]) if isinstance(output, tuple) else change(tensor)

    module = find_decoder(omni.hf).get_submodule(place.module.format(layer))
    if place.side == "in":
        handle = module.register_forward_pre_hook(enter, with_kwargs=True)
    else:
        handle = module.register_forward_hook(leave)
    try:
        logits = omni.hf(**inputs).logits
    finally:
        handle.remove()
    assert len(seen) == 1
    return seen[0], logits


def noise(shape: tuple[int, ...], seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def adding(delta: Tensor) -> Callable[..., Tensor]:
    """A hook, or a Hugging Face edit, that adds `delta` at one position of axis 1."""

    def add(tensor: Tensor, hook: Any = None) -> Tensor:
        edited = tensor.clone()
        edited[:, POSITION] += delta.reshape(tensor.shape[2:])
        return edited

    return add


def test_every_hook_point_has_a_place_here(omni: HookedOmni) -> None:
    kinds = {kind_of(name) for name in omni.model.hook_dict}
    norms = {f"{norm}.hook_{what}" for norm in NORMS for what in ("scale", "normalized")}
    assert kinds == set(EXACT) | norms | INSIDE_ATTENTION
    per_layer = [k for k in kinds if not k.startswith(("hook_embed", "ln_final"))]
    assert len(omni.model.hook_dict) == len(per_layer) * omni.model.cfg.n_layers + 3


# --- reading -------------------------------------------------------------------------------------


def test_caching_everything_changes_no_bit(subject: Any) -> None:
    omni, inputs = subject
    prompt = omni.embed_inputs(**inputs)
    logits, cache = omni.model.run_with_cache(prompt)
    assert set(cache.keys()) == set(omni.model.hook_dict)
    bits_equal(logits, omni.model.run_with_hooks(prompt, fwd_hooks=opened(omni.model)))


def test_caching_all_but_attention_changes_no_bit(subject: Any) -> None:
    omni, inputs = subject
    prompt = omni.embed_inputs(**inputs)
    unopened = omni.model(prompt)
    logits, cache = omni.model.run_with_cache(
        prompt, names_filter=lambda name: not name.endswith(names.PATTERN_LIKE)
    )
    assert len(cache) == len(omni.model.hook_dict) - 2 * omni.model.cfg.n_layers
    bits_equal(logits, unopened)


def test_reading_one_hook_point_changes_no_bit(subject: Any) -> None:
    """Also for a hook that returns what it was given."""
    omni, inputs = subject
    model, prompt = omni.model, omni.embed_inputs(**inputs)
    unopened = model(prompt)
    for name in model.hook_dict:
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
def test_activations_are_hugging_faces(subject: Any, kind: str) -> None:
    omni, inputs = subject
    for layer in layers_of(kind, omni.model):
        name = hook_name(kind, layer)
        theirs, logits = hf_run(omni, inputs, EXACT[kind], layer)
        prompt = omni.embed_inputs(**inputs)
        ours, cache = omni.model.run_with_cache(prompt, names_filter=name)
        bits_equal(ours, logits)
        bits_equal(cache[name].reshape(theirs.shape), theirs)
        with eager(omni):
            theirs, logits = hf_run(omni, inputs, EXACT[kind], layer)
            prompt = omni.embed_inputs(**inputs)
        ours, cache = omni.model.run_with_cache(prompt)
        bits_equal(ours, logits)
        bits_equal(cache[name].reshape(theirs.shape), theirs)


@pytest.mark.parametrize("norm", sorted(NORMS))
def test_norms_are_hugging_faces(subject: Any, norm: str) -> None:
    omni, inputs = subject
    prompt = omni.embed_inputs(**inputs)
    _, cache = omni.model.run_with_cache(prompt, lambda name: norm in name)
    for layer in layers_of(norm, omni.model):
        before, _ = hf_run(omni, inputs, Place(NORMS[norm], "in"), layer)
        after, _ = hf_run(omni, inputs, Place(NORMS[norm], "out"), layer)
        weight: Any = find_decoder(omni.hf).get_submodule(NORMS[norm].format(layer)).weight
        normalized, scale = (
            cache[hook_name(f"{norm}.hook_{what}", layer)] for what in ("normalized", "scale")
        )
        bits_equal(weight * normalized, after)
        assert scale.shape == (1, prompt.n_pos, 1)
        mean_square = before.double().pow(2).mean(-1, keepdim=True)
        torch.testing.assert_close(scale.double(), (mean_square + 1e-6).sqrt())
        torch.testing.assert_close(before / scale, normalized)


def test_attention_is_hugging_faces(subject: Any) -> None:
    omni, inputs = subject
    with eager(omni) as hf:
        prompt = omni.embed_inputs(**inputs)
        out = hf(**inputs, output_attentions=True, use_cache=True)
    model = omni.model
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


def test_hidden_states_are_hugging_faces(subject: Any) -> None:
    omni, inputs = subject
    theirs = omni.hf(**inputs, output_hidden_states=True).hidden_states
    prompt = omni.embed_inputs(**inputs)
    _, cache = omni.model.run_with_cache(
        prompt, lambda name: "resid" in name or name == names.EMBED
    )
    bits_equal(cache[names.EMBED], theirs[0])
    n_layers = omni.model.cfg.n_layers
    for layer in range(n_layers):
        bits_equal(cache[names.resid_pre(layer)], theirs[layer])
        if layer < n_layers - 1:  # the last hidden state is behind the final norm
            bits_equal(cache[names.resid_post(layer)], theirs[layer + 1])
    final = omni.model.ln_final(cache[names.resid_post(n_layers - 1)])
    bits_equal(final, theirs[n_layers])


# --- editing -------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", sorted(EXACT))
def test_an_edit_is_the_edit_in_hugging_face(subject: Any, kind: str) -> None:
    omni, inputs = subject
    model, place = omni.model, EXACT[kind]
    target = Place(place.edit, "out") if place.edit else place
    for layer in layers_of(kind, model):
        name = hook_name(kind, layer)
        shape = model.run_with_cache(omni.embed_inputs(**inputs), name)[1][name].shape[2:]
        add = adding(noise(tuple(shape)))
        _, theirs = hf_run(omni, inputs, target, layer, add)
        prompt = omni.embed_inputs(**inputs)
        ours = model.run_with_hooks(prompt, fwd_hooks=[(name, add)])
        assert not torch.equal(ours, model(prompt))
        if place.edit:
            torch.testing.assert_close(ours, theirs, **CLOSE)
        else:
            bits_equal(ours, theirs)
        with eager(omni):
            _, theirs = hf_run(omni, inputs, target, layer, add)
            prompt = omni.embed_inputs(**inputs)
        ours = model.run_with_hooks(prompt, fwd_hooks=[(name, add), *opened(model)])
        torch.testing.assert_close(ours, theirs, **(CLOSE if place.edit else EQUAL))


@pytest.mark.parametrize("norm", sorted(NORMS))
def test_an_edit_in_a_norm_is_the_edit_behind_it(subject: Any, norm: str) -> None:
    omni, inputs = subject
    model, prompt = omni.model, omni.embed_inputs(**inputs)
    delta = noise((model.cfg.d_model,))

    def double(scale: Tensor, hook: Any) -> Tensor:
        edited = scale.clone()
        edited[:, POSITION] *= 2
        return edited

    def halve(after: Tensor) -> Tensor:
        edited = after.clone()
        edited[:, POSITION] /= 2
        return edited

    for layer in layers_of(norm, model):
        weight: Any = find_decoder(omni.hf).get_submodule(NORMS[norm].format(layer)).weight
        behind = Place(NORMS[norm], "out")
        _, theirs = hf_run(omni, inputs, behind, layer, adding(delta * weight))
        name = hook_name(f"{norm}.hook_normalized", layer)
        ours = model.run_with_hooks(prompt, fwd_hooks=[(name, adding(delta))])
        torch.testing.assert_close(ours, theirs, **CLOSE)
        _, theirs = hf_run(omni, inputs, behind, layer, halve)
        name = hook_name(f"{norm}.hook_scale", layer)
        ours = model.run_with_hooks(prompt, fwd_hooks=[(name, double)])
        torch.testing.assert_close(ours, theirs, **CLOSE)
        assert not torch.allclose(ours, model(prompt), atol=1e-3)


@pytest.mark.parametrize("letter", ["q", "k"])
def test_a_scaled_rotated_head_is_a_scaled_head(subject: Any, letter: str) -> None:
    """Rotation keeps lengths, so the two edits are one."""
    omni, inputs = subject
    prompt, model = omni.embed_inputs(**inputs), omni.model

    def grow(tensor: Tensor, hook: Any = None) -> Tensor:
        edited = tensor.clone()
        edited[:, POSITION] *= 3
        return edited

    for layer in layers_of("attn", model):
        place = Place(f"layers.{{}}.self_attn.{letter}_proj", "out")
        _, theirs = hf_run(omni, inputs, place, layer, grow)
        hooks = [(f"blocks.{layer}.attn.hook_rot_{letter}", grow)]
        ours = model.run_with_hooks(prompt, fwd_hooks=hooks)
        torch.testing.assert_close(ours, theirs, **CLOSE)
        assert not torch.allclose(ours, model(prompt), atol=1e-3)


def test_an_edit_of_scores_is_that_mask_in_hugging_face(subject: Any) -> None:
    omni, inputs = subject
    model = omni.model
    with eager(omni):
        prompt = omni.embed_inputs(**inputs)
        for layer in layers_of("attn", model):
            delta = torch.zeros(1, model.cfg.n_heads, prompt.n_pos, prompt.n_pos)
            delta[:, :, POSITION, : POSITION + 1] = noise((model.cfg.n_heads, POSITION + 1))

            def add(_module: Any, args: Any, kwargs: Any, delta: Tensor = delta) -> Any:
                return args, {**kwargs, "attention_mask": kwargs["attention_mask"] + delta}

            module = find_decoder(omni.hf).get_submodule(f"layers.{layer}.self_attn")
            handle = module.register_forward_pre_hook(add, with_kwargs=True)
            try:
                theirs = omni.hf(**inputs).logits
            finally:
                handle.remove()

            def edit(scores: Tensor, hook: Any, delta: Tensor = delta) -> Tensor:
                return scores + delta

            hooks = [(names.attn_scores(layer), edit), *opened(model)]
            ours = model.run_with_hooks(prompt, fwd_hooks=hooks)
            torch.testing.assert_close(ours, theirs, **CLOSE)
            assert not torch.allclose(ours, model(prompt), atol=1e-3)


def test_an_edit_of_the_pattern_reads_other_values(subject: Any) -> None:
    omni, inputs = subject
    model = omni.model
    groups = model.cfg.n_heads // model.cfg.n_key_value_heads
    with eager(omni) as hf:
        prompt = omni.embed_inputs(**inputs)
        values = hf(**inputs, use_cache=True).past_key_values
        for layer in layers_of("attn", model):
            delta = torch.zeros(1, model.cfg.n_heads, prompt.n_pos, prompt.n_pos)
            delta[:, :, POSITION, : POSITION + 1] = noise((model.cfg.n_heads, POSITION + 1))
            wide = values.layers[layer].values.repeat_interleave(groups, dim=1)
            read = (delta @ wide).transpose(1, 2)[0, POSITION].flatten()
            place = Place("layers.{}.self_attn.o_proj", "in")
            _, theirs = hf_run(omni, inputs, place, layer, adding(read))

            def edit(pattern: Tensor, hook: Any, delta: Tensor = delta) -> Tensor:
                return pattern + delta

            hooks = [(names.pattern(layer), edit), *opened(model)]
            ours = model.run_with_hooks(prompt, fwd_hooks=hooks)
            torch.testing.assert_close(ours, theirs, rtol=1e-3, atol=1e-4)
            assert not torch.allclose(ours, model(prompt), atol=1e-2)


def test_an_edit_of_a_heads_result_is_written_to_the_stream(subject: Any) -> None:
    omni, inputs = subject
    model, prompt = omni.model, omni.embed_inputs(**inputs)
    delta = noise((model.cfg.n_heads, model.cfg.d_model))
    for layer in layers_of("attn", model):
        place = Place("layers.{}.self_attn", "out")
        _, theirs = hf_run(omni, inputs, place, layer, adding(delta.sum(0)))
        hooks = [(names.result(layer), adding(delta))]
        torch.testing.assert_close(model.run_with_hooks(prompt, fwd_hooks=hooks), theirs, **CLOSE)


def test_every_edit_moves_the_logits_and_only_later_ones(subject: Any) -> None:
    omni, inputs = subject
    model, prompt = omni.model, omni.embed_inputs(**inputs)
    for name in model.hook_dict:
        axis = names.position_axis(name)

        def edit(tensor: Tensor, hook: Any, axis: int = axis) -> None:
            # Not one factor for the whole row: a norm behind it would divide that out.
            row = tensor.select(axis, POSITION)
            row.mul_(0.25 + 0.5 * noise(tuple(row.shape)).sigmoid())

        attends = [(name, look)] if name.endswith(names.PATTERN_LIKE) else []
        clean = model.run_with_hooks(prompt, fwd_hooks=attends)
        moved = (model.run_with_hooks(prompt, fwd_hooks=[(name, edit)]) - clean).abs().amax((0, 2))
        # An edited scale or head result replaces a value that was computed in another order.
        rounding = 1e-5 if name.endswith(("hook_scale", "hook_result")) else 0
        assert moved[:POSITION].max() <= rounding, name
        assert moved[POSITION:].max() > 1e-4, name


def test_editing_in_place_is_returning_the_edit(subject: Any) -> None:
    omni, inputs = subject
    model, prompt = omni.model, omni.embed_inputs(**inputs)
    embeds, positions = prompt.embeds.clone(), prompt.position_ids.clone()

    def returns(tensor: Tensor, hook: Any) -> Tensor:
        return tensor * 0.5

    def in_place(tensor: Tensor, hook: Any) -> None:
        tensor *= 0.5

    def both(tensor: Tensor, hook: Any) -> Tensor:
        tensor.mul_(0.5)
        return tensor

    def through_a_view(tensor: Tensor, hook: Any) -> Tensor:
        tensor[:].unsqueeze(0).mul_(0.5)
        return tensor

    for name in model.hook_dict:
        expected = model.run_with_hooks(prompt, fwd_hooks=[(name, returns)])
        for edit in (in_place, both, through_a_view):
            assert torch.equal(model.run_with_hooks(prompt, fwd_hooks=[(name, edit)]), expected), (
                name,
                edit.__name__,
            )
    bits_equal(prompt.embeds, embeds)
    bits_equal(prompt.position_ids, positions)


def test_an_edit_through_data_is_not_lost(plain: Any) -> None:
    """`.data` and NumPy share memory and count no versions; the hook was still told to edit."""
    model, prompt = plain

    def returns(tensor: Tensor, hook: Any) -> Tensor:
        return tensor * 0.5

    def through_data(tensor: Tensor, hook: Any) -> Tensor:
        tensor.data.mul_(0.5)
        return tensor

    name = names.resid_post(1)
    expected = model.run_with_hooks(prompt, fwd_hooks=[(name, returns)])
    bits_equal(model.run_with_hooks(prompt, fwd_hooks=[(name, through_data)]), expected)


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode, torch.enable_grad])
def test_hooks_work_in_every_gradient_mode(subject: Any, mode: Any) -> None:
    omni, inputs = subject
    model, prompt = omni.model, omni.embed_inputs(**inputs)

    def in_place(tensor: Tensor, hook: Any) -> None:
        tensor[:] *= 0.5

    for name in model.hook_dict:
        with torch.no_grad():
            read = model.run_with_hooks(prompt, fwd_hooks=[(name, look)])
            expected = model.run_with_hooks(prompt, fwd_hooks=[(name, in_place)])
        with mode():
            assert torch.equal(model.run_with_hooks(prompt, fwd_hooks=[(name, look)]), read), name
            edited = model.run_with_hooks(prompt, fwd_hooks=[(name, in_place)])
            assert torch.equal(edited, expected), name


def test_a_later_edit_in_place_changes_no_earlier_cache(plain: Any) -> None:
    """Between two blocks both hook points hold one tensor."""
    model, prompt = plain
    kept: dict[str, Tensor] = {}

    def keep(tensor: Tensor, hook: Any) -> None:
        kept[hook.name] = tensor

    def zero(tensor: Tensor, hook: Any) -> None:
        tensor.zero_()

    before, after = names.resid_post(0), names.resid_pre(1)
    _, clean = model.run_with_cache(prompt, [before, after])
    hooks = [(before, keep), (after, keep), (after, zero), (names.EMBED, keep)]
    _, cache = model.run_with_cache(prompt, [before, after, names.EMBED], fwd_hooks=hooks)
    bits_equal(cache[before], clean[before])
    bits_equal(kept[before], clean[before])
    bits_equal(kept[after], clean[after])
    assert not cache[after].any()
    cache[names.EMBED].sum()
    bits_equal(kept[names.EMBED], prompt.embeds)


def test_a_kept_activation_may_be_edited_after_the_run(plain: Any) -> None:
    model, prompt = plain
    kept: list[Tensor] = []

    def keep(tensor: Tensor, hook: Any) -> None:
        kept.append(tensor)

    embeds = prompt.embeds.clone()
    model.run_with_hooks(prompt, fwd_hooks=[(names.EMBED, keep)])
    kept[0].zero_()
    bits_equal(prompt.embeds, embeds)


def test_two_edits_at_one_point_follow_each_other(plain: Any) -> None:
    model, prompt = plain
    name = names.resid_post(1)
    factors = [lambda t, hook: t * 0.5, lambda t, hook: t.add_(1.0)]
    ours = model.run_with_hooks(prompt, fwd_hooks=[(name, f) for f in factors])
    once = model.run_with_hooks(prompt, fwd_hooks=[(name, lambda t, hook: t * 0.5 + 1.0)])
    bits_equal(ours, once)


# --- hooks leave nothing behind ------------------------------------------------------------------


def hooks_left(model: HookedTransformer) -> list[str]:
    return [n for n, p in model.hook_dict.items() if p.has_hooks("fwd") or p.has_hooks("bwd")]


def test_hooks_are_gone_after_a_run(plain: Any) -> None:
    model, prompt = plain
    clean = model(prompt)
    model.run_with_hooks(prompt, fwd_hooks=[(names.resid_post(0), lambda t, hook: t * 0)])
    model.run_with_cache(prompt, fwd_hooks=[(names.resid_post(0), lambda t, hook: t * 0)])
    model.generate(prompt, 2, fwd_hooks=[(names.resid_post(0), lambda t, hook: t * 0)])
    assert hooks_left(model) == []
    bits_equal(model(prompt), clean)


@pytest.mark.parametrize("run", ["run_with_hooks", "run_with_cache", "generate"])
def test_hooks_are_gone_after_an_exception(plain: Any, run: str) -> None:
    model, prompt = plain
    clean = model(prompt)

    def fail(tensor: Tensor, hook: Any) -> None:
        raise KeyError("planted")

    hooks = [(names.resid_pre(0), lambda t, hook: t * 0), (names.resid_post(2), fail)]
    with pytest.raises(KeyError, match="planted"):
        getattr(model, run)(prompt, fwd_hooks=hooks)
    with pytest.raises(HookError):
        getattr(model, run)(prompt, fwd_hooks=[hooks[0], ("blocks.0.hook_nothing", look)])
    assert hooks_left(model) == []
    bits_equal(model(prompt), clean)


# --- refusals ------------------------------------------------------------------------------------

BAD_RETURNS = {
    "shape": (lambda t: t[:, :1], r"shape \(1, 144, 64\), got \(1, 1, 64\)"),
    "dtype": (lambda t: t.double(), r"dtype torch.float32, got torch.float64"),
    "type": (lambda t: 3, "a tensor or None, got int"),
}


@pytest.mark.parametrize("what", sorted(BAD_RETURNS))
def test_a_wrong_return_names_the_hook(plain: Any, what: str) -> None:
    model, prompt = plain
    make, message = BAD_RETURNS[what]
    name = names.resid_post(1)
    with pytest.raises(HookError, match=f"'{name}' to return {message}"):
        model.run_with_hooks(prompt, fwd_hooks=[(name, lambda t, hook: make(t))])


@pytest.mark.parametrize("run", ["run_with_hooks", "run_with_cache", "generate"])
def test_nan_is_refused_wherever_it_is_made(plain: Any, run: str) -> None:
    model, prompt = plain

    def spoil(tensor: Tensor, hook: Any) -> None:
        tensor.select(names.position_axis(hook.name), 0).fill_(torch.nan)

    with model.every_hook_point():
        for name in model.hook_dict:
            with pytest.raises(HookError, match="got NaN") as error:
                getattr(model, run)(prompt, fwd_hooks=[(name, spoil)])
            assert name in str(error.value)


@pytest.mark.parametrize(
    ("wrong", "near"),
    [
        ("blocks.0.hook_resid_pst", "blocks.0.hook_resid_post"),
        ("blocks.1.attn.hook_patern", "blocks.1.attn.hook_pattern"),
        ("blocks.3.attn.hook_score", "blocks.3.attn.hook_attn_scores"),
        ("ln_final.hook_normalised", "ln_final.hook_normalized"),
    ],
)
def test_an_unknown_name_is_answered_with_the_nearest(plain: Any, wrong: str, near: str) -> None:
    model, prompt = plain
    for attempt in (
        lambda: model.run_with_hooks(prompt, fwd_hooks=[(wrong, look)]),
        lambda: model.run_with_hooks(prompt, bwd_hooks=[(wrong, look)]),
        lambda: model.run_with_cache(prompt, names_filter=wrong),
        lambda: model.run_with_cache(prompt, names_filter=[names.EMBED, wrong]),
        lambda: model.generate(prompt, 1, fwd_hooks=[(wrong, look)]),
        lambda: model.add_hook(wrong, look),
    ):
        with pytest.raises(HookError) as error:
            attempt()
        assert f"4-layer model, got '{wrong}'" in str(error.value)
        assert f"Closest is '{near}'" in str(error.value)


def test_a_layer_that_is_not_there_is_refused(plain: Any) -> None:
    model, prompt = plain
    with pytest.raises(HookError, match=r"Closest is 'blocks\.\d\.hook_resid_post'; layers count"):
        model.run_with_hooks(prompt, fwd_hooks=[(names.resid_post(4), look)])
    with pytest.raises(HookError, match="4-layer"):
        cut = knockout(query="last", key="video", layers=[4])
        model.run_with_hooks(prompt, fwd_hooks=[cut])


def test_a_filter_that_nothing_passes_is_refused(plain: Any) -> None:
    model, prompt = plain
    for attempt in (
        lambda: model.run_with_cache(prompt, names_filter=lambda name: "nothing" in name),
        lambda: model.run_with_hooks(prompt, fwd_hooks=[(lambda name: "nothing" in name, look)]),
    ):
        with pytest.raises(HookError, match="expected a filter that some hook name passes"):
            attempt()


def test_head_results_are_refused_until_they_are_on(plain: Any) -> None:
    model, prompt = plain
    assert not model.cfg.use_attn_result
    for attempt in (
        lambda: model.run_with_hooks(prompt, fwd_hooks=[(names.result(0), look)]),
        lambda: model.run_with_cache(prompt, names_filter=names.result(0)),
        lambda: model.add_hook(names.result(0), look),
        lambda: model.run_with_cache(prompt, names_filter=lambda n: n.endswith("hook_result")),
    ):
        with pytest.raises(HookError):
            attempt()
    with pytest.raises(HookError, match=r"set_use_attn_result\(True\)"):
        model.run_with_hooks(prompt, fwd_hooks=[(names.result(0), look)])
    _, cache = model.run_with_cache(prompt)
    assert names.result(0) not in cache


def test_a_filter_adds_hooks_to_live_points_only(plain: Any) -> None:
    model, prompt = plain
    seen: list[str] = []

    def note(tensor: Tensor, hook: Any) -> None:
        seen.append(hook.name)

    model.run_with_hooks(prompt, fwd_hooks=[(lambda name: name.endswith("resid_post"), note)])
    assert seen == [names.resid_post(layer) for layer in range(4)]


def test_an_edit_of_generated_positions_needs_some(plain: Any) -> None:
    model, prompt = plain
    cut = knockout(query="generated", key="video")
    for attempt in (
        lambda: model.run_with_hooks(prompt, fwd_hooks=[cut]),
        lambda: model.run_with_cache(prompt, fwd_hooks=[cut]),
        lambda: model.generate(prompt, 1, fwd_hooks=[cut]),
    ):
        with pytest.raises(HookError, match="expected a run that reaches 'generated'"):
            attempt()
    with model.hooks(cut(prompt.spans)), pytest.raises(HookError, match="reaches 'generated'"):
        model(prompt)
    assert hooks_left(model) == []
    model.generate(prompt, 2, fwd_hooks=[cut])


@pytest.mark.parametrize("low", [torch.finfo(torch.float32).min, -torch.inf])
@pytest.mark.parametrize("padding", [0, 3])
def test_a_row_without_a_key_is_refused(
    omni: HookedOmni, clips: dict, low: float, padding: int
) -> None:
    inputs = left_padded(omni, clips["omni", "audio in video"], padding)
    model, prompt = omni.model, omni.embed_inputs(**inputs)

    def blind(scores: Tensor, hook: Any) -> None:
        if scores.shape[2] > POSITION:
            scores[:, 2, POSITION] = low

    def blind_later(scores: Tensor, hook: Any) -> None:
        if hook.window.start == prompt.n_pos + 1:
            scores[:, 1] = low

    with pytest.raises(HookError, match=rf"attn_scores' for position {POSITION}\."):
        model.run_with_hooks(prompt, fwd_hooks=[(names.attn_scores(1), blind)])
    with pytest.raises(HookError, match=rf"got none left .* for position {prompt.n_pos + 1}\."):
        hooks = [(names.attn_scores(1), blind_later)]
        model.generate(prompt, 3, fwd_hooks=hooks, stop_at_eos=False)


def test_padding_may_be_left_without_a_key(omni: HookedOmni, clips: dict) -> None:
    inputs = left_padded(omni, clips["omni", "text"], 3)
    model, prompt = omni.model, omni.embed_inputs(**inputs)

    def blind(scores: Tensor, hook: Any) -> None:
        scores[:, :, :3] = torch.finfo(scores.dtype).min

    ours = model.run_with_hooks(prompt, fwd_hooks=[(names.attn_scores(1), blind)])
    clean = model.run_with_hooks(prompt, fwd_hooks=[(names.pattern(1), look)])
    bits_equal(ours[:, 3:], clean[:, 3:])


# --- where a pass is, and gradients --------------------------------------------------------------


def test_a_hook_knows_its_positions(plain: Any) -> None:
    model, prompt = plain
    seen: dict[str, list[range]] = {}

    def note(tensor: Tensor, hook: Any) -> None:
        seen.setdefault(hook.name, []).append(hook.window)
        assert tensor.shape[names.position_axis(hook.name)] == len(hook.window)

    n = prompt.n_pos
    everywhere = [(lambda name: True, note)]
    model.generate(prompt, 4, fwd_hooks=everywhere, stop_at_eos=False)
    expected = [range(n), range(n, n + 1), range(n + 1, n + 2), range(n + 2, n + 3)]
    assert set(seen) == {name for name in model.hook_dict if names.flag_of(name) is None}
    assert all(ranges == expected for ranges in seen.values())


def test_gradients_are_hugging_faces(subject: Any) -> None:
    omni, inputs = subject
    assert not any(p.requires_grad for p in omni.model.parameters())
    model, prompt, token = omni.model, omni.embed_inputs(**inputs), 7
    decoder = find_decoder(omni.hf)
    theirs: dict[str, Tensor] = {}
    handles = []

    def with_graph(_module: Any, args: Any, kwargs: dict[str, Any]) -> Any:
        embeds = kwargs["inputs_embeds"].detach().requires_grad_()
        theirs["hook_embed"] = embeds
        return args, {**kwargs, "inputs_embeds": embeds}

    def keep(name: str) -> Callable[..., None]:
        def hook(_module: Any, args: Any, output: Any) -> None:
            out = output[0] if isinstance(output, tuple) else output
            tensor = args[0] if EXACT[kind_of(name)].side == "in" else out
            tensor.retain_grad()
            theirs[name] = tensor

        return hook

    handles.append(decoder.register_forward_pre_hook(with_graph, with_kwargs=True))
    for kind, place in EXACT.items():
        if kind in ("hook_embed", "hook_resid_mid", "hook_mlp_in"):
            continue  # the first is above, the others are one tensor in that module
        for layer in layers_of(kind, model):
            module = decoder.get_submodule(place.module.format(layer))
            handles.append(module.register_forward_hook(keep(hook_name(kind, layer))))
    try:
        omni.hf(**inputs).logits[0, -1, token].backward()
    finally:
        for handle in handles:
            handle.remove()
    ours: dict[str, Tensor] = {}

    def note(gradient: Tensor, hook: Any) -> None:
        ours[hook.name] = gradient.clone()

    hooks = [(name, note) for name in theirs]
    logits = model.run_with_hooks(prompt, bwd_hooks=hooks, reset_hooks_end=False)
    try:
        logits[0, -1, token].backward()
    finally:
        model.reset_hooks()
    assert set(ours) == set(theirs)
    for name, tensor in theirs.items():
        assert tensor.grad is not None
        gradient = ours[name].reshape(tensor.shape)
        assert gradient.any() or names.layer_of(name) == model.cfg.n_layers - 1
        torch.testing.assert_close(gradient, tensor.grad, rtol=1e-4, atol=1e-6, msg=name)
    assert not prompt.embeds.requires_grad
    assert hooks_left(model) == []


def test_every_backward_hook_fires(subject: Any) -> None:
    omni, inputs = subject
    model, prompt = omni.model, omni.embed_inputs(**inputs)
    seen: set[str] = set()

    def note(gradient: Tensor, hook: Any) -> None:
        assert gradient is not None
        seen.add(hook.name)

    with model.hooks(bwd_hooks=[(lambda name: True, note)], fwd_hooks=opened(model)):
        model(prompt)[0, -1].sum().backward()
    assert seen == set(model.hook_dict)


# --- knockouts against a mask --------------------------------------------------------------------


def hf_masked(omni: HookedOmni, prompt: EmbeddedPrompt, mask: Tensor) -> Tensor:
    """Hugging Face's logits under an additive mask, in every layer."""
    hidden = find_decoder(omni.hf)(
        inputs_embeds=prompt.embeds,
        position_ids=prompt.position_ids,
        attention_mask=mask,
        use_cache=False,
    ).last_hidden_state
    return omni.hf.get_output_embeddings()(hidden)


def causal_mask(prompt: EmbeddedPrompt) -> Tensor:
    low = torch.finfo(torch.float32).min
    return torch.full((prompt.n_pos, prompt.n_pos), low).triu(1)[None, None]


@pytest.mark.parametrize(
    ("query", "key"),
    [
        ("last", "video"),
        ("last", "audio"),
        ("audio", "video"),
        ("question+last", "system"),
        ("text", "frame 1"),
        ("audio@1.0-2.0s", "video@0-1s"),
        ("audio", "question"),
    ],
)
def test_a_knockout_is_a_mask(omni: HookedOmni, clips: dict, query: str, key: str) -> None:
    with eager(omni):
        prompt = omni.embed_inputs(**clips["omni", "audio in video"])
        mask = causal_mask(prompt)
        bits_equal(
            omni.model.run_with_hooks(prompt, fwd_hooks=opened(omni.model)),
            hf_masked(omni, prompt, mask),
        )
        mask[..., prompt.spans[query][:, None], prompt.spans[key]] = torch.finfo(mask.dtype).min
        theirs = hf_masked(omni, prompt, mask)
    ours = omni.model.run_with_hooks(prompt, fwd_hooks=[knockout(query=query, key=key)])
    bits_equal(ours, theirs)
    assert not torch.equal(ours, omni.model(prompt))


def test_a_knockout_of_heads_is_a_mask_of_heads(omni: HookedOmni, clips: dict) -> None:
    model = omni.model
    with eager(omni):
        prompt = omni.embed_inputs(**clips["omni", "audio in video"])
        mask = causal_mask(prompt).repeat(1, model.cfg.n_heads, 1, 1)
        for head in (1, 3):
            cells = (0, head, prompt.spans["audio"][:, None], prompt.spans["video"])
            mask[cells] = torch.finfo(mask.dtype).min
        theirs = hf_masked(omni, prompt, mask)
    cut = knockout(query="audio", key="video", heads=[1, 3])
    bits_equal(model.run_with_hooks(prompt, fwd_hooks=[cut]), theirs)


def test_a_knockout_of_one_layer_is_a_mask_in_that_layer(omni: HookedOmni, clips: dict) -> None:
    model, layer = omni.model, 2
    with eager(omni):
        prompt = omni.embed_inputs(**clips["omni", "audio in video"])
        mask = causal_mask(prompt)
        cells = (..., prompt.spans["audio"][:, None], prompt.spans["video"])
        mask[cells] = torch.finfo(mask.dtype).min

        def swap(_module: Any, args: Any, kwargs: dict[str, Any]) -> Any:
            return args, {**kwargs, "attention_mask": mask}

        module = find_decoder(omni.hf).get_submodule(f"layers.{layer}.self_attn")
        handle = module.register_forward_pre_hook(swap, with_kwargs=True)
        try:
            theirs = hf_masked(omni, prompt, causal_mask(prompt))
        finally:
            handle.remove()
    cut = knockout("A !-> V @ 2")
    bits_equal(model.run_with_hooks(prompt, fwd_hooks=[cut, *opened(model)]), theirs)


def test_a_model_of_its_own_keeps_its_own_hooks(plain: Any) -> None:
    model, prompt = plain
    other = load("random-omni").model
    clean = other(prompt)
    with model.hooks([(names.resid_post(0), lambda t, hook: t * 0)]):
        bits_equal(other(prompt), clean)
