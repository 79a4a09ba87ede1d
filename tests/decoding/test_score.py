"""A forced text's logits are those of Hugging Face's cached pass over it, to the bit."""

from typing import Any

import pytest
import torch

from hooked_omni import EmbeddedPrompt, HookedOmni, knockout, names
from hooked_omni.decoding.prefill import prefill
from hooked_omni.decoding.score import force
from hooked_omni.errors import HookError, PromptError
from tests.support.models import KINDS, watched

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


def cached(
    omni: HookedOmni, inputs: dict[str, Any], prompt: EmbeddedPrompt, text: torch.Tensor
) -> torch.Tensor:
    """Hugging Face's logits of the text, behind its own keys and values of the prompt."""
    window = range(prompt.n_pos, prompt.n_pos + len(text) - 1)
    positions = prompt.position_ids_at(window)
    with torch.no_grad():
        first = omni.hf(**inputs, use_cache=True)
        rest = omni.hf(
            input_ids=text[None, :-1],
            past_key_values=first.past_key_values,
            position_ids=positions[0] if "Audio" in type(omni.hf).__name__ else positions,
            attention_mask=torch.ones(1, window.stop, dtype=torch.long),
        )
    return torch.cat([first.logits[0, -1:], rest.logits[0]])


@pytest.mark.parametrize(("name", "kind"), KINDS)
def test_logits_are_hugging_faces(
    models: dict[str, HookedOmni], clips: Clips, name: str, kind: str
) -> None:
    omni, inputs = models[name], clips[name, kind]
    prompt = omni.embed_inputs(**inputs)
    logits = force(omni.model, prompt, TEXT)
    assert torch.equal(logits[1:], cached(omni, inputs, prompt, TEXT)[1:])
    with torch.no_grad():  # in one pass, sums are in another order
        theirs = omni.hf(**continued(inputs, TEXT[:-1])).logits[0, -len(TEXT) :]
    torch.testing.assert_close(logits, theirs, atol=1e-5, rtol=0)


def test_the_prompt_is_passed_over_once(omni: HookedOmni, clips: Clips) -> None:
    prompt = omni.embed_inputs(**clips["omni", "audio in video"])
    ready, seen = prefill(omni.model, prompt), []
    hooks: list[list[Any]] = [
        [],
        [knockout(query="generated", key="video")],
        [(names.resid_mid(0), lambda _resid, hook: seen.append(hook.window))],
    ]
    n_pos, total = prompt.n_pos, prompt.n_pos + len(TEXT) - 1
    whole = [force(omni.model, prompt, TEXT, condition) for condition in hooks]
    assert seen == [range(n_pos), range(n_pos, total)]  # a user's own hook sees the prompt, too
    block: Any = omni.model.blocks[0]
    widths: list[int] = []
    with watched(block, lambda args: widths.append(args[0].shape[1])):
        for _ in range(2):  # what the first left in the cache would show in the second
            for condition, expected in zip(hooks, whole, strict=True):
                assert torch.equal(force(omni.model, ready, TEXT, condition), expected)
    assert widths == [len(TEXT) - 1, len(TEXT) - 1, n_pos, len(TEXT) - 1] * 2
    with omni.model.hooks([(names.resid_mid(1), lambda resid, hook: resid * 2)]):
        assert torch.equal(force(omni.model, ready, TEXT), force(omni.model, prompt, TEXT))
        assert not torch.allclose(force(omni.model, ready, TEXT), whole[0], atol=1e-3)


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
