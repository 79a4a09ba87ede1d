"""Scores that would be larger than a budget come in blocks of queries, with the same bits."""

import functools
import itertools
from typing import Any

import pytest
import torch

import hooked_omni.decoder.attention
from analyses.attention_share.shares import forced_shares
from analyses.attention_share.sinks import SinkWatch
from benchmarks.sweep import build, peak_bytes
from hooked_omni import (
    HookedOmni,
    HookedTransformer,
    knockout,
    load,
    names,
    prefill,
    scale_attention,
)
from hooked_omni.decoder.memory import query_blocks
from hooked_omni.decoding.score import forced_logits
from hooked_omni.errors import HookError
from hooked_omni.hooks.hook_point import by_query
from tests.support.models import look

N_POS = 300
TOKENS = torch.randint(0, 256, (1, N_POS), generator=torch.Generator().manual_seed(3))


@pytest.fixture(scope="module")
def loaded() -> Any:
    """A model by name, loaded once."""
    return functools.cache(load)


def budget(model: HookedTransformer, queries: int, n_key: int = N_POS) -> int:
    """Bytes for the scores of so many queries."""
    return 12 * model.cfg.n_heads * queries * n_key


def in_blocks(model: HookedTransformer, queries: int, run: Any) -> tuple[Any, Any]:
    """What `run` makes with whole scores, and with those of so many queries at a time."""
    whole = run()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(model.cfg, "attention_budget", budget(model, queries))
        return whole, run()


@pytest.mark.parametrize("queries", [1, 50, 170])
@pytest.mark.parametrize("name", ["random-omni", "random-vl3", "random-phi4"])
def test_interventions_in_blocks_are_those_on_whole_scores_to_the_bit(loaded, name, queries):
    model = loaded(name).model
    prompt = model.as_prompt(TOKENS)
    prompt.spans.positions["keys"] = torch.arange(40, 280, 3)
    prompt.spans.positions["queries"] = torch.arange(100, 260)
    edits = [
        knockout(query="queries", key="keys", layers=[0, 1]),
        scale_attention(query="queries", key="keys", factor=2.5, layers=[1], heads=[1]),
    ]
    for condition in ([edits[0]], edits):
        whole, blocks = in_blocks(
            model, queries, lambda c=condition: model.run_with_hooks(prompt, fwd_hooks=c)
        )
        assert torch.equal(whole, blocks)
    plain = model(prompt)
    assert not torch.equal(plain, whole)


@pytest.mark.parametrize("name", ["random-omni", "random-phi4"])
def test_eager_models_and_padding_come_in_blocks_to_the_bit(loaded, name, monkeypatch):
    model = loaded(name).model
    monkeypatch.setattr(model.cfg, "attn_implementation", "eager")
    prompt = model.as_prompt(TOKENS.repeat(2, 1))
    mask = torch.ones(2, N_POS, dtype=torch.long)
    mask[1, :70] = 0
    for padded in (None, mask):
        object.__setattr__(prompt, "mask", padded)
        whole, blocks = in_blocks(model, 33, lambda: model(prompt))
        real = slice(None) if padded is None else mask != 0
        assert torch.equal(whole[real], blocks[real])


def test_masks_of_the_other_kernel_come_in_blocks_to_rounding(omni):
    """The kernel cuts its queries by their number, and so sums in another order."""
    model = omni.model
    prompt = model.as_prompt(TOKENS)
    mask = torch.ones(1, N_POS, dtype=torch.long)
    mask[0, :70] = 0
    object.__setattr__(prompt, "mask", mask)
    whole, blocks = in_blocks(model, 5, lambda: model(prompt))
    torch.testing.assert_close(blocks[:, 70:], whole[:, 70:], atol=2e-5, rtol=1e-5)


def test_shares_and_sinks_in_blocks_are_the_same(omni, prompt):
    model, tokens = omni.model, torch.arange(60, 160)
    kept = prefill(model, prompt, SinkWatch.at(model))

    def measured() -> list[torch.Tensor]:
        watch = SinkWatch(model, kept)
        shares = forced_shares(model, kept, tokens, ["audio", "video", "generated"], watch.hooks())
        return [*shares.values(), watch.paid(), watch.sinks()]

    for whole, blocks in zip(*in_blocks(model, 16, measured), strict=True):
        torch.testing.assert_close(blocks, whole, atol=1e-6, rtol=0)


