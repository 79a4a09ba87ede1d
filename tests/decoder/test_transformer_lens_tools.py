"""TransformerLens's own tools run on an `EmbeddedPrompt`; their numbers are runs' by hand."""

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor
from transformer_lens import patching as tl_patching
from transformer_lens.head_detector import detect_head, get_duplicate_token_head_detection_pattern
from transformer_lens.tools import analysis as tl_analysis
from transformer_lens.tools.analysis.attribution_patching import cache_activation_and_gradient

from hooked_omni import EmbeddedPrompt, HookedOmni, HookedTransformer, names
from hooked_omni.decoder.config import DecoderConfig
from hooked_omni.inputs.spans import Spans
from tests.support.runs import noise

N_POS = 5
# Their annotations say tensors, and TransformerLens's own model.
patching: Any = tl_patching
analysis: Any = tl_analysis
CLOSE: Any = dict(rtol=1e-4, atol=2e-5)
EVERY = slice(None)
HEADED = {"out": "z", "q": "q", "k": "k", "v": "v"}
BY_POS: Any = {
    **{of: f"hook_{of}" for of in ("resid_pre", "resid_mid", "attn_out", "mlp_out")},
    **{f"attn_head_{what}_by_pos": f"attn.hook_{hook}" for what, hook in HEADED.items()},
}
ALL_POS = {f"attn_head_{what}_all_pos": f"attn.hook_{hook}" for what, hook in HEADED.items()}
PATTERN = "attn.hook_pattern"
# The hook point of a sweep, and the cells that an entry of its table is about.
SWEEPS: Any = {
    **{sweep: (at, lambda *index: (EVERY, *index)) for sweep, at in BY_POS.items()},
    **{sweep: (at, lambda head: (EVERY, EVERY, head)) for sweep, at in ALL_POS.items()},
    **{
        f"attn_head_pattern_{what}": (PATTERN, lambda *index: (EVERY, *index))
        for what in ("all_pos", "by_pos", "dest_src_pos")
    },
}


def clip(model: HookedTransformer, seed: int) -> Any:
    """A prompt whose embeddings are no token's, at positions that are no text's."""
    embeds = noise(1, N_POS, model.cfg.d_model, seed=seed)
    ids = torch.tensor([[0, 1, 1, 1, 2], [0, 1, 1, 2, 3], [0, 1, 2, 1, 4]])[:, None]
    clips = {"video": torch.arange(1, 4), "text": torch.tensor([0, 4])}
    tokens = torch.tensor([[3, 9, 9, 9, 4]])
    return EmbeddedPrompt(embeds, ids, None, tokens, Spans(clips, N_POS), {})


def logit_difference(logits: Tensor) -> Tensor:
    return logits[0, -1, 5] - logits[0, -1, 7]


@pytest.fixture
def pair(omni: HookedOmni) -> Any:
    model = omni.model
    clean, corrupted = clip(model, 1), clip(model, 2)
    with torch.no_grad():
        yield model, clean, corrupted, model.run_with_cache(clean)[1]


@pytest.fixture(scope="module")
def many_key_heads() -> HookedTransformer:
    """A model whose queries each have keys of their own; edge attribution refuses others."""
    sizes: Any = dict(n_layers=2, d_model=16, n_heads=2, n_key_value_heads=2, d_head=8, d_mlp=24)
    rest: Any = dict(d_vocab=20, n_ctx=64, eps=1e-6, rope_theta=1e4, mrope_section=(2, 1, 1))
    cfg = DecoderConfig(**sizes, **rest)
    with torch.device("meta"):
        shapes = {name: p.shape for name, p in HookedTransformer(cfg).named_parameters()}
    generator = torch.Generator().manual_seed(0)
    tensors = {name: torch.randn(s, generator=generator) / 4 for name, s in shapes.items()}
    return HookedTransformer.from_tensors(cfg, tensors)


def put(cache: Any, cells: tuple[Any, ...]) -> Any:
    def patch(activation: Tensor, hook: Any) -> None:
        activation[cells] = cache[hook.name][cells]

    return patch


