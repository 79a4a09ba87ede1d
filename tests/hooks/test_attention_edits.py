"""A knockout is the authors' additive mask, in every kind, layer and head; scaling is its kin."""

from contextlib import ExitStack
from typing import Any

import pytest
import torch
from torch import Tensor

from hooked_omni import EmbeddedPrompt, HookedOmni, knockout, load, names, scale_attention
from tests.support.cuts import CUTS, OMNI_CUTS, every_cut
from tests.support.edits import clip
from tests.support.hugging_face import Cut, hf_caption, hf_cut
from tests.support.models import CLIP_OF, eager, frames, left_padded, look, sound, uneven_gains
from tests.support.runs import bits_equal, close, unstopped

STEPS = 5
PADDING = 5


Eager = tuple[HookedOmni, dict[str, Any], EmbeddedPrompt, Tensor, Any]


@pytest.fixture(scope="module")
def eagers(clips: dict) -> dict[str, Eager]:
    """Models whose two halves both write their attention out, a prompt, and what it gives."""
    found = {}
    for name in ("omni", "vl"):
        omni = load(f"random-{name}", attn_implementation="eager")
        uneven_gains(omni.hf)
        inputs = clips[name, CLIP_OF[name]]
        prompt = omni.embed_inputs(**inputs)
        plain = omni.model.generate(prompt, unstopped(STEPS))
        found[name] = omni, inputs, prompt, omni.model(prompt), plain
    return found


def require_masked(omni: HookedOmni, inputs: dict[str, Any], *cuts: Cut) -> Any:
    """A caption under knockouts, which is Hugging Face's under the masks."""
    prompt = omni.embed_inputs(**inputs)
    with ExitStack() as masks:
        for cut in cuts:
            masks.enter_context(hf_cut(omni, prompt, cut))
        tokens, logits = hf_caption(omni, inputs, STEPS)
    hooks = [knockout(cut.rule) for cut in cuts]
    ours = omni.model.generate(prompt, unstopped(STEPS), hooks)
    assert ours.logits is not None and ours.tokens.tolist() == tokens
    bits_equal(ours.logits[1:], logits[1:])
    # Hugging Face unembeds the prompt's last row alone, which may round otherwise.
    close(ours.logits[0], logits[0])
    return ours


@every_cut
def test_a_knockout_is_that_mask_to_the_bit(eagers, name, cut):
    omni, inputs, prompt, clean, plain = eagers[name]
    ours = require_masked(omni, inputs, cut)
    with hf_cut(omni, prompt, cut):
        prefill = omni.hf(**inputs).logits
    first_moves = cut.query != "generated"
    if first_moves:
        bits_equal(omni.model.run_with_hooks(prompt, fwd_hooks=[knockout(cut.rule)]), prefill)
    else:
        bits_equal(clean, prefill)
    assert torch.equal(clean, prefill) != first_moves
    assert not torch.equal(plain.logits[-1], ours.logits[-1])
    assert torch.equal(plain.logits[0], ours.logits[0]) != first_moves


@pytest.mark.parametrize("i", [0, 3, 5, 10, 12, 16, 18])
def test_tokens_are_hugging_faces_with_kernels_as_loaded(models, clips, i):
    name, cut = CUTS[i]
    omni, inputs = models[name], clips[name, CLIP_OF[name]]
    assert omni.model.cfg.attn_implementation == "sdpa"
    prompt = omni.embed_inputs(**inputs)
    with eager(omni), hf_cut(omni, prompt, cut):
        tokens, logits = hf_caption(omni, inputs, STEPS)
    ours = omni.model.generate(prompt, unstopped(STEPS), [knockout(cut.rule)])
    assert ours.tokens.tolist() == tokens
    close(ours.logits, logits, 1e-4)


@pytest.mark.parametrize("cut", [OMNI_CUTS[i] for i in (0, 3, 5, 10, 11, 12)], ids=lambda c: c.rule)
def test_a_knockout_after_padding_is_that_mask(eagers, cut):
    omni, inputs, prompt, *_ = eagers["omni"]
    ours = require_masked(omni, left_padded(omni, inputs, PADDING), cut)
    bare = omni.model.generate(prompt, unstopped(STEPS), [knockout(cut.rule)])
    close(ours.logits, bare.logits, 1e-4)


def test_two_knockouts_are_both_masks(eagers):
    omni, inputs, *_ = eagers["omni"]
    for pair in ((OMNI_CUTS[0], OMNI_CUTS[10]), (OMNI_CUTS[10], OMNI_CUTS[0])):
        require_masked(omni, inputs, *pair)


