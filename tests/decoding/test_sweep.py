"""A sweep gives what each condition gives alone, whichever rows share a batch."""

import random
from dataclasses import replace
from functools import partial
from typing import Any

import pytest
import torch

from hooked_omni import EmbeddedPrompt, HookedTransformer, knockout, load, names, steer, windows
from hooked_omni.decoding import conditions as sweep_conditions
from hooked_omni.decoding.generate import Generation
from hooked_omni.errors import HookError, PromptError
from tests.support.conditions import halving, other_heads, random_part, turned, zoo
from tests.support.models import left_padded, look
from tests.support.runs import bits_equal, close, hooks_left, noise, unstopped

STEPS = 6
PADDING = 5
Conditions = list[list[Any]]
W = windows(4, width=3)


def cuts(*rules: str) -> Conditions:
    """A condition a rule; none for an empty one."""
    return [[knockout(rule)] if rule else [] for rule in rules]


def require_alone(
    model: HookedTransformer, prompt: Any, make: Any, n: int = STEPS, stop_at_eos: bool = False
) -> list[Generation]:
    """A sweep gives what each condition gives alone."""
    decoding = replace(unstopped(n), stop_at_eos=stop_at_eos)
    together, conditions = model.generate_many(prompt, make(), decoding), make()
    assert len(together) == len(conditions)
    for i, (ours, condition) in enumerate(zip(together, conditions, strict=True)):
        alone = model.generate(prompt, decoding, condition)
        assert ours.tokens.tolist() == alone.tokens.tolist(), f"condition {i}"
        close(ours.logits, alone.logits, why=f"condition {i}:")
        assert ours.text == alone.text
    return together


def test_a_zoo_of_conditions(omni, prompt, reference):
    order = list(zoo(prompt, reference))
    random.Random(3).shuffle(order)  # groups are torn apart, and captions come in this order

    def make() -> Conditions:
        every = zoo(prompt, reference)
        return [every[name] for name in order]

    together = dict(zip(order, require_alone(omni.model, prompt, make), strict=True))
    # A zoo in which nothing acts would be equal, too.
    last = {name: made.logits[-1] for name, made in together.items() if made.logits is not None}
    clean = last.pop("baseline")
    unmoved = [name for name, row in last.items() if torch.allclose(row, clean, atol=1e-4)]
    assert unmoved == ["looks"]
    assert len({tuple(g.tokens.tolist()) for g in together.values()}) > 15
    bits_equal(together["two cuts"].logits, together["same as before"].logits)


@pytest.mark.parametrize("name", ["looks", "in place", "first token too", "prompt", "patched"])
def test_a_condition_alone_in_its_group_is_generate_to_the_bit(omni, prompt, reference, name):
    others = [zoo(prompt, reference)["state"], zoo(prompt, reference)["filter"]]
    conditions = [others[0], zoo(prompt, reference)[name], others[1]]
    together = omni.model.generate_many(prompt, conditions, unstopped(STEPS))[1]
    alone = omni.model.generate(prompt, unstopped(STEPS), zoo(prompt, reference)[name])
    bits_equal(together.logits, alone.logits)
    assert torch.equal(together.tokens, alone.tokens)


@pytest.mark.parametrize("seed", range(2))
@pytest.mark.parametrize("name", ["omni", "vl", "omni padded"])
def test_random_conditions(models, clips, name, seed):
    """Twice twelve conditions of one to three parts, on each of three prompts."""
    omni = models[name.split()[0]]
    inputs = clips[name.split()[0], {"vl": "video"}.get(name, "audio in video")]
    inputs = left_padded(omni, inputs, PADDING) if name == "omni padded" else inputs
    prompt = omni.embed_inputs(**inputs)
    hears = name != "vl"

    def make() -> Conditions:
        dice = random.Random(f"{name} {seed}")
        rules = ["G+last !-> V @ 1", *(["A !-> V @ 0-1"] if hears else ["V !-> Q @ 0-1"])]
        shared = [*map(knockout, rules), (names.resid_mid(2), halving)]
        return [
            [random_part(dice, hears, shared) for _ in range(dice.randint(1, 3))] for _ in range(12)
        ]

    together = require_alone(omni.model, prompt, make, n=5)
    assert len({tuple(g.tokens.tolist()) for g in together}) > 3
    assert hooks_left(omni.model) == []


def test_plain_text(omni):
    """Tokens without spans take hooks of the user's own; those that share one share a pass."""
    tokens = torch.tensor([[72, 101, 108, 108, 111, 32, 119]])

    nothing, half = (names.resid_post(0), look), (names.resid_post(1), halving)
    several = [[(names.attn_scores(2), turned)], [(names.EMBED, halving)]]
    require_alone(omni.model, tokens, lambda: [[], [nothing], [nothing, half], *several, []])
    require_alone(omni.model, tokens, lambda: [[half]] * 3)