@pytest.mark.parametrize("sweep", sorted(SWEEPS))
def test_every_patching_sweep_is_the_runs_by_hand(pair, sweep):
    model, _, corrupted, cache = pair
    at, cells_of = SWEEPS[sweep]
    run = getattr(patching, f"get_act_patch_{sweep}")
    found = run(model, corrupted, cache, logit_difference)
    assert found.shape[0] == model.cfg.n_layers
    drawn = torch.Generator().manual_seed(4)
    for layer in range(model.cfg.n_layers):
        index = tuple(int(torch.randint(n, (1,), generator=drawn)) for n in found.shape[1:])
        if sweep.endswith("src_pos"):
            index = (index[0], max(index[1:]), min(index[1:]))
        hook = (names.in_block(at, layer), put(cache, cells_of(*index)))
        by_hand = model.run_with_hooks(corrupted, fwd_hooks=[hook])
        torch.testing.assert_close(found[(layer, *index)], logit_difference(by_hand))
    assert len(found.unique()) > 1


def test_sweeps_of_every_kind_are_the_sweeps_one_by_one(pair):
    model, _, corrupted, cache = pair
    given = (model, corrupted, cache, logit_difference)
    blocks = patching.get_act_patch_block_every(*given)
    alone = patching.get_act_patch_mlp_out(*given)
    torch.testing.assert_close(blocks[2], alone)
    heads = patching.get_act_patch_attn_head_all_pos_every(*given, reduce="scalar", baseline=True)
    torch.testing.assert_close(heads.baseline, logit_difference(model(corrupted)))
    alone = patching.get_act_patch_attn_head_v_all_pos(*given)
    torch.testing.assert_close(heads.values[3][:, : model.cfg.n_key_value_heads], alone)
    by_pos = patching.get_act_patch_attn_head_by_pos_every(*given)
    assert by_pos.shape == (5, model.cfg.n_layers, N_POS, model.cfg.n_heads)


def test_one_direct_path_is_that_heads_write_into_that_heads_queries(pair):
    model, _, corrupted, cache = pair
    _, other = model.run_with_cache(corrupted)
    found = analysis.get_act_patch_direct_path(
        model, corrupted, cache, other, logit_difference, src_layer=0, src_head=3, verbose=False
    )
    assert not any(getattr(model.cfg, flag) for flag in names.FLAGS)
    z = "blocks.0.attn.hook_z"
    delta = (cache[z] - other[z])[:, :, 3] @ model.blocks[0].attn.W_O[3]
    layer, head = 2, 1
    attn, norm = model.blocks[layer].attn, model.blocks[layer].ln1
    queries = norm(other["resid_pre", layer] + delta) @ attn.W_Q[head] + attn.b_Q[head]

    def swap(q: Tensor, hook: Any) -> None:
        q[:, :, head] = queries

    by_hand = model.run_with_hooks(corrupted, fwd_hooks=[(f"blocks.{layer}.attn.hook_q", swap)])
    torch.testing.assert_close(found[layer, head], logit_difference(by_hand), **CLOSE)


@pytest.mark.parametrize("component", ["q", "k", "v"])
def test_direct_paths_into_keys_and_values(many_key_heads, component):
    model = many_key_heads
    clean, corrupted = clip(model, 1), clip(model, 2)
    with torch.no_grad():
        caches = [model.run_with_cache(prompt)[1] for prompt in (clean, corrupted)]
        found = analysis.get_act_patch_direct_path_all_sources(
            model, corrupted, *caches, logit_difference, component=component, verbose=False
        )
        baseline = float(logit_difference(model(corrupted)))
    assert found[0, :, 1].ne(baseline).all() and not found[1].any()


def test_node_attribution_is_the_slope_of_the_patch(omni):
    """For prompts that differ little, first order is all there is."""
    model = omni.model
    near = clip(model, 1)
    far: Any = replace(near, embeds=near.embeds + noise(*near.embeds.shape, seed=5, size=3e-3))
    scores = analysis.attribution_patch(model, near, far, logit_difference).node_scores
    with torch.no_grad():
        _, cache = model.run_with_cache(near)
        patched = patching.get_act_patch_mlp_out(model, far, cache, logit_difference)
        moved = patched - logit_difference(model(far))
    ours = torch.zeros_like(moved)
    for node, score in scores.items():
        if node.kind == "mlp_out":
            ours[node.layer, node.position] = score
    assert ours.abs().max() > 1e-4
    torch.testing.assert_close(ours, moved, rtol=0.1, atol=3e-5)


