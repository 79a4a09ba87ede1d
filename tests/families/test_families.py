"""Every family, unchanged: proof, live and causal hooks, interventions, sweeps."""

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from hooked_omni import (
    EmbeddedPrompt,
    HookedOmni,
    ablate,
    knockout,
    load,
    names,
    prove,
    scale_attention,
    steer,
)
from hooked_omni.decoder.experts import MixtureOfExperts
from hooked_omni.errors import CheckpointError, HookError, PromptError
from hooked_omni.families import FAMILIES
from tests.support.models import (
    CLIP_OF,
    DECODERS,
    look,
    one_expert_after_the_other,
    save_checkpoint,
)
from tests.support.runs import bits_equal, close, opened, unstopped

every_clip = pytest.mark.parametrize(("name", "kind"), CLIP_OF.items(), ids=list(CLIP_OF))
both_deep = pytest.mark.parametrize("name", ["omni3", "vl3"])
STEPS = 8


@pytest.fixture(scope="module")
def prompts(models: dict, clips: dict) -> dict[str, EmbeddedPrompt]:
    return {name: models[name].embed_inputs(**clips[name, kind]) for name, kind in CLIP_OF.items()}


@every_clip
def test_every_family_proves_itself(models, prompts, name, kind):
    report = prove(models[name], prompts[name])
    assert report.prefill == report.decode == report.prefill_opened == report.decode_opened == 0
    assert report.decode_steps == 16
    assert report.live_hooks == len(models[name].model.hook_dict)


@pytest.mark.parametrize("name", DECODERS)
def test_an_edit_reaches_its_position_and_later_ones_alone(models, prompts, name):
    model, prompt = models[name].model, prompts[name]
    clean, at = model.run_with_hooks(prompt, fwd_hooks=opened(model)), prompt.n_pos // 2

    def shift(activation: Tensor, hook: Any) -> None:
        row = activation.select(names.position_axis(hook.name), at)
        if not activation.is_floating_point():
            row.copy_((row + 1) % 8)
        elif hook.name.endswith("hook_pattern"):
            row *= 0.5
        else:
            row *= torch.linspace(0.2, 3, row.shape[-1])
            row += 0.1 * (row == 0)

    for point in (n for n in model.hook_dict if names.flag_of(n) is None):
        if point.endswith("hook_attn_scores"):  # masked scores stay masked: scaled, not shifted
            continue
        edited = model.run_with_hooks(prompt, fwd_hooks=[*opened(model), (point, shift)])
        assert torch.equal(edited[:, :at], clean[:, :at]), point
        assert not torch.equal(edited[:, at], clean[:, at]), point


def interventions(prompt: EmbeddedPrompt) -> dict[str, Any]:
    media = "audio" if "audio" in prompt.spans else "video"
    direction = torch.linspace(-1, 1, prompt.embeds.shape[-1])
    return {
        "knockout": knockout(query="generated", key=media, layers=[1, 2]),
        "knockout of all text": knockout(query="generated+last", key="text", layers=[0]),
        "scale": scale_attention(query="generated", key=media, factor=3.0, layers=[2]),
        "ablate": ablate("hook_mlp_out", span="generated", layers=[1]),
        "ablate the prompt": ablate("attn.hook_z", span=media, layers=[0]),
        "steer": steer(5 * direction, span="generated", at="hook_resid_mid", layers=[2]),
    }


@every_clip
def test_interventions_act_alone_in_sweeps_and_in_scores(models, prompts, name, kind):
    model, prompt = models[name].model, prompts[name]
    conditions = [[], *[[item] for item in interventions(prompt).values()]]
    many = model.generate_many(prompt, conditions, unstopped(STEPS))
    for condition, swept in zip(conditions, many, strict=True):
        alone = model.generate(prompt, unstopped(STEPS), condition)
        assert swept.tokens.tolist() == alone.tokens.tolist()
        close(swept.logits, alone.logits, 2e-4)
    scores = model.score(prompt, many[0].tokens, conditions)
    expected = many[0].logits.log_softmax(-1).gather(1, many[0].tokens[:, None])[:, 0]
    close(scores[0], expected, 1e-4)
    for condition, swept, score in zip(conditions[1:], many[1:], scores[1:], strict=True):
        assert not torch.allclose(swept.logits[1:], many[0].logits[1:], atol=1e-4), condition
        assert not torch.allclose(score, scores[0], atol=1e-5), condition


def test_a_dense_layer_stays_dense_among_mixtures(models):
    kinds = [isinstance(block.mlp, MixtureOfExperts) for block in models["omni3"].model.blocks]
    assert kinds == [True, True, False, True]