def test_a_prompt_of_one_position(omni):
    """Its last position is its first: there is nothing before it to share."""
    one = omni.model.as_prompt(torch.tensor([[72]]))
    pushes = [steer(noise(64, seed=seed), span="last", layers=[1]) for seed in (1, 2)]
    require_alone(omni.model, one, lambda: [[], *([p] for p in pushes)])


@pytest.mark.parametrize("span", ["last", "generated+last"])
def test_steering_the_embeddings_spares_the_prompt(omni, prompt, span):
    """Rows start from one embedding, and each must push its own copy of it."""
    before = prompt.embeds.clone()

    def make() -> Conditions:
        pushes = [steer(noise(64, seed=s), span=span, at=names.EMBED, scale=3.0) for s in (1, 2, 3)]
        return [*([push] for push in pushes), [knockout("G+last !-> A")]]

    omni.model.generate_many(prompt, make(), max_new_tokens=STEPS)
    bits_equal(prompt.embeds, before)
    require_alone(omni.model, prompt, make)


def test_hooks_that_stand_on_the_model_are_refused(omni, prompt, passes):
    """They would see all rows at once, in the batch's own layout."""
    conditions = [[], [knockout("G !-> V @ 2")]]
    for at, hook in ((names.pattern(1), other_heads), (names.resid_pre(1), halving)):
        with omni.model.hooks([(at, hook)]):
            with pytest.raises(HookError, match=at):
                omni.model.generate_many(prompt, conditions, max_new_tokens=3)
            with pytest.raises(HookError, match=at):
                omni.model.score(prompt, torch.tensor([1, 2]), conditions)
    assert passes == []


def test_bfloat16_is_the_same_until_two_tokens_tie(clips):
    """Sums run in another order, so tokens may part where two are equal but for rounding."""
    omni, n = load("random-omni", dtype="bfloat16"), 10
    prompt = omni.embed_inputs(**clips["omni", "audio in video"])
    conditions = cuts("", "G !-> V @ 1-2", "G+last !-> V @ 3", "G+last !-> A")
    conditions.append([(names.resid_post(2), halving)])
    together = omni.model.generate_many(prompt, conditions, unstopped(n))
    agreed = 0
    for ours, condition in zip(together, conditions, strict=True):
        alone = omni.model.generate(prompt, unstopped(n), condition)
        assert ours.logits is not None and alone.logits is not None
        assert ours.logits.dtype == torch.bfloat16
        differ = (ours.tokens != alone.tokens).nonzero()
        same = int(differ[0]) + 1 if len(differ) else n
        # Sixteen roundings of the largest logit.
        rounding = 16 * torch.finfo(torch.bfloat16).eps * float(alone.logits.abs().max())
        close(ours.logits[:same], alone.logits[:same], rounding)
        agreed += same
    assert agreed > n * len(conditions) // 2


def test_rows_that_end_leave_and_others_go_on(omni, prompt, passes, monkeypatch):
    rules = ["G !-> V", "G !-> A @ 1-2", "G !-> text H0-2", "G !-> system @ 3", "G !-> A+V"]

    def make() -> Conditions:
        return cuts("", *rules, "G+last !-> V @ 1")

    whole = omni.model.generate_many(prompt, make(), unstopped(10))
    captions = [g.tokens.tolist() for g in whole]
    ends = (captions[0][7], captions[1][2], captions[2][4], captions[5][5])
    monkeypatch.setattr(omni.model.cfg, "eos_tokens", ends)
    passes.clear()
    together = omni.model.generate_many(prompt, make(), max_new_tokens=10)
    decoded = [rows for rows, n in passes if n == 1]
    for row, (ours, tokens) in enumerate(zip(together, captions, strict=True)):
        stop = min((i for i, token in enumerate(tokens) if token in ends), default=9)
        assert ours.tokens.tolist() == tokens[: stop + 1], f"row {row}"
    assert len({len(g.tokens) for g in together}) >= 3
    assert decoded[-1] < max(decoded)  # nobody computes for a row that has ended
    require_alone(omni.model, prompt, make, n=10, stop_at_eos=True)