def test_edges_add_up_to_their_nodes(many_key_heads):
    model = many_key_heads
    clean, corrupted = clip(model, 1), clip(model, 2)
    nodes = analysis.attribution_patch(model, clean, corrupted, logit_difference)
    config = analysis.EdgeAttributionConfig(granularity="edge")
    edges = analysis.attribution_patch(model, clean, corrupted, logit_difference, config=config)
    assert set(edges.node_scores) == set(nodes.node_scores)
    for node, score in nodes.node_scores.items():
        assert edges.node_scores[node] == pytest.approx(score, rel=1e-3, abs=1e-4)
    whole = list(edges.edge_scores)
    kept = analysis.faithfulness(model, clean, corrupted, logit_difference, whole)
    none = analysis.faithfulness(model, clean, corrupted, logit_difference, [])
    assert kept.recovered == pytest.approx(1, abs=1e-4)
    assert none.recovered == pytest.approx(0, abs=1e-3)


def test_cached_gradients_are_those_of_the_embeddings(omni):
    model, prompt = omni.model, clip(omni.model, 1)
    cache = cache_activation_and_gradient(model, prompt, logit_difference, ["hook_embed"])
    embeds = prompt.embeds.clone().requires_grad_()
    logit_difference(model(replace(prompt, embeds=embeds))).backward()
    torch.testing.assert_close(cache.gradients["hook_embed"], embeds.grad)


@pytest.mark.parametrize("name", ["omni", "vl3"])
def test_attributions_and_the_lens_end_in_the_logits(models, clips, name):
    model = models[name].model
    prompt = models[name].embed_inputs(**clips[name, "video"])
    logits = model(prompt)
    for unit in ("component", "head"):
        found = analysis.direct_logit_attribution(model, prompt, 5, 7, unit=unit).attribution
        torch.testing.assert_close(found.sum(0).squeeze(), logit_difference(logits), **CLOSE)
    lens = analysis.logit_lens(model, prompt)
    torch.testing.assert_close(lens.values[-1, 0], logits[0, -1], **CLOSE)
    assert lens.labels[-1] == "final_post"
    read = analysis.logit_readout(model, prompt.embeds, top_k=2)
    expected = model.unembed(model.ln_final(prompt.embeds)).topk(2).indices
    assert torch.equal(read.top_ids, expected)


def test_heads_are_detected_on_a_prompt(pair):
    model, clean, _, cache = pair
    found = detect_head(model, clean, "previous_token_head")
    by_hand = cache["pattern", 1][0, 2].diagonal(-1).sum() / N_POS
    assert float(found[1, 2]) == pytest.approx(float(by_hand), abs=1e-5)
    same = get_duplicate_token_head_detection_pattern(clean.tokens)
    assert int(same.sum()) == 3  # three placeholders of the clip, not three equal words
    by_hand = (cache["pattern", 1][0, 2] * same).sum() / N_POS
    found = detect_head(model, clean, same)
    assert float(found[1, 2]) == pytest.approx(float(by_hand), abs=1e-5)
    with pytest.raises(AttributeError, match="repeat"):
        detect_head(model, clean, "duplicate_token_head")


def test_an_interchange_of_everything_is_the_other_prompt(pair):
    model, clean, corrupted, cache = pair
    at, last = names.resid_post(1), torch.tensor([N_POS - 1])
    source = analysis.collect_activations(model, at, clean, model, positions=last)
    swap = analysis.SubspaceInterchange(torch.eye(model.cfg.d_model))
    found = analysis.intervened_logits(
        model, at, swap, corrupted, source, lambda x: model(x)[:, -1], positions=last
    )
    by_hand = model.run_with_hooks(corrupted, fwd_hooks=[(at, put(cache, (EVERY, N_POS - 1)))])
    torch.testing.assert_close(found, by_hand[:, -1], **CLOSE)
