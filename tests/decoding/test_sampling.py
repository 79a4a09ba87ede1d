"""Sampled tokens are those of transformers' `generate(do_sample=True)`, from the same numbers."""

from typing import Any

import pytest
import torch

from hooked_omni.decoding.generate import Decoding
from hooked_omni.decoding.sampling import Sampling
from hooked_omni.errors import PromptError

NARROW = dict(temperature=1.7, top_k=20, top_p=0.8)
SETTINGS: list[Any] = [dict(), dict(temperature=0.5), dict(top_k=3), dict(top_p=0.6), NARROW]


@pytest.mark.parametrize("settings", SETTINGS, ids=str)
def test_draws_are_those_of_transformers(omni, settings):
    tokens = omni.model.to_tokens("the dog barks")
    off = dict(temperature=1.0, top_k=0, top_p=1.0)
    torch.manual_seed(5)
    mask, drawn = torch.ones_like(tokens), dict(do_sample=True, max_new_tokens=12)
    more = drawn | off | settings | dict(eos_token_id=None)
    out = omni.hf.generate(input_ids=tokens, attention_mask=mask, **more)
    ours = omni.model.generate(tokens, seed=5, stop_at_eos=False, **drawn, **settings).tokens
    assert torch.equal(ours, out[0, tokens.shape[1] :])
    assert len(ours.unique()) > 1
    decoding = Decoding(12, stop_at_eos=False, sampling=Sampling(seed=5, **settings))
    assert torch.equal(omni.model.generate(tokens, decoding).tokens, ours)
    greedy = omni.model.generate(tokens, decoding, do_sample=False).tokens
    assert torch.equal(greedy, omni.model.generate(tokens, Decoding(12, stop_at_eos=False)).tokens)


def test_a_seed_repeats_and_another_does_not():
    logits = torch.randn(400, 50, generator=torch.Generator().manual_seed(0))
    each = [Sampling(seed=seed) for seed in (1, 1, 2)]
    draws = [one.choose(logits, one.generator(logits.device)) for one in each]
    assert torch.equal(draws[0], draws[1]) and not torch.equal(draws[0], draws[2])


def test_frequencies_are_the_probabilities():
    logits = torch.tensor([2.0, 1.0, 0.0, -1.0]).repeat(40_000, 1)
    sampling = Sampling(temperature=2.0, top_k=3)
    drawn = sampling.choose(logits, sampling.generator(logits.device)).bincount(minlength=4)
    expected = torch.tensor([1.0, 0.5, 0.0, -torch.inf]).softmax(0)
    torch.testing.assert_close(drawn / len(logits), expected, atol=0.01, rtol=0)


@pytest.mark.parametrize(
    ("settings", "value"),
    [
        (dict(temperature=0.0), "temperature above 0, got 0.0"),
        (dict(temperature=float("nan")), "got nan"),
        (dict(top_k=0), "top_k of at least 1, got 0"),
        (dict(top_p=0.0), "top_p above 0 and at most 1, got 0.0"),
        (dict(top_p=1.5), "got 1.5"),
    ],
)
def test_settings_without_meaning_are_refused(settings, value):
    with pytest.raises(PromptError, match=value):
        Sampling(**settings)


@pytest.mark.parametrize(
    "run",
    [
        lambda m: m.generate("ab", temperature=0.5),
        lambda m: m.generate("ab", do_sample=False, seed=0),
        lambda m: m.generate_many("ab", [[]], do_sample=True),
        lambda m: m.generate_many("ab", [[]], Decoding(sampling=Sampling())),
    ],
)
def test_draws_that_would_mean_nothing_are_refused(omni, as_installed, run):
    with pytest.raises(PromptError, match=r"do_sample|Sampling\("):
        run(omni.model)
