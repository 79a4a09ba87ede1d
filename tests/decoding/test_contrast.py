"""A contrast is the formula on Hugging Face's own logits; weight 0 is the plain caption."""

from typing import Any

import pytest
import torch

from hooked_omni import EmbeddedPrompt, HookedOmni, knockout, prefill
from hooked_omni.decoding.contrast import Contrast, Term, contrast
from hooked_omni.decoding.generate import Decoding
from hooked_omni.decoding.sampling import Sampling
from hooked_omni.errors import HookError, PromptError, SpanError
from tests.support.hugging_face import Cut, hf_cut, hf_forced
from tests.support.models import eager
from tests.support.runs import close, unstopped

N = 8
WITHOUT_SOUND = [knockout("last+generated !-> A")]
KEPT = Decoding(N, stop_at_eos=False, return_logits=True)


@pytest.fixture(scope="module")
def sound_alone(models: Any, clips: Any) -> EmbeddedPrompt:
    return models["omni"].embed_inputs(**clips["omni", "audio"])


def test_weight_zero_is_the_plain_caption(omni: HookedOmni, prompt: EmbeddedPrompt):
    plain: Any = omni.model.generate(prompt, KEPT)
    for terms in ((Term(1.0),), (Term(1.0), Term(0.0, WITHOUT_SOUND)), (Term(3.0), Term(0.0))):
        made: Any = contrast(omni.model, prompt, Contrast(terms), KEPT)
        assert torch.equal(made.tokens, plain.tokens)
        assert terms[0].weight != 1 or torch.equal(made.logits, plain.logits)


def test_each_step_is_the_formula_on_hugging_faces_logits(
    omni: HookedOmni, prompt: EmbeddedPrompt, clips: Any, sound_alone: EmbeddedPrompt
):
    terms = (Term(2.0), Term(-1.0, WITHOUT_SOUND), Term(0.5, prompt=sound_alone))
    assert sound_alone.n_pos != prompt.n_pos
    cut = Cut("", "last+generated", "audio")
    with eager(omni):  # as the cut of theirs needs
        for start in (prompt, prefill(omni.model, prompt)):
            made: Any = contrast(omni.model, start, Contrast(terms), KEPT)
            text = made.tokens
            theirs = 2.0 * hf_forced(omni, clips["omni", "audio in video"], prompt, text)
            with hf_cut(omni, prompt, cut):
                theirs -= hf_forced(omni, clips["omni", "audio in video"], prompt, text)
            theirs += 0.5 * hf_forced(omni, clips["omni", "audio"], sound_alone, text)
            close(made.logits, theirs, atol=5e-5)
            assert torch.equal(made.logits.argmax(-1), text)
    plain = omni.model.generate(prompt, unstopped(N))
    assert not torch.equal(plain.tokens, text)  # these terms do decide


def test_only_plausible_tokens_are_chosen(omni: HookedOmni, prompt: EmbeddedPrompt):
    against = (Term(1.0), Term(-0.999, WITHOUT_SOUND))
    free: Any = contrast(omni.model, prompt, Contrast(against), KEPT)
    gated: Any = contrast(omni.model, prompt, Contrast(against, plausible=0.5), KEPT)
    every: Any = contrast(omni.model, prompt, Contrast(against, plausible=1.0), KEPT)
    plain: Any = omni.model.generate(prompt, KEPT)
    assert torch.equal(every.tokens, plain.tokens)  # the likeliest alone is as likely as itself
    share = plain.logits[0].softmax(-1) / plain.logits[0].softmax(-1).max()
    assert torch.equal(gated.logits[0].isfinite(), share >= 0.5)
    assert free.logits.isfinite().all() and share[free.tokens[0]] < 0.5


def test_the_sure_decide_alone(omni: HookedOmni, prompt: EmbeddedPrompt):
    terms = (Term(2.0), Term(-1.0, WITHOUT_SOUND))
    plain: Any = omni.model.generate(prompt, KEPT)
    first = plain.logits[0].log_softmax(-1)
    entropy = float(-(first.exp() * first).sum())
    for gate, alone in ((entropy + 0.01, True), (entropy - 0.01, False)):
        how = Contrast(terms, least_entropy=gate)
        made: Any = contrast(omni.model, prompt, how, KEPT)
        assert torch.allclose(made.logits[0], plain.logits[0], atol=2e-5) is alone


def test_draws_are_those_of_the_sum(omni: HookedOmni, prompt: EmbeddedPrompt):
    decoding = Decoding(N, stop_at_eos=False, return_logits=True, sampling=Sampling(seed=3))
    how = Contrast((Term(2.0), Term(-1.0, WITHOUT_SOUND)))
    made: Any = contrast(omni.model, prompt, how, decoding)
    generator = Sampling(seed=3).generator(torch.device("cpu"))
    drawn = [int(Sampling(seed=3).choose(row[None], generator)) for row in made.logits]
    assert made.tokens.tolist() == drawn


@pytest.mark.parametrize(
    ("weights", "gates", "decisive"),
    [
        ((), {}, r"\[\]"),
        ((float("nan"), 1.0), {}, "nan"),
        ((1.0, float("inf")), {}, "inf"),
        ((1.0, -1.0), {}, r"-1.0"),
        ((0.0, 1.0), {}, r"\[0.0"),
        ((1.0,), {"plausible": 1.5}, "1.5"),
        ((1.0,), {"least_entropy": -0.1}, "-0.1"),
        ((1.0,), {"plausible": float("nan")}, "nan"),
    ],
)
def test_weights_without_meaning_are_refused(weights: Any, gates: Any, decisive: str):
    with pytest.raises(PromptError, match=decisive):
        Contrast(tuple(Term(weight) for weight in weights), **gates)


def test_what_cannot_act_is_refused(
    omni: HookedOmni, prompt: EmbeddedPrompt, sound_alone: EmbeddedPrompt
):
    one: Any = lambda *terms: contrast(omni.model, prompt, Contrast(terms), Decoding(2))  # noqa: E731
    with pytest.raises(SpanError, match="video"):
        one(Term(1.0), Term(-0.5, [knockout("last+generated !-> V")], prompt=sound_alone))
    with pytest.raises(HookError, match="hook_no_such"):
        one(Term(1.0), Term(-0.5, [("blocks.0.hook_no_such", lambda t, hook: t)]))
    with pytest.raises(PromptError, match="draft"):
        contrast(omni.model, prompt, Contrast((Term(1.0),)), Decoding(2, draft=(1,)))
