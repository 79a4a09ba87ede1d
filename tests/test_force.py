"""A forced text's logits are those of one Hugging Face pass over prompt and text."""

from typing import Any

import pytest
import torch
from conftest import KINDS

from hooked_omni import HookedOmni, knockout
from hooked_omni.errors import HookError, PromptError
from hooked_omni.force import force

Clips = dict[tuple[str, str], dict[str, Any]]
TEXT = torch.tensor([65, 7, 200, 65, 31])


def continued(inputs: dict[str, Any], tokens: torch.Tensor) -> dict[str, Any]:
    """The processor's output with a text behind the prompt."""
    longer = dict(inputs)
    for name, row in (("input_ids", tokens), ("attention_mask", torch.ones_like(tokens))):
        longer[name] = torch.cat([inputs[name], row[None].to(inputs[name].dtype)], dim=1)
    if "mm_token_type_ids" in inputs:
        types = inputs["mm_token_type_ids"]
        longer["mm_token_type_ids"] = torch.cat([types, types.new_zeros(1, len(tokens))], dim=1)
    return longer


@pytest.mark.parametrize(("name", "kind"), KINDS)
def test_logits_are_hugging_faces(
    models: dict[str, HookedOmni],
    clips: Clips,
    name: str,
    kind: str,
) -> None:
    omni, inputs = models[name], clips[name, kind]
    logits = force(omni.model, omni.embed_inputs(**inputs), TEXT)
    with torch.no_grad():
        theirs = omni.hf(**continued(inputs, TEXT[:-1])).logits[0, -len(TEXT) :]
    torch.testing.assert_close(logits, theirs, atol=2e-6, rtol=0)


def test_scores_are_its_log_probabilities(omni: HookedOmni, clips: Clips) -> None:
    prompt = omni.embed_inputs(**clips["omni", "audio in video"])
    cut = [knockout(query="generated", key="video")]
    plain, scored = (omni.model.score_many(prompt, TEXT, [[], cut])[i] for i in (0, 1))
    for hooks, scores in (([], plain), (cut, scored)):
        logprobs = force(omni.model, prompt, TEXT, hooks).log_softmax(-1)
        said = logprobs.gather(1, TEXT[:, None])[:, 0]
        torch.testing.assert_close(said, scores, atol=2e-6, rtol=0)
    assert not torch.allclose(plain, scored, atol=1e-3)


def test_a_text_of_one_token_is_the_prompts_own_prediction(omni: HookedOmni, clips: Clips) -> None:
    prompt = omni.embed_inputs(**clips["omni", "audio"])
    logits = force(omni.model, prompt, TEXT[:1])
    torch.testing.assert_close(logits[0], omni.model(prompt)[0, -1], atol=2e-6, rtol=0)


def test_what_cannot_be_forced(omni: HookedOmni, clips: Clips, as_installed: None) -> None:
    prompt = omni.embed_inputs(**clips["omni", "audio"])
    with pytest.raises(PromptError, match=r"expected one text \[n\], got tokens of shape \(1, 5\)"):
        force(omni.model, prompt, TEXT[None])
    with pytest.raises(PromptError, match="expected at least one new token, got 0"):
        force(omni.model, prompt, TEXT[:0])
    with pytest.raises(PromptError, match="They belong to another vocabulary"):
        force(omni.model, prompt, TEXT + 10_000)
    with pytest.raises(HookError, match="it would do nothing"):
        force(omni.model, prompt, TEXT[:1], [knockout(query="generated", key="audio")])
