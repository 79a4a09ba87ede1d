"""Threads that share a model wait for each other, or are refused; a forked process starts anew."""

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import torch
from torch import Tensor

from hooked_omni import HookedOmni, HookedTransformer, names, prefill, prove, steer
from hooked_omni.errors import HookError
from tests.support import forked
from tests.support.runs import hooks_left, unstopped

TOKENS = torch.arange(2, 14)[None]


def wipe(tensor: Tensor, hook: Any) -> Tensor:
    return tensor * 0


WIPED = [(names.resid_post(1), wipe)]


@pytest.fixture
def model(omni: HookedOmni) -> Any:
    yield omni.model
    omni.model.reset_hooks()


def calls(model: HookedTransformer) -> dict[str, Callable[[], Any]]:
    later, four = steer(torch.ones(64), span="generated"), unstopped(4)
    name = names.resid_post(2)
    return {
        "logits": lambda: model(TOKENS).detach(),
        "edited logits": lambda: model.run_with_hooks(TOKENS, fwd_hooks=WIPED).detach(),
        "a cache": lambda: model.run_with_cache(TOKENS, name)[1][name],
        "a caption": lambda: model.generate(TOKENS, four).logits,
        "an edited caption": lambda: model.generate(TOKENS, four, WIPED).logits,
        "a sweep": lambda: model.generate_many(TOKENS, [[], [later], WIPED], four)[1].logits,
        "scores": lambda: torch.stack(model.score(TOKENS, TOKENS[0, :4], [[], [later]])),
        "a lens": lambda: model.lens(TOKENS, "question")["norm"].logprobs,
        "after a prefill": lambda: model.score(prefill(model, TOKENS), TOKENS[0], [[]])[0],
    }


def in_a_thread(run: Callable[[], object]) -> None:
    thread = threading.Thread(target=run)
    thread.start()
    thread.join(120)
    assert not thread.is_alive()


def outcomes(model: HookedTransformer) -> dict[str, bool]:
    """Which calls another thread may make now."""
    found: dict[str, bool] = {}

    def enter() -> None:
        with model.hooks(WIPED):
            pass

    others = {
        "a block": enter,
        "a hook": lambda: model.add_hook(*WIPED[0]),
        "a hook on a point": lambda: model.hook_dict[names.resid_post(0)].add_hook(wipe),
        "taking hooks off": model.reset_hooks,
        "retyping": lambda: model.to(torch.float32),
        "a flag": lambda: model.set_use_attn_result(False),
    }

    def call_all() -> None:
        for name, call in (calls(model) | others).items():
            try:
                call()
                found[name] = True
            except HookError as error:
                found[name] = "of another thread" not in str(error)

    in_a_thread(call_all)
    return found


def test_threads_get_the_numbers_that_each_gets_alone(model):
    alone = {name: call() for name, call in calls(model).items()}

    def work(first: int) -> list[str]:
        order = [*calls(model).items()][first:] + [*calls(model).items()][:first]
        return [name for name, call in order if not torch.equal(call(), alone[name])]

    with ThreadPoolExecutor(4) as pool:
        assert [name for wrong in pool.map(work, range(0, 8, 2)) for name in wrong] == []
    assert hooks_left(model) == []


def test_hooks_that_stay_belong_to_their_thread(model):
    edited, plain = calls(model)["edited logits"](), calls(model)["logits"]()
    with model.hooks(WIPED):
        assert not any(outcomes(model).values())
        assert torch.equal(model(TOKENS), edited)
    with model.every_hook_point():
        assert not any(outcomes(model).values())
    model.add_hook(*WIPED[0])
    assert not any(outcomes(model).values())
    assert torch.equal(model(TOKENS), edited)
    model.reset_hooks()
    assert all(outcomes(model).values())
    assert torch.equal(model(TOKENS), plain)


def test_hooks_of_a_thread_that_has_ended_are_taken_off_first(model):
    plain = model(TOKENS)
    in_a_thread(lambda: model.add_hook(*WIPED[0]))
    with pytest.raises(HookError, match="stopped"):
        model(TOKENS)
    model.reset_hooks()
    assert torch.equal(model(TOKENS), plain)


def test_a_backward_hook_may_come_from_any_thread(model):
    """Autograd has threads of its own: they need no turn."""
    seen: list[str] = []
    note = (names.resid_pre(1), lambda gradient, hook: seen.append(hook.name))
    with model.hooks(bwd_hooks=[note]):
        loss = model(TOKENS).sum()
        in_a_thread(loss.backward)
    assert seen == [names.resid_pre(1)]


def test_a_hook_may_run_the_model_and_a_proof_is_one_call(omni, model, prompt):
    inner: list[Tensor] = []

    def again(tensor: Tensor, hook: Any) -> None:
        if not hook.ctx:
            hook.ctx["inside"] = True
            inner.append(model(TOKENS).detach())

    model.run_with_hooks(TOKENS, fwd_hooks=[(names.resid_post(3), again)], clear_contexts=True)
    assert torch.equal(inner[0], model(TOKENS))
    with model.hooks(WIPED):
        refused: list[bool] = []

        def try_to() -> None:
            try:
                prove(omni, prompt, decode_steps=1)
            except HookError:
                refused.append(True)

        in_a_thread(try_to)
        assert refused == [True]


def test_a_process_that_is_forked_while_a_thread_runs(model):
    plain, started, go = model(TOKENS).detach(), threading.Event(), threading.Event()

    def slow(tensor: Tensor, hook: Any) -> Tensor:
        started.set()
        go.wait(60)
        return tensor * 0

    def child() -> None:
        with torch.no_grad():
            with pytest.raises(HookError, match="reset_hooks"):
                model(TOKENS)
            model.reset_hooks()
            assert torch.equal(model(TOKENS), plain)
            assert len(model.generate(TOKENS, unstopped(3)).tokens) == 3

    hooks = [(names.resid_post(1), slow)]
    runs = threading.Thread(target=lambda: model.run_with_hooks(TOKENS, fwd_hooks=hooks))
    runs.start()
    started.wait(60)
    process = forked.start(child)
    process.join(60)
    go.set()
    runs.join(60)
    assert process.exitcode == 0
    assert torch.equal(model(TOKENS), plain)


def test_a_forked_process_has_one_torch_thread(model):
    def child() -> None:
        with torch.no_grad(), pytest.raises(HookError, match=r"one torch thread .* got 2"):
            model(TOKENS)
        torch.set_num_threads(1)
        with torch.no_grad():
            assert torch.equal(model(TOKENS), plain)

    plain = model(TOKENS).detach()
    torch.set_num_threads(2)
    try:
        torch.mm(torch.randn(400, 400), torch.randn(400, 400))
        process = forked.start(child)
        process.join(60)
    finally:
        torch.set_num_threads(1)
    assert process.exitcode == 0
