"""A sweep says what each condition says alone, computes what it must, and leaves nothing behind."""

import random
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import Tensor

from hooked_omni import (
    Capture,
    EmbeddedPrompt,
    Generation,
    HookedOmni,
    HookedTransformer,
    Reference,
    ablate,
    knockout,
    load,
    names,
    patch,
    scale_attention,
    steer,
    windows,
)
from hooked_omni.errors import HookedOmniError, HookError, PromptError, SpanError
from hooked_omni.hf.capture import find_decoder
from tests.support.models import eager, left_padded, look, watched

STEPS = 6
PADDING = 5
SHARES = ("text", "audio", "video", "generated", "last")
Conditions = list[list[Any]]


def bits_equal(ours: Tensor | None, theirs: Tensor | None) -> None:
    torch.testing.assert_close(ours, theirs, rtol=0, atol=0)


@pytest.fixture
def prompt(omni: HookedOmni, clips: dict) -> EmbeddedPrompt:
    return omni.embed_inputs(**clips["omni", "audio in video"])


@pytest.fixture
def passes(omni: HookedOmni) -> Iterator[list[tuple[int, int]]]:
    """Rows and positions of every pass that has entered the blocks."""
    seen: list[tuple[int, int]] = []
    block: Any = omni.model.blocks[0]
    with watched(block, lambda args: seen.append((args[0].shape[0], args[0].shape[1]))):
        yield seen


def hooks_left(model: HookedTransformer) -> list[str]:
    return [name for name, point in model.hook_dict.items() if point.has_hooks()]


def direction(seed: int, width: int = 64, size: float = 1.0) -> Tensor:
    return size * torch.randn(width, generator=torch.Generator().manual_seed(seed))


# --- hooks of a user's own -------------------------------------------------------------------


def halving(tensor: Tensor, hook: Any) -> None:
    """Edits the newest position in place."""
    tensor[:, -1] *= 0.5


def turned(tensor: Tensor, hook: Any) -> Tensor:
    """Returns a new tensor of another layout in memory."""
    return tensor.transpose(-1, -2).contiguous().transpose(-1, -2).roll(1, dims=-1) * 0.9


def other_heads(pattern: Tensor, hook: Any) -> Tensor:
    """Gives each head the next one's attention, and needs TransformerLens's shape for it."""
    assert pattern.shape[:2] == (1, 4) and pattern.ndim == 4
    return pattern.roll(1, dims=1)


def dimming(scores: Tensor, hook: Any) -> None:
    scores[:, 1, :, 10:30] -= 2.0


def louder_each_call(step: float = 0.1) -> Callable[..., Tensor]:
    """Keeps state: a hook that is shown another row's call, too, edits otherwise."""
    calls = [0]

    def louder(tensor: Tensor, hook: Any) -> Tensor:
        calls[0] += 1
        return tensor * (1 + step * calls[0])

    return louder


def zoo(prompt: EmbeddedPrompt, cache: Any) -> dict[str, list[Any]]:
    """Conditions of every kind; made anew for every run, since some keep state."""
    on_prompt = knockout("A !-> V")
    with_state, shared = louder_each_call(), look
    reference = Reference(cache, prompt.spans)
    cuts = {f"G !-> V {w}": [knockout(query="generated", key="video", layers=w)] for w in W}
    return {
        "baseline": [],
        **cuts,
        "one head": [knockout("G !-> A @ 1 H2")],
        "two cuts": [knockout("G !-> A @ 1-2"), knockout("G !-> text @ 3 H0,1")],
        "same as before": [knockout("G !-> A @ 1-2"), knockout("G !-> text @ 3 H0,1")],
        "first token too": [knockout("G+last !-> V")],
        "first token too, late": [knockout("G+last !-> A @ 2-3 H1")],
        "first token alone": [knockout("last !-> A+V")],
        "prompt": [on_prompt],
        "prompt and answer": [on_prompt, knockout("G !-> V @ 2")],
        "prompt and last": [on_prompt, knockout("G+last !-> system")],
        "in place": [(names.in_block("attn.hook_z", 1), halving)],
        "another layout": [(names.resid_post(2), turned)],
        "state": [(names.resid_mid(1), with_state), (names.resid_mid(3), with_state)],
        "state at decode": [on_prompt, (names.in_block("mlp.hook_post", 2), louder_each_call(0.3))],
        "looks": [(names.pattern(1), shared)],
        "looks and cuts": [(names.pattern(1), shared), knockout("G !-> V @ 3")],
        "heads swapped": [(names.pattern(2), other_heads)],
        "dimmed": [(names.attn_scores(0), dimming)],
        "embedding": [(names.EMBED, lambda t, hook: t + direction(1).to(t))],
        "final norm": [(names.FINAL_NORM, turned)],
        "filter": [(lambda name: name.endswith("hook_mlp_out"), halving)],
        "order": [(names.resid_pre(1), turned), (names.resid_pre(1), halving)],
        "other order": [(names.resid_pre(1), halving), (names.resid_pre(1), turned)],
        "ablated": [ablate("attn.hook_z", span="generated", layers=[1, 2], heads=[0, 3])],
        "ablated key": [ablate("attn.hook_k", span="generated+last", heads=[1])],
        "ablated prompt": [ablate("hook_resid_mid", span="frame 1", layers=[2])],
        "steered": [steer(direction(2), span="generated", layers=[1], scale=2.0)],
        "steered all": [steer(direction(3), span="generated+video", layers=[0, 3])],
        "steered door": [steer(direction(4), span="generated", at=names.EMBED, scale=3.0)],
        "steered norm": [steer(direction(5), span="generated", at=names.FINAL_NORM)],
        "scaled": [scale_attention(query="generated", key="audio", factor=3.0, layers=[1, 2])],
        "scaled last": [scale_attention(query="generated+last", key="video", factor=0.5)],
        "patched": [patch("hook_resid_pre", span="audio", source=reference, layers=[2])],
    }


