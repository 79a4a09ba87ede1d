"""Each published decoder is its formula on Hugging Face's logits, and plain without a weight."""

import math
from typing import Any

import pytest
import torch

from hooked_omni import EmbeddedPrompt, HookedOmni, prefill
from hooked_omni.decoding import decoders
from hooked_omni.decoding.contrast import Contrast, Term, contrast, positions
from hooked_omni.decoding.generate import Decoding
from hooked_omni.errors import PromptError
from tests.support.hugging_face import Cut, hf_cut, hf_forced
from tests.support.models import eager
from tests.support.runs import close

KEPT = Decoding(3, stop_at_eos=False, return_logits=True)
IN_VIDEO = "omni", "audio in video"


@pytest.fixture(scope="module")
def sound_alone(models: Any, clips: Any) -> EmbeddedPrompt:
    return models["omni"].embed_inputs(**clips["omni", "audio"])


def gate(sum_of: Any, plain: Any, plausible: float, entropy: float) -> Any:
    """The gates, as they are published."""
    out, first = sum_of.clone(), plain.log_softmax(-1)
    if plausible:
        out[plain < plain.amax(-1, keepdim=True) + math.log(plausible)] = -torch.inf
    sure = -(first.exp() * first).sum(-1) < entropy
    out[sure] = plain[sure]
    return out


def formulas(a: float) -> dict[str, tuple[Any, Any, tuple[float, float]]]:
    """From the other prompt to the decoder; its sum of logits; its gates."""
    against = decoders.without("audio")
    return {
        "contrastive": (
            lambda _: decoders.contrastive(against, a),
            lambda at: (1 + a) * at("") - a * at("audio"),
            (0.1, 0),
        ),
        "distorted": (
            lambda other: decoders.distorted(other, a),
            lambda at: (1 + a) * at("") - a * at("other"),
            (0.1, 0),
        ),
        "guidance": (
            lambda _: decoders.guidance("audio", 1 + a),
            lambda at: at("audio") + (1 + a) * (at("") - at("audio")),
            (0, 0),
        ),
        "avcd": (
            lambda _: decoders.avcd(a),
            lambda at: (2 + 2 * a) * at("") - 2 * a * at("both") + at("audio") + at("video"),
            (0.2, 0.6),
        ),
        "avcd of a dominant video": (
            lambda _: decoders.avcd(a, 0.0, 0.0, ("audio", "question")),
            lambda at: (2 + 2 * a) * at("") - 2 * a * at("no words") + at("audio") + at("question"),
            (0, 0),
        ),
    }


CUTS = {"audio": ["audio"], "video": ["video"], "question": ["question"]}
CUTS |= {"both": ["audio", "video"], "no words": ["audio", "question"]}


@pytest.mark.parametrize("name", formulas(1.0))
def test_a_step_is_the_published_formula(
    name: str, omni: HookedOmni, prompt: EmbeddedPrompt, clips: Any, sound_alone: EmbeddedPrompt
):
    make, formula, gates = formulas(0.7)[name]
    with eager(omni):
        made: Any = contrast(omni.model, prompt, make(sound_alone), KEPT)

        def theirs(which: str) -> Any:
            if which == "other":
                return hf_forced(omni, clips["omni", "audio"], sound_alone, made.tokens)
            if not which:
                return hf_forced(omni, clips[IN_VIDEO], prompt, made.tokens)
            keys = "+".join(CUTS[which])
            with hf_cut(omni, prompt, Cut("", "last+generated", keys)):
                return hf_forced(omni, clips[IN_VIDEO], prompt, made.tokens)

        expected = gate(formula(theirs), theirs(""), *gates)
        assert torch.equal(made.logits.isfinite(), expected.isfinite())
        close(made.logits, expected, atol=5e-5)
        assert torch.equal(expected.argmax(-1), made.tokens)


@pytest.mark.parametrize("name", [n for n in formulas(0) if not n.startswith("avcd")])
def test_weight_zero_is_the_plain_caption_to_the_token(
    name: str, omni: HookedOmni, prompt: EmbeddedPrompt, sound_alone: EmbeddedPrompt
):
    how = formulas(0.0)[name][0](sound_alone)
    made, plain = contrast(omni.model, prompt, how, KEPT), omni.model.generate(prompt, KEPT)
    assert torch.equal(made.tokens, plain.tokens)


@pytest.mark.parametrize("a", [float("nan"), float("inf"), -1.0])
def test_strengths_without_meaning_are_refused(a: float):
    with pytest.raises(PromptError, match="finite weights"):
        decoders.contrastive(decoders.without("audio"), a)
    with pytest.raises(PromptError, match="finite weights"):
        decoders.guidance("audio", 1 + a)
    if a != -1:
        with pytest.raises(PromptError, match="finite weights"):
            decoders.avcd(a)


@pytest.mark.parametrize("name", ["contrastive", "distorted", "avcd"])
def test_positions_are_those_that_run(
    name: str, omni: HookedOmni, prompt: EmbeddedPrompt, sound_alone: EmbeddedPrompt, passes: Any
):
    how = formulas(1.0)[name][0](sound_alone)
    contrast(omni.model, prompt, how, KEPT)
    ran = sum(rows * n for rows, n in passes)
    assert positions(omni.model, prompt, how, 3) == ran
    passes.clear()
    omni.model.generate(prompt, KEPT)
    plain = Contrast((Term(1.0),))
    assert positions(omni.model, prompt, plain, 3) == sum(rows * n for rows, n in passes)
    assert positions(omni.model, prefill(omni.model, prompt), plain, 3) == prompt.n_pos + 2