def test_a_row_may_end_with_its_first_token(omni, prompt, monkeypatch):
    make = partial(cuts, "G+last !-> V", "G+last !-> A", "last !-> text")
    first = [int(g.tokens[0]) for g in omni.model.generate_many(prompt, make(), max_new_tokens=2)]
    assert len(set(first)) > 1
    monkeypatch.setattr(omni.model.cfg, "eos_tokens", (first[1],))
    together = require_alone(omni.model, prompt, make, stop_at_eos=True)
    assert len(together[1].tokens) == 1
    monkeypatch.setattr(omni.model.cfg, "eos_tokens", tuple(first))
    assert [len(g.tokens) for g in omni.model.generate_many(prompt, make())] == [1, 1, 1]


def test_one_new_token(omni, prompt):
    make = partial(cuts, "", "G+last !-> V", "last !-> A", "A !-> V", "")
    together = require_alone(omni.model, prompt, make, n=1)
    assert [len(g.tokens) for g in together] == [1] * 5


def needed(model: HookedTransformer, prompt: EmbeddedPrompt, n: int) -> int:
    """Bytes that one row needs, as the refusal says them."""
    with pytest.raises(PromptError, match=r"at least [\d,]+ bytes") as refused:
        model.generate_many(prompt, [[]], max_new_tokens=n, memory_budget=1)
    return int(str(refused.value).split("at least ")[1].split()[0].replace(",", ""))


@pytest.mark.parametrize("rows", [1, 2, 5])
def test_a_memory_budget_splits_the_batch_and_changes_nothing(omni, prompt, passes, rows):
    def make() -> Conditions:
        on_prompt = knockout("A !-> V")
        return [
            *([knockout(query="generated", key="video", layers=w)] for w in W),
            *cuts("G+last !-> A @ 1", "G+last !-> A @ 2", "G+last !-> A @ 3"),
            *([on_prompt], [on_prompt, knockout("G !-> A")], []),
        ]

    one = needed(omni.model, prompt, STEPS)
    assert passes == []
    budget = rows * one + one // 2
    ours = omni.model.generate_many(prompt, make(), unstopped(STEPS), memory_budget=budget)
    prefills = [n for _, n in passes if n > 1]
    assert len(prefills) == sum(-(-members // rows) for members in (len(W) + 1, 3, 2))
    assert max(r for r, _ in passes) <= rows
    whole = omni.model.generate_many(prompt, make(), unstopped(STEPS))
    for split, all_at_once, condition in zip(ours, whole, make(), strict=True):
        assert torch.equal(split.tokens, all_at_once.tokens)
        close(split.logits, all_at_once.logits)
        if rows == 1:
            alone = omni.model.generate(prompt, unstopped(STEPS), condition)
            bits_equal(split.logits, alone.logits)
    with pytest.raises(PromptError, match=f"got {one - 1:,}"):
        omni.model.generate_many(prompt, make(), max_new_tokens=STEPS, memory_budget=one - 1)
    tokens = ours[0].tokens
    score_budget = 3 * len(tokens) * one
    split = omni.model.score(prompt, tokens, make(), memory_budget=score_budget)
    close(split, omni.model.score(prompt, tokens, make()))


@pytest.mark.parametrize("padded", [False, True])
def test_cuts_written_in_place_are_those_of_the_hooks(omni, clips, monkeypatch, padded):
    """To the bit, in steps and in wide passes, for cuts alone, together, and beside other hooks."""
    inputs = clips["omni", "audio in video"]
    prompt = omni.embed_inputs(**(left_padded(omni, inputs, PADDING) if padded else inputs))
    both = [knockout("G !-> A"), knockout("G !-> V @ 1-2")]
    heads = [knockout("G !-> V @ 1 H0"), knockout("G !-> A @ 1")]
    conditions = [*cuts("", "G !-> V @ 1", "G !-> A @ 1", "G !-> G @ 2"), both, heads]
    text = torch.tensor([3, 1, 4, 1, 5, 9])

    def made() -> list[Any]:
        captions = omni.model.generate_many(prompt, conditions, unstopped(STEPS))
        return [c.logits for c in captions] + omni.model.score(prompt, text, conditions)

    found: list[int] = []
    bounds = sweep_conditions._bounds
    counted = lambda *given: found.append(len(bounds(*given) or ())) or bounds(*given)  # noqa: E731
    monkeypatch.setattr(sweep_conditions, "_bounds", counted)
    in_place = made()
    assert {0, 1, 2} == set(found)  # some by their hooks, as heads are, and some twice
    monkeypatch.setattr(sweep_conditions, "_bounds", lambda *_: None)
    bits_equal(in_place, made())


def test_cuts_that_together_leave_nothing_are_refused(omni, prompt):
    everything = [knockout("G !-> prompt"), knockout("G !-> G")]
    with pytest.raises(HookError, match=r"keep a key to read, got none left .* for position"):
        omni.model.generate_many(prompt, [[], [everything[0]], everything], max_new_tokens=3)
