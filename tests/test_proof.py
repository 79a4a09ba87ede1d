"""`prove` finds what differs from Hugging Face, and says so."""

from typing import Any

import pytest
import torch
import transformers
from torch import Tensor

from hooked_omni import EmbeddedPrompt, HookedOmni, errors, prove
from hooked_omni.errors import HookedOmniError, ParityError, PromptError
from hooked_omni.organisms.random_weights import random_omni
from tests.support.models import left_padded, twice

CLIP = "audio in video"


@pytest.fixture
def own() -> HookedOmni:
    """A model that a test may break."""
    return HookedOmni.from_hf(*random_omni(n_layers=2))


@pytest.fixture
def prompt(own: HookedOmni, clips: dict) -> EmbeddedPrompt:
    return own.embed_inputs(**clips["omni", CLIP])


def test_a_whole_model_is_proved(own, prompt):
    report = prove(own, prompt, decode_steps=4)
    assert report.prefill == report.decode == 0 and report.decode_steps == 4
    assert own.hf.config.get_text_config()._attn_implementation == "sdpa"
    assert not own.model.cfg.use_attn_result
    assert all(fact in str(report) for fact in ("prefill", "decode", "live_hooks"))


@pytest.mark.parametrize(
    "name", ["blocks.1.mlp.up_proj.weight", "ln_final.weight", "blocks.0.attn.q_proj.bias"]
)
def test_a_replaced_weight_is_no_proof(own, prompt, name):
    path, _, leaf = name.rpartition(".")
    module = own.model.get_submodule(path)
    changed = getattr(module, leaf).detach().clone()
    changed.view(-1)[0] += 1e-3
    setattr(module, leaf, torch.nn.Parameter(changed, False))
    with pytest.raises(ParityError) as error:
        prove(own, prompt, decode_steps=2)
    message = str(error.value)
    assert "expected logits within 0 of Hugging Face's" in message and "prefill" in message
    assert f"transformers {transformers.__version__}" in message
    assert own.hf.config.get_text_config()._attn_implementation == "sdpa"
    assert prove(own, prompt, decode_steps=2, tolerance=10.0).prefill > 0


def test_shifted_decode_positions_are_no_proof(own, prompt):
    """Counting tokens in place of positions: right in the prompt, wrong after it."""

    class CountsTokens(EmbeddedPrompt):
        def position_ids_at(self, window: range) -> Tensor:
            if window.stop <= self.n_pos:
                return super().position_ids_at(window)
            return torch.arange(window.start, window.stop).expand(3, 1, -1)

    with pytest.raises(ParityError) as error:
        prove(own, CountsTokens(**vars(prompt)), decode_steps=2)
    first = int(prompt.position_ids.max()) + 1
    assert f"positions {[first] * 3} at decode step 1" in str(error.value)
    assert f"got {[prompt.n_pos] * 3}" in str(error.value)


def test_a_prompt_of_another_model_is_no_proof(own, clips):
    other = HookedOmni.from_hf(*random_omni(seed=1, n_layers=2))
    for kind in ("text", CLIP):
        with pytest.raises(ParityError, match="expected a prompt embedded by this model"):
            prove(own, other.embed_inputs(**clips["omni", kind]), decode_steps=2)


def test_a_dead_hook_point_is_no_proof(own, clips):
    block: Any = own.model.blocks[1]
    block.mlp.hook_pre.add_hook = lambda *args, **kwargs: None
    with pytest.raises(ParityError, match=r"expected an edit at 'blocks\.1\.mlp\.hook_pre'"):
        prove(own, own.embed_inputs(**clips["omni", "text"]), decode_steps=1)


def test_a_padded_prompt_is_proved_and_a_batch_is_not(own, clips):
    padded = own.embed_inputs(**left_padded(own, clips["omni", CLIP], 4))
    assert prove(own, padded, decode_steps=3).decode_opened == 0
    with pytest.raises(PromptError, match="expected one prompt, got a batch of 2"):
        prove(own, own.embed_inputs(**twice(clips["omni", "text"])))


@pytest.mark.parametrize(
    "name", sorted(n for n in vars(errors) if n.endswith("Error") and n != "HookedOmniError")
)
def test_every_error_is_caught_by_its_builtin_parent(name):
    others = {"ParityError": ArithmeticError, "NotFiniteError": ArithmeticError}
    others |= {"ClusterError": RuntimeError, "WorkerLostError": RuntimeError}
    others |= {"OutOfRoomError": MemoryError}
    assert issubclass(getattr(errors, name), others.get(name, ValueError))
    assert issubclass(getattr(errors, name), HookedOmniError)