def test_experts_that_tie_are_chosen_as_hugging_face_chooses(clips):
    omni = load("random-omni3")
    one_expert_after_the_other(omni.hf)
    for layer in (0, 1, 3):
        gate: Any = omni.model.blocks[layer].mlp.gate  # pyright: ignore
        gate.weight[[3, 5]] = gate.weight[1].clone()  # equal logits at every position
        gate.weight[6:] = -gate.weight[1]
    inputs, indices = clips["omni3", "audio in video"], names.in_block("mlp.hook_expert_indices", 0)
    logits, cache = omni.model.run_with_cache(omni.embed_inputs(**inputs), indices)
    bits_equal(logits, omni.hf(**inputs).logits)
    chosen = set(map(frozenset, cache[indices][0].tolist()))
    assert any({1, 3, 5} >= pair for pair in chosen)  # a tie that the choice had to break


def test_experts_nobody_chooses_change_nothing():
    omni = load("random-omni3")
    one_expert_after_the_other(omni.hf)
    tokens = torch.tensor([[5, 9]])
    clean = omni.model(tokens)
    _, cache = omni.model.run_with_cache(tokens, lambda name: "expert_indices" in name)
    for layer, block in enumerate(omni.model.blocks):
        if isinstance(block.mlp, MixtureOfExperts):
            used = cache[names.in_block("mlp.hook_expert_indices", layer)].unique()
            idle = [expert for expert in range(8) if expert not in used]
            assert idle
            block.mlp.experts.gate_up_proj[idle] = torch.nan
    assert torch.equal(omni.model(tokens), clean)
    theirs = omni.hf(input_ids=tokens, attention_mask=torch.ones_like(tokens)).logits
    assert torch.equal(theirs, clean)


def test_the_mixtures_hook_points_are_its_parts(models, prompts):
    omni, prompt = models["omni3"], prompts["omni3"]
    _, cache = omni.model.run_with_cache(prompt)
    mixture = omni.model.blocks[1].mlp

    def at(part: str) -> Tensor:
        return cache[names.in_block(f"mlp.{part}", 1)]

    x = omni.model.blocks[1].ln2.w * cache[names.in_block("ln2.hook_normalized", 1)]
    torch.testing.assert_close(at("hook_router_logits"), x @ mixture.gate.weight.T)
    torch.testing.assert_close(at("hook_expert_weights"), at("hook_router_logits").softmax(-1))
    kept, best = at("hook_expert_weights").topk(2, -1)
    assert torch.equal(at("hook_expert_indices"), best)
    for slot in (0, 1):
        hidden = torch.einsum("pm,pmh->ph", x[0], mixture.W_in[best[0, :, slot]])
        gate = torch.einsum("pm,pmh->ph", x[0], mixture.W_gate[best[0, :, slot]])
        hidden = torch.nn.functional.silu(gate) * hidden
        out = torch.einsum("ph,phm->pm", hidden, mixture.W_out[best[0, :, slot]])
        torch.testing.assert_close(at("hook_expert_out")[0, :, slot], out, rtol=0, atol=1e-5)
    share = kept / kept.sum(-1, keepdim=True)
    mixed = (at("hook_expert_out") * share[..., None]).sum(2)
    torch.testing.assert_close(cache[names.mlp_out(1)], mixed, rtol=0, atol=1e-5)


def test_looking_at_experts_changes_no_bit(models, prompts):
    omni, prompt = models["omni3"], prompts["omni3"]
    watched = [(name, look) for name in omni.model.hook_dict if ".mlp." in name]
    bits_equal(omni.model.run_with_hooks(prompt, fwd_hooks=watched), omni.model(prompt))


def test_other_experts_can_be_chosen(models, prompts):
    omni, prompt = models["omni3"], prompts["omni3"]
    mixture = omni.model.blocks[0].mlp
    indices = names.in_block("mlp.hook_expert_indices", 0)
    only = [(indices, lambda t, hook: torch.full_like(t, 4))]
    _, cache = omni.model.run_with_cache(prompt, fwd_hooks=only)
    x = omni.model.blocks[0].ln2.w * cache[names.in_block("ln2.hook_normalized", 0)]
    expected = mixture.experts(4, x[0])
    torch.testing.assert_close(cache[names.mlp_out(0)][0], expected, rtol=0, atol=1e-5)
    with pytest.raises(HookError, match="expected experts from 0 to 7"):
        omni.model.run_with_hooks(prompt, fwd_hooks=[(indices, lambda t, hook: t + 8)])


