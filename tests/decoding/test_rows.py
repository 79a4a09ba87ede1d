"""A known caption that is tried first changes no token and no score, ties included."""

import random
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor

from hooked_omni import HookedOmni, ablate, knockout, load, names, scale_attention, steer, windows
from hooked_omni.decoding import rows as rows_module
from hooked_omni.decoding.prefill import prefill
from hooked_omni.errors import PromptError
from hooked_omni.hooks.interventions import Hook, SpanHook, SpanPositions
from tests.support.conditions import random_part, zoo
from tests.support.runs import bits_equal, close, hooks_left, noise, unstopped

STEPS = 7
W = windows(4, width=3)
Conditions = list[list[Any]]


def sweep(*more: list[Any]) -> Conditions:
    """Conditions that act on generated positions alone, and so share a batch."""
    cut = partial(knockout, query="generated")
    return [[], *([cut(key=key, layers=w)] for key in ("video", "audio") for w in W[1:3]), *more]


@pytest.fixture(scope="module")
def full(omni: HookedOmni, prompt: Any) -> Any:
    return prefill(omni.model, prompt)


def require_same(omni: HookedOmni, prompt: Any, make: Any, draft: Any, **how: Any) -> list[Any]:
    """With this draft, captions and scores are those of each condition alone."""
    decoding = replace(unstopped(STEPS), **how)
    draft = tuple(int(token) for token in draft)
    tried = replace(decoding, draft=draft)
    made = omni.model.generate_many(prompt, make(), tried)
    scored = omni.model.generate_many(prompt, make(), replace(tried, score_draft=True))
    scores = omni.model.score(prompt, torch.tensor(draft), make())
    for i, (own, also, condition) in enumerate(zip(made, scored, make(), strict=True)):
        alone = omni.model.generate(prompt, decoding, condition)
        for ours in (own, also):
            assert ours.tokens.tolist() == alone.tokens.tolist(), f"condition {i}"
            assert ours.text == alone.text
            close(ours.logits, alone.logits, why=f"condition {i}:")
        assert own.draft_logprobs is None
        bits_equal(also.draft_logprobs, scores[i])
    assert hooks_left(omni.model) == []
    return made


def plain(omni: HookedOmni, prompt: Any, n: int = STEPS) -> list[int]:
    return omni.model.generate(prompt, unstopped(n)).tokens.tolist()


@pytest.mark.parametrize("name", ["plain", "part", "other", "two tokens", "parts in it"])
def test_any_draft_gives_the_same_captions(omni, full, name):
    known = plain(omni, full)
    drafts = {
        "plain": known,
        "part": known[:5],
        "other": known[::-1],
        "two tokens": known[:2],
        "parts in it": [*known[:3], (known[3] + 1) % 256, *known[4:]],
    }
    made = require_same(omni, full, sweep, drafts[name])
    assert len({tuple(one.tokens.tolist()) for one in made}) > 3


def test_a_draft_through_a_zoo_of_conditions(omni, full, prompt, reference):
    """Hooks of the user's own, on the prompt, with state: each as without a draft."""
    draft = tuple(plain(omni, full))
    order = list(zoo(prompt, reference))
    random.Random(5).shuffle(order)
    order = order[:18]
    tried = replace(unstopped(STEPS), draft=draft, score_draft=True)
    every = zoo(prompt, reference)
    made = omni.model.generate_many(full, [every[name] for name in order], tried)
    every = zoo(prompt, reference)
    without = omni.model.generate_many(full, [every[n] for n in order], unstopped(STEPS))
    for name, ours, theirs in zip(order, made, without, strict=True):
        assert ours.tokens.tolist() == theirs.tokens.tolist(), name
        assert ours.draft_logprobs.shape == (STEPS,), name


def test_random_interventions(omni, full):
    def make() -> Conditions:
        dice = random.Random(0)
        parts = (random_part(dice, True, [knockout("G+last !-> V @ 1")]) for _ in range(60))
        ours = [part for part in parts if not isinstance(part, tuple)][:8]
        return [[], *([part] for part in ours)]

    require_same(omni, full, make, plain(omni, full))


def test_captions_that_end(omni, full, monkeypatch):
    known = plain(omni, full)
    captions = [
        g.tokens.tolist() for g in omni.model.generate_many(full, sweep(), unstopped(STEPS))
    ]
    ends = (captions[1][2], known[5])
    monkeypatch.setattr(omni.model.cfg, "eos_tokens", ends)
    for draft in (known, known[:6]):  # an end in the middle of a draft, and at its own
        made = require_same(omni, full, sweep, draft, stop_at_eos=True)
    assert len({len(one.tokens) for one in made}) > 1


@pytest.fixture
def passes_of(omni: HookedOmni, passes: Any) -> Iterator[Any]:
    def run(conditions: Conditions, prompt: Any, **how: Any) -> list[int]:
        passes.clear()
        omni.model.generate_many(prompt, conditions, replace(unstopped(STEPS), **how))
        return [n for _, n in passes if n < prompt.n_pos]

    yield run


def still(omni: HookedOmni, prompt: Any, n: int) -> Conditions:
    """Conditions that edit, and move no caption."""
    return [
        [],
        *([steer(noise(64, seed=i, size=1e-4), span="generated", layers=[1])] for i in range(n)),
    ]


def test_rows_that_agree_take_a_few_passes(omni, full, passes_of):
    known = tuple(plain(omni, full))
    assert passes_of(still(omni, full, 5), full) == [1] * (STEPS - 1)
    assert passes_of(still(omni, full, 5), full, draft=known) == [4, 2]


