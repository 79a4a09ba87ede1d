"""What is no input of a decoder, and what is no decoder's tensors."""

import pytest
import torch

from hooked_omni import HookedTransformer
from hooked_omni.errors import CheckpointError, PromptError


@pytest.mark.usefixtures("as_installed")
@pytest.mark.parametrize(
    ("tokens", "value"),
    [
        (torch.tensor([[0, 266]]), r"from 0 to 265, got 0 to 266"),
        (torch.tensor([[-1, 5]]), r"from 0 to 265, got -1 to 5"),
        (torch.zeros(1, 0, dtype=torch.long), r"got .*\(1, 0\)"),
        (torch.zeros(0, 4, dtype=torch.long), r"got .*\(0, 4\)"),
        (torch.zeros(1, 4), r"got torch.float32 of shape \(1, 4\)\. Use `embed_inputs`"),
        (torch.zeros(4, dtype=torch.long), r"got torch.int64 of shape \(4,\)"),
        (torch.zeros(1, 4, 64), r"got torch.float32 of shape \(1, 4, 64\)"),
    ],
)
def test_tokens_that_are_none(omni, tokens, value):
    with pytest.raises(PromptError, match=value):
        omni.model(tokens)


@pytest.mark.parametrize("number", [0, -1])
def test_captions_have_at_least_one_token(omni, prompt, number):
    with pytest.raises(PromptError, match=f"max_new_tokens={number}"):
        omni.model.generate(prompt, max_new_tokens=number)
    assert len(omni.model.generate(prompt, max_new_tokens=1).tokens) == 1


def test_tensors_that_make_no_decoder(omni):
    cfg, name = omni.model.cfg, omni.family.tensor_name
    tensors = {name(n): p for n, p in omni.model.named_parameters()}
    same = HookedTransformer.from_tensors(cfg, tensors, name)
    assert torch.equal(same(torch.tensor([[1, 2]])), omni.model(torch.tensor([[1, 2]])))
    query = "layers.3.self_attn.q_proj.weight"
    without = {k: v for k, v in tensors.items() if k != query}
    for message, changed in {
        rf"1 missing \['{query}'\] and 0 extra \[\]": without,
        r"0 missing \[\] and 1 extra \['q_norm'\]": {**tensors, "q_norm": tensors["norm.weight"]},
        rf"{query} of shape \(64, 64\) .*got \(63, 64\)": {**tensors, query: tensors[query][1:]},
    }.items():
        with pytest.raises(CheckpointError, match=message):
            HookedTransformer.from_tensors(cfg, changed, name)