@both_deep
def test_the_next_block_reads_the_block_before_plus_deepstack(models, prompts, name):
    model, prompt = models[name].model, prompts[name]
    assert model.cfg.n_deepstack == 2
    _, cache = model.run_with_cache(prompt)
    video = torch.zeros(prompt.n_pos, dtype=torch.bool)
    video[prompt.spans["video"]] = True
    for layer in range(2):
        added = cache[names.deepstack(layer)]
        bits_equal(cache["resid_pre", layer + 1], cache["resid_post", layer] + added)
        assert bool((added[0, video].abs().sum(-1) > 0).all()) and not bool(added[0, ~video].any())
    assert torch.equal(cache[names.resid_pre(3)], cache[names.resid_post(2)])
    parts, labels = cache.decompose_resid(return_labels=True)
    torch.testing.assert_close(parts.sum(0), cache[names.resid_post(3)], rtol=0, atol=1e-4)
    assert labels[-2:] == ["0_deepstack", "1_deepstack"]
    early = cache.decompose_resid(1)
    torch.testing.assert_close(early.sum(0), cache[names.resid_pre(1)], rtol=0, atol=1e-4)
    with pytest.raises(HookError, match=r"adds vision features .* its first 2 blocks"):
        cache.get_full_resid_decomposition()


@both_deep
def test_deepstack_can_be_taken_away(models, prompts, name):
    model, prompt = models[name].model, prompts[name]
    away = ablate("hook_deepstack", span="video", layers=[0, 1])
    bare = model(replace(prompt, deepstack=None))
    bits_equal(model.run_with_hooks(prompt, fwd_hooks=[away]), bare)
    assert float((bare - model(prompt)).abs().max()) > 0.1


@both_deep
def test_deepstack_can_be_edited_where_nothing_is_added(models, prompts, name):
    """At a decode step there are no vision features, and an edit acts all the same."""
    model, prompt = models[name].model, prompts[name]
    push = 3 * torch.linspace(-1, 1, prompt.embeds.shape[-1])
    into = [steer(push, span="generated", at="hook_deepstack", layers=[1])]
    as_resid = [steer(push, span="generated", at="hook_resid_pre", layers=[2])]
    ours, same = (model.generate(prompt, unstopped(STEPS), hooks) for hooks in (into, as_resid))
    close(ours.logits, same.logits, 1e-4)
    swept = model.generate_many(prompt, [[], into, []], unstopped(STEPS))
    assert swept[1].tokens.tolist() == ours.tokens.tolist()


def test_another_models_vision_features_are_refused(models, prompts):
    prompt = prompts["vl3"]
    three = replace(prompt, deepstack=prompt.deepstack[[0, 1, 1]])
    with pytest.raises(PromptError, match="expected vision features for 2 blocks, got some for 3"):
        models["vl3"].model(three)


def test_the_time_that_the_processor_writes_is_markup(models, prompts):
    tokenizer, prompt = models["vl3"].processor.tokenizer, prompts["vl3"]
    assert tokenizer.decode(prompt.tokens[0, prompt.spans["question"]]) == "What now?"
    assert "seconds>" in tokenizer.decode(prompt.tokens[0, prompt.spans["markup"]])
    assert prompt.spans["frame 2"].tolist() == prompt.spans["video"][-6:].tolist()


def test_sound_inside_a_video_is_merged_token_by_token(models, prompts):
    spans = prompts["omni3"].spans
    audio, video = spans["audio"].tolist(), spans["video"].tolist()
    assert audio[0] > video[5] and audio[12] < video[6] < audio[13]  # a step a second
    assert spans["audio@1.0-1.05s"].tolist() == [audio[13]]
    assert len(spans["audio@0-1s"]) == 13


def test_a_config_with_biases_where_none_are_computed(tmp_path):
    hf = load("random-vl3").hf
    hf.config.text_config.attention_bias = True
    with pytest.raises(CheckpointError, match="expected attention without biases"):
        HookedOmni.from_hf(hf)


def test_families_say_what_they_grew_from():
    known = {family.name for family in FAMILIES}
    assert {family.base for family in FAMILIES} - {None} <= known


def test_a_saved_mixture_loads_with_the_same_logits(models, clips, tmp_path):
    """On disk every expert has tensors of its own; in memory they are one."""
    omni = models["omni3"]
    loaded = load(save_checkpoint(omni.hf, omni.processor, tmp_path))
    ours, theirs = (o.model(o.embed_inputs(**clips["omni3", "text"])) for o in (loaded, omni))
    bits_equal(ours, theirs)


def test_a_step_of_the_picture_lasts_as_long_as_the_clips_own_rate_says(clips):
    """Two frames at 2 frames a second; the processor's own guess would be 24 a second."""
    for name in ("vl", "omni", "omni3"):
        key = "second_per_grid_ts" if name == "vl" else "video_second_per_grid"
        assert [float(s) for s in clips[name, "video"][key]] == [1.0]