W = windows(4, width=3)


@pytest.fixture
def reference(omni: HookedOmni, clips: dict) -> Any:
    """Activations of the same tokens over other sound and picture."""
    other = omni.embed_inputs(**clips["omni", "audio in video"])
    noise = torch.randn(other.embeds.shape, generator=torch.Generator().manual_seed(9))
    hooks = [(names.EMBED, lambda t, hook: t + noise)]
    wanted = lambda name: name.endswith(("hook_resid_pre", "hook_z"))  # noqa: E731
    return omni.model.run_with_cache(other, names_filter=wanted, fwd_hooks=hooks)[1]


def require_alone(
    model: HookedTransformer,
    prompt: EmbeddedPrompt | Tensor,
    make: Callable[[], Conditions],
    n: int = STEPS,
    **more: Any,
) -> list[Generation]:
    """What a sweep says is what each condition says alone."""
    together = model.generate_many(prompt, make(), n, return_logits=True, **more)
    more.pop("memory_budget", None)
    conditions = make()
    assert len(together) == len(conditions)
    for i, (ours, condition) in enumerate(zip(together, conditions, strict=True)):
        alone = model.generate(prompt, n, condition, return_logits=True, **more)
        assert ours.tokens.tolist() == alone.tokens.tolist(), f"condition {i}"
        torch.testing.assert_close(
            ours.logits, alone.logits, rtol=0, atol=1e-5, msg=lambda m, i=i: f"condition {i}: {m}"
        )
        assert ours.text == alone.text
    return together


# --- a sweep is its conditions ---------------------------------------------------------------


def test_a_zoo_of_conditions(omni: HookedOmni, prompt: EmbeddedPrompt, reference: Any) -> None:
    def make() -> Conditions:
        return list(zoo(prompt, reference).values())

    together = require_alone(omni.model, prompt, make, stop_at_eos=False)
    # A zoo in which nothing acts would be equal, too.
    said = dict(zip(zoo(prompt, reference), together, strict=True))
    last = {name: made.logits[-1] for name, made in said.items() if made.logits is not None}
    clean = last.pop("baseline")
    unmoved = [name for name, row in last.items() if torch.allclose(row, clean, atol=1e-4)]
    assert unmoved == ["looks"]
    assert len({tuple(g.tokens.tolist()) for g in together}) > 15
    bits_equal(said["two cuts"].logits, said["same as before"].logits)


@pytest.mark.parametrize("reverse", [False, True])
def test_conditions_come_back_in_their_order(
    omni: HookedOmni, prompt: EmbeddedPrompt, reference: Any, reverse: bool
) -> None:
    order = list(zoo(prompt, reference))
    random.Random(3).shuffle(order)
    order = order[::-1] if reverse else order

    def make() -> Conditions:
        every = zoo(prompt, reference)
        return [every[name] for name in order]

    require_alone(omni.model, prompt, make, n=3, stop_at_eos=False)


@pytest.mark.parametrize("name", ["looks", "in place", "first token too", "prompt", "patched"])
def test_a_condition_alone_in_its_group_is_generate_to_the_bit(
    omni: HookedOmni, prompt: EmbeddedPrompt, reference: Any, name: str
) -> None:
    others = [zoo(prompt, reference)["state"], zoo(prompt, reference)["filter"]]
    conditions = [others[0], zoo(prompt, reference)[name], others[1]]
    together = omni.model.generate_many(
        prompt, conditions, STEPS, stop_at_eos=False, return_logits=True
    )[1]
    alone = omni.model.generate(
        prompt, STEPS, zoo(prompt, reference)[name], stop_at_eos=False, return_logits=True
    )
    bits_equal(together.logits, alone.logits)
    assert torch.equal(together.tokens, alone.tokens)