def test_a_hook_sees_all_queries_unless_it_takes_blocks(omni):
    model, seen, blocks = omni.model, [], []
    prompt = model.as_prompt(TOKENS)
    hooks = [
        (names.pattern(1), lambda pattern, hook: seen.append(pattern.shape)),
        (
            names.pattern(2),
            by_query(
                lambda p, hook: blocks.append((hook.window, p.shape, float(p.detach().sum())))
            ),
        ),
    ]
    _, cache = in_blocks(model, 64, lambda: model.run_with_cache(prompt, names.attn_scores(3)))[1]
    assert cache[names.attn_scores(3)].shape == (1, 4, N_POS, N_POS)
    in_blocks(model, 64, lambda: model.run_with_hooks(prompt, fwd_hooks=hooks))
    assert seen == [(1, 4, N_POS, N_POS)] * 2
    windows = [window for window, _, _ in blocks]
    assert windows[0] == range(N_POS) and windows[1].start == 0 and windows[-1].stop == N_POS
    assert all(a.stop == b.start for a, b in itertools.pairwise(windows[1:]))
    assert [shape for _, shape, _ in blocks] == [(1, 4, len(w), N_POS) for w in windows]
    assert sum(s for _, _, s in blocks[1:]) == pytest.approx(4 * N_POS, rel=1e-4)


def test_blocks_are_of_one_size_and_not_small():
    for n, one, most in ((99, 10, 200), (1_000, 7, 1), (31, 1, 5), (5, 10, 10), (100_001, 12, 999)):
        blocks = query_blocks(range(7, 7 + n), one, most)
        sizes = [len(block) for block in blocks]
        assert sum(sizes) == n and max(sizes) - min(sizes) <= 1
        assert min(sizes) >= min(16, n) and (max(sizes) * one <= most or max(sizes) < 32)


@pytest.mark.parametrize("in_place", [True, False])
def test_an_edit_of_blocks_is_that_of_the_whole_to_the_bit(omni, in_place):
    prompt = omni.model.as_prompt(TOKENS)

    def halve(scores: torch.Tensor, hook: Any) -> torch.Tensor | None:
        rows = torch.tensor([position % 2 == 0 for position in hook.window])
        if in_place:
            scores[:, 1, rows] *= 0.5
            return None
        return torch.where(rows[:, None], scores / 3, scores)

    hooks = [(names.attn_scores(0), by_query(halve)), (names.attn_scores(2), by_query(halve))]
    run = lambda: omni.model.run_with_hooks(prompt, fwd_hooks=hooks)  # noqa: E731
    whole, blocks = in_blocks(omni.model, 40, run)
    assert torch.equal(whole, blocks)
    assert not torch.equal(whole, omni.model(prompt))


def test_edits_of_blocks_are_refused_as_those_of_the_whole(omni):
    prompt = omni.model.as_prompt(TOKENS)
    cases = {
        names.attn_scores(1): (lambda s, hook: s.fill_(torch.finfo(s.dtype).min), "position 0"),
        names.pattern(1): (lambda p, hook: torch.ones_like(p), "later positions"),
    }
    for name, (edit, message) in cases.items():
        run = lambda n=name, e=edit: omni.model.run_with_hooks(prompt, fwd_hooks=[(n, by_query(e))])  # noqa: E731
        with pytest.raises(HookError, match=message):
            run()
        with pytest.MonkeyPatch.context() as patch, pytest.raises(HookError, match=message):
            patch.setattr(omni.model.cfg, "attention_budget", budget(omni.model, 40))
            run()
    assert omni.model.current.window == range(0)


def test_whole_scores_without_room_are_refused_before_they_are_made(omni, monkeypatch):
    model = omni.model
    monkeypatch.setattr(model.cfg, "attention_budget", budget(model, 40))
    monkeypatch.setattr(hooked_omni.decoder.attention, "free_bytes", lambda device: 2 * 2**20)
    prompt = model.as_prompt(TOKENS)
    with pytest.raises(
        HookError, match=r"blocks.1.attn.hook_pattern', 4.12 MiB, got 2.00 MiB free"
    ):
        model.run_with_hooks(prompt, fwd_hooks=[(names.pattern(1), look)])
    model.run_with_hooks(prompt, fwd_hooks=[(names.pattern(1), by_query(look))])
    model(prompt)


def test_an_opened_prompt_stays_within_the_budget():
    omni, prompt = build(n_layers=2, d_model=64, n_pos=2_000)
    cut = knockout(query="audio", key="video", layers=[0])
    run = lambda: omni.model.generate(prompt, max_new_tokens=1, fwd_hooks=[cut])  # noqa: E731
    omni.model.cfg.attention_budget = 2**23
    run()  # what is loaded at first use
    beside = 30 * prompt.embeds.nbytes
    assert peak_bytes(run) < 2**23 + beside < 12 * 4 * 2_000**2 / 8


def test_answers_read_in_blocks_are_the_same_answers(omni: HookedOmni, prompt) -> None:
    tokens, model = torch.arange(60, 160), omni.model
    cut = knockout(query="generated", key="video", layers=[1, 2])
    run = lambda: forced_logits(model, prompt, tokens, [cut])  # noqa: E731
    whole, blocks = in_blocks(model, 20, run)
    torch.testing.assert_close(blocks, whole, atol=2e-5, rtol=1e-5)