@pytest.mark.parametrize(("key", "other"), [("video", "audio"), ("audio", "video")])
def test_what_nobody_reads_might_as_well_be_another_clip(omni, key, other):
    mine = clip(omni, frames(seed=1), sound(seed=2))
    seeds = {"video": 1, "audio": 2, key: 7}
    theirs = clip(omni, frames(seed=seeds["video"]), sound(seed=seeds["audio"]))
    assert torch.equal(mine.tokens, theirs.tokens) and not torch.equal(mine.embeds, theirs.embeds)
    cuts = [knockout(query=f"text+generated+{other}", key=key)]

    def last(prompt: EmbeddedPrompt, hooks: list[Any]) -> Any:
        return omni.model.generate(prompt, unstopped(3), hooks).logits

    bits_equal(last(mine, cuts), last(theirs, cuts))
    assert not torch.equal(last(mine, []), last(theirs, []))
    # One reader that is forgotten is a leak.
    for readers in (f"text+{other}", f"generated+{other}", "text+generated"):
        leak = [knockout(query=readers, key=key)]
        assert not torch.equal(last(mine, leak), last(theirs, leak))


def test_a_knockout_changes_its_own_cells_only(omni, prompt):
    cut = knockout("A !-> V @ 1 H0,2")
    name = names.attn_scores(1)
    opened = [(name, look)]
    _, before = omni.model.run_with_cache(prompt, names_filter=name, fwd_hooks=opened)
    _, after = omni.model.run_with_cache(prompt, names_filter=name, fwd_hooks=[cut])
    expected = before[name].clone()
    for head in (0, 2):
        cells = (0, head, prompt.spans["audio"][:, None], prompt.spans["video"])
        expected[cells] = torch.finfo(expected.dtype).min
    bits_equal(after[name], expected)
    assert not torch.equal(expected, before[name])


def test_the_last_prompt_position_is_not_generated(omni, prompt):
    """`G` is the authors' definition: the first new token is chosen before any of them."""
    rows: dict[int, Tensor] = {}

    def keep(pattern: Tensor, hook: Any) -> None:
        for row, position in enumerate(hook.window):
            rows[position] = pattern[0, :, row, prompt.spans["video"]].sum(-1)

    n = prompt.n_pos
    watch = (names.pattern(2), keep)
    omni.model.generate(prompt, unstopped(4), [knockout("G !-> V"), watch])
    assert (rows[n - 1] > 0).all()
    assert all((rows[n + step] == 0).all() for step in range(3))
    omni.model.generate(prompt, unstopped(4), [knockout("G+last !-> V"), watch])
    assert all((rows[n + step] == 0).all() for step in range(-1, 3))
    assert (rows[n - 2] > 0).all()


@pytest.mark.parametrize("cut", [OMNI_CUTS[i] for i in (0, 3, 5, 8, 10, 11)], ids=lambda c: c.rule)
def test_scaling_to_zero_is_a_knockout(omni, prompt, cut):
    what: Any = dict(query=cut.query, key=cut.key, layers=cut.layers, heads=cut.heads)
    rows: dict[str, list[Tensor]] = {}
    for label, edit in (("cut", knockout(**what)), ("scaled", scale_attention(**what, factor=0.0))):
        kept = rows.setdefault(label, [])
        watch = [
            (names.pattern(layer), lambda pattern, hook, kept=kept: kept.append(pattern.clone()))
            for layer in range(4)
        ]
        made = omni.model.generate(prompt, unstopped(STEPS), [edit, *watch])
        kept += [made.logits[0], made.logits[-1]]
    for cut_row, scaled_row in zip(rows["cut"][:-2], rows["scaled"][:-2], strict=True):
        close(scaled_row, cut_row, 1e-6)
        torch.testing.assert_close(scaled_row.sum(-1), torch.ones(scaled_row.shape[:-1]))
    close(rows["scaled"][-2:], rows["cut"][-2:])


@pytest.mark.parametrize("factor", [0.25, 3.0, 1e6])
def test_scaling_multiplies_the_odds(omni, prompt, factor):
    name = names.pattern(2)
    scale = scale_attention(query="audio", key="video", factor=factor, layers=[2], heads=[1, 3])
    _, before = omni.model.run_with_cache(prompt, names_filter=name)
    _, after = omni.model.run_with_cache(prompt, names_filter=name, fwd_hooks=[scale])
    video, audio = prompt.spans["video"], prompt.spans["audio"]
    expected = before[name].clone()
    for head in (1, 3):
        for query in audio.tolist():
            row = expected[0, head, query]
            row[video] *= factor
            row /= row.sum()
    torch.testing.assert_close(after[name], expected, rtol=1e-5, atol=1e-7)
    untouched = torch.ones_like(expected, dtype=torch.bool)
    untouched[0, torch.tensor([1, 3])[:, None], audio] = False
    bits_equal(after[name][untouched], before[name][untouched])
    torch.testing.assert_close(after[name].sum(-1), torch.ones(after[name].shape[:-1]))
    share, scaled = (cache[name][0, 1, audio[-1], video].sum() for cache in (before, after))
    odds = scaled / (1 - scaled)
    torch.testing.assert_close(odds, factor * share / (1 - share), rtol=1e-2, atol=0)


def test_scaling_by_one_is_rounding(omni, prompt):
    scale = scale_attention(query="generated+text", key="video", factor=1.0)
    made = [omni.model.generate(prompt, unstopped(STEPS), hooks) for hooks in ([scale], [])]
    close(made[0].logits, made[1].logits)
    assert torch.equal(made[0].tokens, made[1].tokens)