def random_part(dice: random.Random, heard: bool, shared: list[Any]) -> Any:
    """One hook or intervention, of a kind that prompts of this model have room for."""
    media = ["video", "frame 1", "video@0-1s", *(["audio", "audio@1.0-2.0s"] if heard else [])]
    query = dice.choice(["generated", "generated+last", "last", "generated+question"])
    layers = sorted(dice.sample(range(4), dice.randint(1, 4)))
    heads = dice.choice([None, sorted(dice.sample(range(4), dice.randint(1, 3)))])
    where = dice.choice(["generated", "generated+last", "last", "generated+video"])
    at = dice.choice(["hook_resid_pre", "hook_resid_post", "hook_attn_out", "hook_mlp_out"])
    kind = dice.randrange(9)
    if kind < 3:
        key = dice.choice([*media, "system", "generated"])
        query = "generated" if key == "generated" else query
        # The words come before the clip, so they cannot read it.
        query = query if key == "system" else query.replace("+question", "")
        return knockout(query=query, key=key, layers=layers, heads=heads)
    if kind == 3:
        return steer(direction(dice.randrange(99)), span=where, at=at, layers=layers)
    if kind == 4:
        point = dice.choice(["attn.hook_z", "attn.hook_q", "attn.hook_rot_q"])
        return ablate(point, span=where, layers=layers[:1], heads=heads or [0])
    if kind == 5:
        factor = dice.choice([0.0, 0.5, 4.0])
        key = dice.choice(media)
        return scale_attention(query="generated+last", key=key, factor=factor, layers=layers)
    if kind == 6:
        return dice.choice(shared)
    if kind == 7:
        point = dice.choice([names.resid_post(layers[0]), names.FINAL_NORM, names.EMBED])
        return (point, dice.choice([halving, turned, look]))
    return (names.in_block("hook_mlp_out", layers[0]), louder_each_call(dice.random()))


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("name", ["omni", "vl", "omni padded"])
def test_random_conditions(models: dict, clips: dict, name: str, seed: int) -> None:
    """Six times twelve conditions of one to three parts, on each of three prompts."""
    omni = models[name.split()[0]]
    inputs = clips[name.split()[0], {"vl": "video"}.get(name, "audio in video")]
    inputs = left_padded(omni, inputs, PADDING) if name == "omni padded" else inputs
    prompt = omni.embed_inputs(**inputs)
    heard = name != "vl"

    def make() -> Conditions:
        dice = random.Random(f"{name} {seed}")
        rules = ["G+last !-> V @ 1", *(["A !-> V @ 0-1"] if heard else ["V !-> Q @ 0-1"])]
        shared = [*map(knockout, rules), (names.resid_mid(2), halving)]
        return [
            [random_part(dice, heard, shared) for _ in range(dice.randint(1, 3))] for _ in range(12)
        ]

    together = require_alone(omni.model, prompt, make, n=5, stop_at_eos=False)
    assert len({tuple(g.tokens.tolist()) for g in together}) > 3
    assert hooks_left(omni.model) == []


def test_plain_text(omni: HookedOmni) -> None:
    """Tokens without spans take hooks of the user's own; those that share one share a pass."""
    tokens = torch.tensor([[72, 101, 108, 108, 111, 32, 119]])

    def make() -> Conditions:
        nothing = (names.resid_post(0), look)
        return [
            [],
            [nothing],
            [nothing, (names.resid_post(1), halving)],
            [(names.attn_scores(2), turned)],
            [(names.EMBED, halving)],
            [],
        ]

    require_alone(omni.model, tokens, make, stop_at_eos=False)
    same = [[(names.resid_post(0), halving)]] * 3
    require_alone(omni.model, tokens, lambda: same, stop_at_eos=False)


def test_a_prompt_of_one_position(omni: HookedOmni) -> None:
    """Its last position is its first: there is nothing before it to share."""
    one = omni.embed_inputs(
        input_ids=torch.tensor([[72]]), attention_mask=torch.ones(1, 1, dtype=torch.long)
    )
    pushes = [steer(direction(seed), span="last", layers=[1]) for seed in (1, 2)]
    require_alone(omni.model, one, lambda: [[], *([p] for p in pushes)], stop_at_eos=False)


@pytest.mark.parametrize("span", ["last", "generated+last"])
def test_steering_at_the_door_spares_the_prompt(omni: HookedOmni, clips: dict, span: str) -> None:
    """Rows start from one embedding, and each must push its own copy of it."""
    prompt = omni.embed_inputs(**clips["omni", "audio in video"])
    before = prompt.embeds.clone()

    def make() -> Conditions:
        pushes = [steer(direction(s), span=span, at=names.EMBED, scale=3.0) for s in (1, 2, 3)]
        return [*([push] for push in pushes), [knockout("G+last !-> A")]]

    omni.model.generate_many(prompt, make(), STEPS)
    bits_equal(prompt.embeds, before)
    require_alone(omni.model, prompt, make, stop_at_eos=False)


def test_hooks_that_stand_on_the_model_are_refused(
    omni: HookedOmni, prompt: EmbeddedPrompt, passes: list[tuple[int, int]]
) -> None:
    """They would see all rows at once, in the batch's own layout."""
    conditions = [[], [knockout("G !-> V @ 2")]]
    for at, hook in ((names.pattern(1), other_heads), (names.resid_pre(1), halving)):
        with omni.model.hooks([(at, hook)]), pytest.raises(HookError, match=at):
            omni.model.generate_many(prompt, conditions, 3)
        with omni.model.hooks([(at, hook)]), pytest.raises(HookError, match=at):
            omni.model.score_many(prompt, torch.tensor([1, 2]), conditions)
    assert passes == []


def test_bfloat16_says_the_same_until_two_tokens_tie(clips: dict) -> None:
    """Sums run in another order, so tokens may part where two are equal but for rounding."""
    omni = load("random-omni", dtype="bfloat16")
    prompt = omni.embed_inputs(**clips["omni", "audio in video"])
    rules = ["G !-> V @ 1-2", "G !-> A", "G+last !-> V @ 3", "G+last !-> A", "G !-> V H0"]
    hook = (names.resid_post(2), halving)
    conditions = [[], *([knockout(rule)] for rule in rules), [hook], [hook, knockout("G !-> V")]]
    together = omni.model.generate_many(prompt, conditions, 24, False, return_logits=True)
    agreed = 0
    for ours, condition in zip(together, conditions, strict=True):
        alone = omni.model.generate(prompt, 24, condition, False, return_logits=True)
        assert ours.logits is not None and alone.logits is not None
        assert ours.logits.dtype == torch.bfloat16
        differ = (ours.tokens != alone.tokens).nonzero()
        same = int(differ[0]) + 1 if len(differ) else 24
        # Sixteen roundings of the largest logit.
        close = 16 * torch.finfo(torch.bfloat16).eps * float(alone.logits.abs().max())
        torch.testing.assert_close(ours.logits[:same], alone.logits[:same], rtol=0, atol=close)
        agreed += same
    assert agreed > 24 * len(conditions) // 3


