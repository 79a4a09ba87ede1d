"""A prompt with the beginning of an answer behind it is that answer, forced."""

from typing import Any

import pytest
import torch

from hooked_omni import EmbeddedPrompt, HookedOmni, knockout, names
from hooked_omni.decoding.continued import continued
from hooked_omni.decoding.score import forced_logits, next_logprobs
from hooked_omni.errors import HookError, PromptError
from hooked_omni.metrics import heard_minus_seen, known_tokens
from tests.support.models import CLIP_OF
from tests.support.runs import close

TEXT = torch.tensor([65, 7, 200])


@pytest.mark.parametrize("name", sorted(CLIP_OF))
def test_what_follows_is_what_follows_the_forced_answer(models: Any, clips: Any, name: str):
    omni = models[name]
    prompt = omni.embed_inputs(**clips[name, CLIP_OF[name]])
    begun = continued(omni.model, prompt, TEXT)
    forced = forced_logits(omni.model, prompt, torch.cat([TEXT, TEXT[:1]]))
    close(omni.model(begun)[0, -4:], forced, atol=2e-5)
    assert begun.spans["answer"].tolist() == list(range(prompt.n_pos, prompt.n_pos + 3))
    assert begun.spans["last"].tolist() == [prompt.n_pos + 2]
    assert set(begun.spans["answer"].tolist()) <= set(begun.spans["text"].tolist())
    more = continued(omni.model, begun, TEXT[:1])
    assert more.spans["answer"].tolist() == list(range(prompt.n_pos, prompt.n_pos + 4))
    for span in set(prompt.spans) - {"last", "text", "prompt"}:
        assert torch.equal(begun.spans[span], prompt.spans[span])


def test_the_first_token_is_read_under_each_condition(omni: HookedOmni, prompt: EmbeddedPrompt):
    cut = knockout("last !-> V")
    plain, without = next_logprobs(omni.model, prompt, [[], [cut]])
    close(plain, omni.model(prompt)[0, -1].log_softmax(-1), atol=2e-6)
    logits = omni.model.run_with_hooks(prompt, fwd_hooks=[cut])
    close(without, logits[0, -1].log_softmax(-1), atol=2e-6)
    assert not torch.allclose(plain, without)
    with pytest.raises(HookError, match="generated"):
        next_logprobs(omni.model, prompt, [[knockout("G !-> V")]])


def test_heard_minus_seen_is_the_difference_of_log_probabilities(
    omni: HookedOmni, prompt: EmbeddedPrompt
):
    tokenizer = omni.model.tokenizer
    metric = heard_minus_seen(omni.model, "dog", "bell")
    logprobs = omni.model(prompt)[0, -1].double().log_softmax(-1)
    ours, theirs = (known_tokens(tokenizer, word)[0] for word in ("dog", "bell"))
    logits = omni.model(prompt)
    assert float(metric(logits)) == pytest.approx(
        float(logprobs[ours] - logprobs[theirs]), abs=1e-6
    )
    twice = torch.cat([logits, logits])
    assert float(metric(twice)) == pytest.approx(float(metric(logits)), abs=1e-6)
    back = heard_minus_seen(omni.model, "bell", "dog")
    assert float(back(logits)) == -float(metric(logits))


def test_it_has_a_gradient_at_every_hook_point(omni: HookedOmni, prompt: EmbeddedPrompt):
    metric = heard_minus_seen(omni.model, "dog", "bell")
    begun = continued(omni.model, prompt, TEXT)
    base = begun.embeds.clone().requires_grad_()
    metric(
        omni.model.run_with_hooks(begun, fwd_hooks=[(names.EMBED, lambda t, hook: base)])
    ).backward()
    assert base.grad is not None
    size, direction = 1e-3, torch.randn(base.shape, generator=torch.Generator().manual_seed(1))
    run = lambda at: omni.model.run_with_hooks(begun, fwd_hooks=[(names.EMBED, lambda t, hook: at)])  # noqa: E731
    with torch.no_grad():
        sides = [float(metric(run(base + sign * size * direction))) for sign in (1, -1)]
    assert float((base.grad * direction).sum()) == pytest.approx(
        (sides[0] - sides[1]) / (2 * size), rel=0.02
    )


def test_words_that_cannot_be_compared_are_refused(omni: HookedOmni, prompt: EmbeddedPrompt):
    with pytest.raises(PromptError, match="'dog' and 'dog'"):
        heard_minus_seen(omni.model, "dog", "dog")
    with pytest.raises(PromptError, match="''"):
        heard_minus_seen(omni.model, "", "dog")
    with pytest.raises(PromptError, match=r"torch.Size|tensor|first words"):
        continued(omni.model, prompt, torch.tensor([], dtype=torch.long))


def test_words_that_a_vocabulary_lacks_are_refused():
    from transformers import AutoTokenizer  # noqa: F401

    from hooked_omni import load

    with pytest.raises(PromptError, match="zebra"):
        heard_minus_seen(load("organism-balanced").model, "zebra", "dog")