def test_a_draft_that_most_rows_leave_is_left(omni, full, passes_of):
    known = plain(omni, full)
    wrong = (*known[:2], *((token + 1) % 256 for token in known[2:]))
    made = passes_of(still(omni, full, 5), full, draft=wrong)
    assert made == [4, *[1] * (STEPS - 3)]  # what was agreed upon is kept


def at_step(spans: Any) -> list[Hook]:
    """Acts by the position of generation, which a text that is read does not have."""

    def act(tensor: Tensor, index: Tensor, hook: Any) -> Tensor:
        return tensor * (1.0 + 0.2 * (hook.window.start - spans.n_prompt))

    hook = SpanHook(SpanPositions(spans, "generated"), act)
    return [(names.resid_post(1), hook)]


@pytest.mark.parametrize("what", ["by step", "a user's own", "half precision", "experts"])
def test_what_cannot_be_verified_runs_as_without(omni, full, clips, what, passes_of):
    known = plain(omni, full)
    if what in ("half precision", "experts"):
        other = load("random-omni3") if what == "experts" else load("random-omni", dtype="bfloat16")
        kind = "omni3" if what == "experts" else "omni"
        one = other.embed_inputs(**clips[kind, "audio in video"])
        draft = tuple(plain(other, one))
        make = partial(sweep, [scale_attention(query="generated", key="video", factor=0.5)])
        ours, theirs = (
            other.model.generate_many(one, make(), replace(unstopped(STEPS), draft=tokens))
            for tokens in (draft, ())
        )
        for a, b in zip(ours, theirs, strict=True):
            bits_equal(a.logits, b.logits)
        return
    acting: Any = at_step if what == "by step" else (names.resid_post(1), lambda t, hook: t * 1.1)
    require_same(omni, full, lambda: sweep([acting]), known)
    if what == "by step":
        assert passes_of([[], [at_step]], full, draft=tuple(known)) == [1] * (STEPS - 1)


@pytest.fixture(scope="module")
def twins() -> HookedOmni:
    """Every token has a twin with the same row in the unembedding, or one a rounding away."""
    omni = load("random-omni")
    weight = omni.model.unembed.weight.data
    if weight.data_ptr() == omni.model.embed.weight.data_ptr():
        omni.model.unembed.weight = torch.nn.Parameter(weight.clone(), False)
    return omni


@pytest.mark.parametrize("apart", [0.0, 2e-7])
def test_planted_ties_fall_as_they_do_row_by_row(twins, clips, apart, monkeypatch):
    weight = twins.model.unembed.weight.data
    kept, n = weight.clone(), len(weight)
    order = torch.randperm(n, generator=torch.Generator().manual_seed(3))
    first, second = order[: n // 2], order[n // 2 : 2 * (n // 2)]
    weight[second] = weight[first] * (1 + apart * noise(n // 2, weight.shape[1], seed=3))
    prompt = prefill(twins.model, twins.embed_inputs(**clips["omni", "audio in video"]))
    alone: list[Any] = []
    generate = rows_module.generate
    monkeypatch.setattr(
        rows_module, "generate", lambda *given: alone.append(given) or generate(*given)
    )
    require_same(twins, prompt, sweep, plain(twins, prompt))
    require_same(twins, prompt, sweep, [1, 2])
    assert alone  # rows were decided by their own arithmetic
    weight.copy_(kept)


def test_a_memory_budget_and_the_last_position(omni, full):
    def make() -> Conditions:
        last = [
            [knockout("G+last !-> V @ 1")],
            [knockout("G+last !-> A")],
            [knockout("last !-> V")],
        ]
        zero = ablate("attn.hook_k", span="generated", layers=[1], heads=[0])
        return [*sweep([zero]), *last, [knockout("A !-> V")], [knockout("A !-> V @ 2"), zero]]

    require_same(omni, full, make, plain(omni, full), memory_budget=2**21)


def test_a_text_before_its_time(omni):
    tokens = torch.tensor([[72, 101, 108, 108, 111, 32, 119]])
    push = [steer(noise(64, seed=s), span="generated", layers=[1]) for s in range(3)]
    require_same(omni, tokens, lambda: [[], *([p] for p in push)], plain(omni, tokens))


def test_drafts_that_are_refused(as_installed, omni, prompt, passes):
    many = omni.model.generate_many
    for draft, match in (((1,) * 5, "at most 4 tokens.* got 5"), ((1, 998), "got 1 to 998")):
        with pytest.raises(PromptError, match=match):
            many(prompt, [[]], max_new_tokens=4, draft=draft)
    with pytest.raises(PromptError, match="of one if it is scored, got 0"):
        many(prompt, [[]], max_new_tokens=4, score_draft=True)
    with pytest.raises(PromptError, match="in a sweep alone"):
        omni.model.generate(prompt, draft=(1,))
    assert passes == []


def test_a_draft_may_be_a_captions_own_tokens(omni, prompt):
    """A tensor, as `generate` gives it."""
    plain = omni.model.generate(prompt, unstopped(4))
    sweep = [[], [knockout("G !-> V")]]
    given = omni.model.generate_many(prompt, sweep, unstopped(4), draft=plain.tokens)
    as_numbers = omni.model.generate_many(
        prompt, sweep, unstopped(4), draft=tuple(plain.tokens.tolist())
    )
    assert [one.tokens.tolist() for one in given] == [one.tokens.tolist() for one in as_numbers]