# --- rows that end, and batches that are split -----------------------------------------------


def test_rows_that_end_leave_and_others_go_on(
    omni: HookedOmni,
    prompt: EmbeddedPrompt,
    passes: list[tuple[int, int]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    rules = ["G !-> V", "G !-> A @ 1-2", "G !-> text H0-2", "G !-> system @ 3", "G !-> A+V"]

    def make() -> Conditions:
        return [[], *([knockout(rule)] for rule in rules), [knockout("G+last !-> V @ 1")]]

    whole = omni.model.generate_many(prompt, make(), 10, stop_at_eos=False)
    said = [g.tokens.tolist() for g in whole]
    ends = (said[0][7], said[1][2], said[2][4], said[5][5])
    monkeypatch.setattr(omni.model.cfg, "eos_tokens", ends)
    passes.clear()
    together = omni.model.generate_many(prompt, make(), 10)
    decoded = [rows for rows, n in passes if n == 1]
    monkeypatch.setattr(omni.model.cfg, "eos_tokens", ends)
    for row, (ours, tokens) in enumerate(zip(together, said, strict=True)):
        stop = min((i for i, token in enumerate(tokens) if token in ends), default=9)
        assert ours.tokens.tolist() == tokens[: stop + 1], f"row {row}"
    assert len({len(g.tokens) for g in together}) >= 3
    assert decoded[-1] < max(decoded)  # nobody computes for a row that has ended
    require_alone(omni.model, prompt, make, n=10, capture=Capture(SHARES, 2))


def test_a_row_may_end_with_its_first_token(
    omni: HookedOmni, prompt: EmbeddedPrompt, monkeypatch: pytest.MonkeyPatch
) -> None:
    def make() -> Conditions:
        return [[knockout("G+last !-> V")], [knockout("G+last !-> A")], [knockout("last !-> text")]]

    first = [int(g.tokens[0]) for g in omni.model.generate_many(prompt, make(), 2)]
    assert len(set(first)) > 1
    monkeypatch.setattr(omni.model.cfg, "eos_tokens", (first[1],))
    together = require_alone(omni.model, prompt, make, capture=Capture(("video",)))
    assert len(together[1].tokens) == 1
    attention = together[1].attention
    assert attention is not None and bool(attention.isnan().all())
    monkeypatch.setattr(omni.model.cfg, "eos_tokens", tuple(first))
    assert [len(g.tokens) for g in omni.model.generate_many(prompt, make())] == [1, 1, 1]


def test_one_new_token(omni: HookedOmni, prompt: EmbeddedPrompt) -> None:
    def make() -> Conditions:
        return [[], [knockout("G+last !-> V")], [knockout("last !-> A")], [knockout("A !-> V")], []]

    together = require_alone(omni.model, prompt, make, n=1)
    assert [len(g.tokens) for g in together] == [1] * 5


def needed(model: HookedTransformer, prompt: EmbeddedPrompt, n: int) -> int:
    """Bytes that one row needs, as the refusal says them."""
    with pytest.raises(PromptError, match=r"at least [\d,]+ bytes") as refused:
        model.generate_many(prompt, [[]], n, memory_budget=1)
    return int(str(refused.value).split("at least ")[1].split()[0].replace(",", ""))


@pytest.mark.parametrize("rows", [1, 2, 5])
def test_a_memory_budget_splits_the_batch_and_changes_nothing(
    omni: HookedOmni, prompt: EmbeddedPrompt, passes: list[tuple[int, int]], rows: int
) -> None:
    def make() -> Conditions:
        on_prompt = knockout("A !-> V")
        return [
            *([knockout(query="generated", key="video", layers=w)] for w in W),
            [knockout("G+last !-> A @ 1")],
            [knockout("G+last !-> A @ 2")],
            [knockout("G+last !-> A @ 3")],
            [on_prompt],
            [on_prompt, knockout("G !-> A")],
            [],
        ]

    one = needed(omni.model, prompt, STEPS)
    assert passes == []
    budget = rows * one + one // 2
    ours = omni.model.generate_many(
        prompt, make(), STEPS, stop_at_eos=False, return_logits=True, memory_budget=budget
    )
    prefills = [n for _, n in passes if n > 1]
    assert len(prefills) == sum(-(-members // rows) for members in (len(W) + 1, 3, 2))
    assert max(r for r, _ in passes) <= rows
    whole = omni.model.generate_many(prompt, make(), STEPS, stop_at_eos=False, return_logits=True)
    for split, all_at_once, condition in zip(ours, whole, make(), strict=True):
        assert torch.equal(split.tokens, all_at_once.tokens)
        torch.testing.assert_close(split.logits, all_at_once.logits, rtol=0, atol=1e-5)
        if rows == 1:
            alone = omni.model.generate(
                prompt, STEPS, condition, stop_at_eos=False, return_logits=True
            )
            bits_equal(split.logits, alone.logits)
    with pytest.raises(PromptError, match=f"got {one - 1:,}"):
        omni.model.generate_many(prompt, make(), STEPS, memory_budget=one - 1)
    tokens = ours[0].tokens
    score_budget = 3 * len(tokens) * one
    for split, all_at_once in zip(
        omni.model.score_many(prompt, tokens, make(), memory_budget=score_budget),
        omni.model.score_many(prompt, tokens, make()),
        strict=True,
    ):
        torch.testing.assert_close(split, all_at_once, rtol=0, atol=1e-5)


# --- what is measured ------------------------------------------------------------------------


def test_attention_shares_are_hugging_faces(
    omni: HookedOmni, clips: dict, prompt: EmbeddedPrompt, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(omni.hf.generation_config, "eos_token_id", None)
    with eager(omni):
        out = omni.hf.generate(
            **clips["omni", "audio in video"],
            max_new_tokens=STEPS,
            do_sample=False,
            output_attentions=True,
            return_dict_in_generate=True,
        )
    n, shares = prompt.n_pos, torch.zeros(4, len(SHARES), dtype=torch.float64)
    for step in out.attentions[1:]:
        for layer, pattern in enumerate(step):
            row = pattern[0, :, 0].double().mean(0)
            for i, segment in enumerate(SHARES):
                where = slice(n, None) if segment == "generated" else prompt.spans[segment]
                shares[layer, i] += row[where].sum() / (STEPS - 1)
    conditions = [[], [knockout("G !-> V @ 1")], [knockout("G+last !-> V")]]
    together = omni.model.generate_many(
        prompt, conditions, STEPS, stop_at_eos=False, capture=Capture(SHARES)
    )
    attention = together[0].attention
    torch.testing.assert_close(attention, shares, rtol=0, atol=1e-6)
    assert attention is not None
    # Text, sound, picture and answer are all there is; "last" is part of the text.
    torch.testing.assert_close(attention[:, :4].sum(1), torch.ones(4).double())
    cut = together[1].attention
    assert cut is not None and float(cut[1, 2]) == 0 < float(cut[2, 2])


def test_what_is_captured_in_a_sweep_is_captured_alone(
    omni: HookedOmni, prompt: EmbeddedPrompt, reference: Any
) -> None:
    capture = Capture(SHARES, top_k=4)
    together = omni.model.generate_many(
        prompt,
        list(zoo(prompt, reference).values()),
        STEPS,
        stop_at_eos=False,
        return_logits=True,
        capture=capture,
    )
    for ours, condition in zip(together, zoo(prompt, reference).values(), strict=True):
        alone = omni.model.generate(prompt, STEPS, condition, stop_at_eos=False, capture=capture)
        torch.testing.assert_close(ours.attention, alone.attention, rtol=0, atol=1e-6)
        torch.testing.assert_close(ours.top_logprobs, alone.top_logprobs, rtol=0, atol=1e-5)
        assert ours.logits is not None and alone.logits is None
        best = ours.logits.log_softmax(-1).topk(4)
        bits_equal(ours.top_logprobs, best.values)
        bits_equal(ours.top_tokens, best.indices)
        assert torch.equal(best.indices[:, 0], ours.tokens)


def test_nothing_is_kept_unasked(omni: HookedOmni, prompt: EmbeddedPrompt) -> None:
    for made in omni.model.generate_many(prompt, [[], [knockout("G !-> V")]], 3):
        kept = (made.logits, made.attention, made.top_tokens, made.top_logprobs)
        assert kept == (None,) * 4


# --- what is computed ------------------------------------------------------------------------


def test_conditions_that_do_the_same_to_the_prompt_share_its_pass(
    omni: HookedOmni, prompt: EmbeddedPrompt, passes: list[tuple[int, int]]
) -> None:
    on_prompt, other = knockout("A !-> V"), knockout("A !-> V")
    conditions = [
        [],
        *([knockout(query="generated", key="video", layers=w)] for w in W),  # with the baseline
        [knockout("G+last !-> V")],  # these three share all but the last position
        [knockout("last !-> A")],
        [knockout("G+last !-> A @ 2"), knockout("G !-> V @ 1")],
        [on_prompt],  # these two share an intervention
        [on_prompt, knockout("G !-> V")],
        [other],
        [(names.resid_post(1), look)],  # a user's hook may act anywhere, and may keep state
        [(names.resid_post(1), look), knockout("G !-> V")],
        [(names.resid_post(2), look)],
    ]
    omni.model.generate_many(prompt, conditions, STEPS, stop_at_eos=False)
    n = prompt.n_pos
    prefills = [(rows, length) for rows, length in passes if length > 1]
    assert sorted(prefills) == sorted([(1, n), (1, n - 1), *([(1, n)] * 5)])
    # One pass a step in each of seven batches, and one for the last prompt position.
    assert len(passes) == 7 + 7 * (STEPS - 1) + 1


def test_tuples_of_conditions_are_lists_of_them(
    omni: HookedOmni, prompt: EmbeddedPrompt, passes: list[tuple[int, int]]
) -> None:
    on_prompt = knockout("A !-> V")
    conditions: Any = ((on_prompt,), (on_prompt, knockout("G !-> V"), knockout("G !-> A @ 1")))
    omni.model.generate_many(prompt, conditions, 2, stop_at_eos=False)
    assert [length for _, length in passes if length > 1] == [prompt.n_pos]


def test_rows_that_have_said_the_same_run_as_one(omni: HookedOmni, prompt: EmbeddedPrompt) -> None:
    conditions = [[], *([knockout(f"G !-> V @ {layer}")] for layer in (1, 2, 3))]
    seen: list[list[int]] = [[] for _ in range(4)]
    blocks: Any = omni.model.blocks
    handles = [
        block.register_forward_pre_hook(
            lambda _module, args, rows=seen[layer]: rows.append(args[0].shape[0])
        )
        for layer, block in enumerate(blocks)
    ]
    try:
        together = omni.model.generate_many(prompt, conditions, STEPS, stop_at_eos=False)
    finally:
        for handle in handles:
            handle.remove()
    said = [g.tokens.tolist() for g in together]
    for step in range(1, STEPS):
        histories = [tuple(tokens[:step]) for tokens in said]
        for layer in range(4):
            first = (4, 1, 2, 3)
            apart = {
                (history, row if first[row] <= layer else None)
                for row, history in enumerate(histories)
            }
            assert seen[layer][step] == len(apart)


def test_a_hook_is_shown_its_own_row_and_no_other(omni: HookedOmni, prompt: EmbeddedPrompt) -> None:
    """Each condition marks its row, and writes down whose marks it sees."""
    seen: dict[str, list[tuple[float, ...]]] = {}
    n_rows = 5

    def mark(number: float) -> Callable[..., Tensor]:
        def marked(tensor: Tensor, hook: Any) -> Tensor:
            edited = tensor.clone()
            if hook.window.start >= prompt.n_pos:
                edited[..., 0] = number
            return edited

        return marked

    def note(who: str) -> Callable[..., None]:
        def noted(tensor: Tensor, hook: Any) -> None:
            assert tensor.shape[:2] == (1, len(hook.window))
            if hook.window.start >= prompt.n_pos:
                seen.setdefault(who, []).append(tuple(tensor[..., 0].flatten().tolist()))

        return noted

    name, nothing = names.resid_post(2), (names.resid_post(0), look)
    conditions = [
        [nothing, (name, mark(100.0 + row)), (name, note(f"row {row}"))] for row in range(n_rows)
    ]
    conditions.append([nothing, (name, note("bystander"))])
    omni.model.generate_many(prompt, conditions, STEPS, stop_at_eos=False)
    for row in range(n_rows):
        assert seen[f"row {row}"] == [(100.0 + row,)] * (STEPS - 1)
    assert len(seen["bystander"]) == STEPS - 1
    assert max(abs(value) for (value,) in seen["bystander"]) < 100


# --- what is left ----------------------------------------------------------------------------


@pytest.mark.parametrize("run", ["generate_many", "score_many"])
def test_nothing_of_a_sweep_survives_it(
    omni: HookedOmni, prompt: EmbeddedPrompt, reference: Any, run: str
) -> None:
    model = omni.model
    clean = model(prompt)
    before = prompt.embeds.clone()
    kept = {name: tensor.clone() for name, tensor in reference.items()}
    if run == "generate_many":
        model.generate_many(prompt, list(zoo(prompt, reference).values()), 4)
    else:
        tokens = torch.tensor([5, 6, 7])
        model.score_many(prompt, tokens, list(zoo(prompt, reference).values()))
    assert hooks_left(model) == []
    bits_equal(model(prompt), clean)
    bits_equal(prompt.embeds, before)
    for name, tensor in kept.items():
        bits_equal(reference[name], tensor)


@pytest.mark.parametrize("shared", [True, False])
@pytest.mark.parametrize("call", [0, 1, 3])
def test_an_exception_in_a_hook_leaves_nothing(
    omni: HookedOmni, prompt: EmbeddedPrompt, shared: bool, call: int
) -> None:
    model = omni.model
    clean = model.generate(prompt, 4, stop_at_eos=False, return_logits=True)
    calls = [0]

    def trips(tensor: Tensor, hook: Any) -> Tensor:
        calls[0] += 1
        if calls[0] > call:
            raise KeyError("tripped")
        return tensor * 2

    bad = [(names.resid_post(1), trips)]
    conditions = [bad, [*bad, knockout("G !-> V")]] if shared else [[], bad]
    with pytest.raises(KeyError, match="tripped"):
        model.generate_many(prompt, conditions, 8, stop_at_eos=False, capture=Capture(("video",)))
    assert hooks_left(model) == []
    again = model.generate(prompt, 4, stop_at_eos=False, return_logits=True)
    bits_equal(again.logits, clean.logits)
    many = model.generate_many(prompt, [[], [knockout("G !-> V")]], 4, stop_at_eos=False)
    assert torch.equal(many[0].tokens, clean.tokens)


# --- scores ----------------------------------------------------------------------------------


def hf_scores(
    omni: HookedOmni, prompt: EmbeddedPrompt, tokens: Tensor, cut: tuple[str, str] | None
) -> Tensor:
    """Log-probabilities from one eager pass over prompt and text, under an additive mask."""
    total = prompt.n_pos + len(tokens)
    low = torch.finfo(torch.float32).min
    mask = torch.full((total, total), low).triu(1)
    if cut is not None:
        answer = torch.arange(prompt.n_pos, total)
        query = torch.cat([prompt.spans["last"], answer]) if "last" in cut[0] else answer
        mask[query[:, None], prompt.spans[cut[1]]] = low
    table: Any = omni.hf.get_input_embeddings()
    with eager(omni):
        hidden = find_decoder(omni.hf)(
            inputs_embeds=torch.cat([prompt.embeds, table(tokens)[None]], dim=1),
            position_ids=prompt.position_ids_at(range(total)),
            attention_mask=mask[None, None],
            use_cache=False,
        ).last_hidden_state
        logits = omni.hf.get_output_embeddings()(hidden)
    at = torch.arange(prompt.n_pos - 1, total - 1)
    return logits[0, at].log_softmax(-1)[torch.arange(len(tokens)), tokens]


@pytest.mark.parametrize("name", ["omni", "vl"])
@pytest.mark.parametrize("n", [1, 2, 7])
def test_scores_are_hugging_faces(models: dict, clips: dict, name: str, n: int) -> None:
    omni = models[name]
    prompt = omni.embed_inputs(**clips[name, {"omni": "audio in video", "vl": "video"}[name]])
    tokens = torch.randint(0, 256, (n,), generator=torch.Generator().manual_seed(n))
    cuts = [None, ("generated+last", "video"), ("generated+last", "question"), None]
    if n > 1:
        cuts += [("generated", "video"), ("generated", "system")]
    conditions = [[] if cut is None else [knockout(query=cut[0], key=cut[1])] for cut in cuts]
    together = omni.model.score_many(prompt, tokens, conditions)
    for ours, cut in zip(together, cuts, strict=True):
        assert ours.shape == (n,) and ours.dtype == torch.float32
        torch.testing.assert_close(ours, hf_scores(omni, prompt, tokens, cut), rtol=0, atol=1e-5)
    bits_equal(together[0], together[3])
    assert not torch.allclose(together[0], together[1], atol=1e-3)


def test_a_captions_scores_are_the_ones_it_was_chosen_by(
    omni: HookedOmni, prompt: EmbeddedPrompt, reference: Any
) -> None:
    """Without hooks that count their calls: a text is read in one call, and said in many."""
    every = zoo(prompt, reference)
    for name in ("state", "state at decode", "in place", "filter", "order", "other order"):
        del every[name]
    made = omni.model.generate_many(
        prompt, list(every.values()), STEPS, stop_at_eos=False, return_logits=True
    )
    plain = knockout("G !-> system @ 2")
    for name, own in zip(every, made, strict=True):
        assert own.logits is not None
        chosen = own.logits.log_softmax(-1).amax(-1)
        again = [[], every[name], [plain]]
        scored = omni.model.score_many(prompt, own.tokens, again)
        torch.testing.assert_close(
            scored[1], chosen, rtol=0, atol=1e-5, msg=lambda m, name=name: f"{name}: {m}"
        )
        for row, condition in enumerate(again):
            alone = omni.model.score_many(prompt, own.tokens, [condition])[0]
            torch.testing.assert_close(scored[row], alone, rtol=0, atol=1e-5)


@pytest.mark.parametrize("kind", ["text tokens", "padded"])
def test_scores_of_other_prompts(omni: HookedOmni, clips: dict, kind: str) -> None:
    text = torch.tensor([9, 8, 7, 6])
    if kind == "padded":
        inputs = clips["omni", "audio in video"]
        alone = omni.embed_inputs(**inputs)
        prompt = omni.embed_inputs(**left_padded(omni, inputs, PADDING))
        conditions = [[], [knockout("G+last !-> V")], [knockout("G !-> A @ 1")]]
        for ours, bare in zip(
            omni.model.score_many(prompt, text, conditions),
            omni.model.score_many(alone, text, conditions),
            strict=True,
        ):
            torch.testing.assert_close(ours, bare, rtol=0, atol=1e-5)
        return
    tokens = torch.tensor([[72, 101, 108, 108]])
    edit = [(names.resid_post(1), lambda tensor, hook: tensor * 1.5)]
    ours = omni.model.score_many(tokens, text, [[], edit, []])
    both = torch.cat([tokens, text[None]], dim=1)
    for scores, hooks in zip(ours, ([], edit, []), strict=True):
        logits = omni.model.run_with_hooks(both, fwd_hooks=hooks)[0, 3:-1].log_softmax(-1)
        expected = logits[torch.arange(4), text]
        torch.testing.assert_close(scores, expected, rtol=0, atol=1e-5)


# --- what is refused -------------------------------------------------------------------------


BAD_CALLS: dict[str, tuple[Callable[..., Any], type[HookedOmniError], str]] = {
    "no conditions": (
        lambda m, p: m.generate_many(p, [], 4),
        PromptError,
        "expected at least one condition, got none",
    ),
    "no conditions to score under": (
        lambda m, p: m.score_many(p, torch.tensor([1]), []),
        PromptError,
        "expected at least one condition, got none",
    ),
    "no tokens": (
        lambda m, p: m.generate_many(p, [[]], 0),
        PromptError,
        "expected at least one new token, got 0",
    ),
    "fewer than none": (
        lambda m, p: m.generate_many(p, [[]], -3),
        PromptError,
        "expected at least one new token, got -3",
    ),
    "no text": (
        lambda m, p: m.score_many(p, torch.zeros(0, dtype=torch.long), [[]]),
        PromptError,
        "expected at least one new token, got 0",
    ),
    "two texts": (
        lambda m, p: m.score_many(p, torch.tensor([[1, 2]]), [[]]),
        PromptError,
        r"expected one text \[n\], got tokens of shape \(1, 2\)",
    ),
    "another vocabulary": (
        lambda m, p: m.score_many(p, torch.tensor([1, 999]), [[]]),
        PromptError,
        "expected tokens from 0 to 265, got 1 to 999",
    ),
    "fractions of tokens": (
        lambda m, p: m.score_many(p, torch.tensor([1.0, 2.0]), [[]]),
        PromptError,
        "expected an EmbeddedPrompt or tokens",
    ),
    "one condition": (
        lambda m, p: m.generate_many(p, [knockout("G !-> V")], 4),
        HookError,
        "expected a list of .* got one",
    ),
    "one hook": (
        lambda m, p: m.generate_many(p, [(names.resid_post(1), look)], 4),
        HookError,
        "expected a list of .* got one",
    ),
    "no hook at all": (
        lambda m, p: m.generate_many(p, [[], ["G !-> V"]], 4),
        HookError,
        "expected hooks .* got 'G !-> V'",
    ),
    "an unknown hook": (
        lambda m, p: m.generate_many(p, [[], [(names.resid_post(4), look)]], 4),
        HookError,
        "expected a hook of this 4-layer model, got 'blocks.4.hook_resid_post'",
    ),
    "a filter nothing passes": (
        lambda m, p: m.generate_many(p, [[], [(lambda name: False, look)]], 4),
        HookError,
        "expected a filter that some hook name passes",
    ),
    "an unknown span": (
        lambda m, p: m.generate_many(p, [[], [knockout("G !-> X")]], 4),
        SpanError,
        "got 'X'",
    ),
    "too few tokens": (
        lambda m, p: m.generate_many(p, [[], [knockout("G !-> V")]], 1),
        HookError,
        "expected a run that reaches 'generated', got one over positions 0 to 143",
    ),
    "too short a text": (
        lambda m, p: m.score_many(p, torch.tensor([1]), [[], [knockout("G !-> V")]]),
        HookError,
        "expected a run that reaches 'generated'",
    ),
    "a key head that is not there": (
        lambda m, p: m.generate_many(
            p, [[], [ablate("attn.hook_k", span="generated", layers=[1], heads=[2])]], 4
        ),
        HookError,
        r"expected heads from 0 to 1, got \[2\].*keys and values have fewer",
    ),
    "a key head that is nowhere": (
        lambda m, p: m.generate_many(
            p, [[], [ablate("attn.hook_v", span="generated", heads=[3])]], 4
        ),
        HookError,
        r"expected heads from 0 to 1, got \[3\]",
    ),
    "a small budget": (
        lambda m, p: m.generate_many(p, [[]], 4, memory_budget=1000),
        PromptError,
        "expected a memory budget of at least .* got 1,000",
    ),
}


@pytest.mark.parametrize("what", BAD_CALLS)
def test_a_bad_call_is_refused_before_any_pass(
    as_installed: None,
    omni: HookedOmni,
    prompt: EmbeddedPrompt,
    passes: list[tuple[int, int]],
    what: str,
) -> None:
    call, error, text = BAD_CALLS[what]
    with pytest.raises(error, match=text):
        call(omni.model, prompt)
    assert passes == []
    assert hooks_left(omni.model) == []


def test_text_has_no_clip_and_a_batch_no_caption(
    as_installed: None, omni: HookedOmni, passes: list[tuple[int, int]]
) -> None:
    tokens = torch.tensor([[72, 101, 108]])
    with pytest.raises(SpanError, match=r"expected one of .* got 'video'"):
        omni.model.generate_many(tokens, [[], [knockout("G !-> V")]], 4)
    with pytest.raises(PromptError, match="expected one prompt, got a batch of 2"):
        omni.model.generate_many(tokens.repeat(2, 1), [[]], 4)
    assert passes == []


def returns(what: str) -> Callable[..., Any]:
    def hook(tensor: Tensor, hook: Any) -> Any:
        if hook.window.start == 0:
            return None
        return {
            "shape": tensor[..., :-1],
            "dtype": tensor.double(),
            "a list": [tensor],
            "NaN": tensor * torch.nan,
        }[what]

    return hook


@pytest.mark.parametrize("at", [names.resid_post(1), names.pattern(2), names.FINAL_NORM])
@pytest.mark.parametrize(
    ("what", "text"),
    [
        ("shape", "to return shape"),
        ("dtype", "to return dtype torch.float32, got torch.float64"),
        ("a list", "to return a tensor or None, got list"),
        ("NaN", "expected numbers behind the edits, got NaN"),
    ],
)
def test_a_hook_that_returns_nonsense_while_decoding(
    omni: HookedOmni, prompt: EmbeddedPrompt, at: str, what: str, text: str
) -> None:
    bad, fine = (at, returns(what)), (names.resid_post(0), look)
    for conditions in ([[], [bad]], [[fine], [fine, bad], [fine, knockout("G !-> V")]]):
        with pytest.raises(HookError, match=text) as refused:
            omni.model.generate_many(prompt, conditions, 4, stop_at_eos=False)
        assert at in str(refused.value)
    assert hooks_left(omni.model) == []
