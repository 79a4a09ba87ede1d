"""A sweep computes what it must, gives each row its own hooks, and leaves nothing."""

from collections.abc import Callable
from contextlib import ExitStack
from typing import Any

import pytest
import torch
from torch import Tensor

from hooked_omni import knockout, names
from tests.support.conditions import zoo
from tests.support.models import look, watched
from tests.support.runs import bits_equal, hooks_left, unstopped

STEPS = 6


def test_conditions_that_do_the_same_to_the_prompt_share_its_pass(omni, prompt, passes):
    on_prompt, other = knockout("A !-> V"), knockout("A !-> V")
    conditions = [
        [],
        *([knockout(f"G !-> V @ {w}")] for w in ("0-1", "0-2", "1-3", "2-3")),  # with the baseline
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
    omni.model.generate_many(prompt, conditions, unstopped(STEPS))
    n = prompt.n_pos
    prefills = [(rows, length) for rows, length in passes if length > 1]
    assert sorted(prefills) == sorted([(1, n), (1, n - 1), *([(1, n)] * 5)])
    # One pass a step in each of seven batches, and one for the last prompt position.
    assert len(passes) == 7 + 7 * (STEPS - 1) + 1


def test_tuples_of_conditions_are_lists_of_them(omni, prompt, passes):
    on_prompt = knockout("A !-> V")
    conditions: Any = ((on_prompt,), (on_prompt, knockout("G !-> V"), knockout("G !-> A @ 1")))
    omni.model.generate_many(prompt, conditions, unstopped(2))
    assert [length for _, length in passes if length > 1] == [prompt.n_pos]


def test_rows_with_the_same_tokens_run_as_one(omni, prompt):
    conditions = [[], *([knockout(f"G !-> V @ {layer}")] for layer in (1, 2, 3))]
    seen: list[list[int]] = [[] for _ in range(4)]
    blocks: Any = omni.model.blocks
    with ExitStack() as stack:
        for block, rows in zip(blocks, seen, strict=True):
            stack.enter_context(watched(block, lambda args, rows=rows: rows.append(len(args[0]))))
        together = omni.model.generate_many(prompt, conditions, unstopped(STEPS))
    captions = [g.tokens.tolist() for g in together]
    for step in range(1, STEPS):
        histories = [tuple(tokens[:step]) for tokens in captions]
        for layer in range(4):
            acts = (False, *(first <= layer for first in (1, 2, 3)))
            apart = {(own, row if acts[row] else None) for row, own in enumerate(histories)}
            assert seen[layer][step] == len(apart)


def test_a_hook_gets_its_own_row_and_no_other(omni, prompt):
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
    omni.model.generate_many(prompt, conditions, unstopped(STEPS))
    for row in range(n_rows):
        assert seen[f"row {row}"] == [(100.0 + row,)] * (STEPS - 1)
    assert len(seen["bystander"]) == STEPS - 1
    assert max(abs(value) for (value,) in seen["bystander"]) < 100


@pytest.mark.parametrize("run", ["generate_many", "score"])
def test_nothing_of_a_sweep_survives_it(omni, prompt, reference, run):
    model = omni.model
    clean = model(prompt)
    before = prompt.embeds.clone()
    kept = {name: tensor.clone() for name, tensor in reference.items()}
    conditions = list(zoo(prompt, reference).values())
    if run == "generate_many":
        model.generate_many(prompt, conditions, max_new_tokens=4)
    else:
        model.score(prompt, torch.tensor([5, 6, 7]), conditions)
    assert hooks_left(model) == []
    bits_equal(model(prompt), clean)
    bits_equal(prompt.embeds, before)
    for name, tensor in kept.items():
        bits_equal(reference[name], tensor)


@pytest.mark.parametrize("shared", [True, False])
@pytest.mark.parametrize("call", [0, 1, 3])
def test_an_exception_in_a_hook_leaves_nothing(omni, prompt, shared, call):
    model = omni.model
    clean = model.generate(prompt, unstopped(4))
    calls = [0]

    def trips(tensor: Tensor, hook: Any) -> Tensor:
        calls[0] += 1
        if calls[0] > call:
            raise KeyError("tripped")
        return tensor * 2

    bad = [(names.resid_post(1), trips)]
    conditions = [bad, [*bad, knockout("G !-> V")]] if shared else [[], bad]
    with pytest.raises(KeyError, match="tripped"):
        model.generate_many(prompt, conditions, unstopped(8))
    assert hooks_left(model) == []
    bits_equal(model.generate(prompt, unstopped(4)).logits, clean.logits)
    many = model.generate_many(prompt, [[], [knockout("G !-> V")]], unstopped(4))
    assert torch.equal(many[0].tokens, clean.tokens)
