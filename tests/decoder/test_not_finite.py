"""NaN and infinity are errors wherever they come from, and only where they count."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch

from hooked_omni import EmbeddedPrompt, HookedOmni, load, names, prefill, prove, read_lens
from hooked_omni.decoding.score import forced_logits
from hooked_omni.errors import HookedOmniError, HookError, NotFiniteError, PromptError
from tests.support.models import CLIP_OF, left_padded, look, processed
from tests.support.runs import unstopped

BAD = (torch.nan, torch.inf, -torch.inf)
PARTS = {
    "omni": ("attn.q_proj.bias", "attn.k_proj.weight", "attn.v_proj.bias", "mlp.down_proj.weight"),
    "omni3": ("attn.q_norm.weight", "attn.k_norm.weight", "ln2.weight", "mlp.gate.weight"),
}


def own(prompt: EmbeddedPrompt) -> EmbeddedPrompt:
    """A copy to be spoilt in place."""
    return replace(prompt, embeds=prompt.embeds.clone(), position_ids=prompt.position_ids.clone())


def calls(omni: HookedOmni, prompt: EmbeddedPrompt) -> dict[str, Callable[[], object]]:
    model, text, reads = omni.model, torch.tensor([5, 6, 7]), [(names.resid_pre(1), look)]
    return {
        "forward": lambda: model(prompt),
        "a hook": lambda: model.run_with_hooks(prompt, fwd_hooks=reads),
        "a cache": lambda: model.run_with_cache(prompt, names.pattern(1)),
        "generate": lambda: model.generate(prompt, unstopped(2)),
        "a sweep": lambda: model.generate_many(prompt, [[], reads], unstopped(2)),
        "score": lambda: model.score(prompt, text, [[]]),
        "forced": lambda: forced_logits(model, prompt, text),
        "lens": lambda: read_lens(model, prompt, "last"),
        "prefill": lambda: model.generate(prefill(model, prompt), unstopped(2)),
        "prove": lambda: prove(omni, prompt, decode_steps=1),
    }


def require_refused(omni: HookedOmni, prompt: EmbeddedPrompt, only: Any = None) -> None:
    for name, call in calls(omni, prompt).items():
        if only is None or name in only:
            with pytest.raises(HookedOmniError, match=r"NaN or infinity|nan|embeddings are not"):
                call()


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("family", PARTS)
def test_a_weight_that_is_no_number(family, attention):
    """`sdpa` itself makes zeros of a query or key that is NaN."""
    omni = load(f"random-{family}", attn_implementation=attention)
    weights, model = dict(omni.model.named_parameters()), omni.model
    prompt = model.as_prompt(torch.arange(2, 12)[None])
    spoilt = [*(names.in_block(part, 1) for part in PARTS[family]), "ln_final.weight"]
    for name in [*spoilt, "unembed.weight"]:
        for bad in BAD:
            before = weights[name].data.view(-1)[7].clone()
            weights[name].data.view(-1)[7] = bad
            with pytest.raises(NotFiniteError, match=rf"got NaN or infinity.*{name}"):
                model(prompt)
            require_refused(
                omni, prompt, None if bad != bad and name == spoilt[0] else ["generate"]
            )
            weights[name].data.view(-1)[7] = before
    assert len(model.generate(prompt, unstopped(2)).tokens) == 2


@pytest.mark.parametrize("where", ["embeds", "position_ids"])
def test_an_input_that_is_no_number(omni, prompt, where):
    for bad in BAD:
        spoilt = own(replace(prompt, position_ids=prompt.position_ids.double()))
        getattr(spoilt, where)[0, 0, 3] = bad
        require_refused(omni, spoilt, None if bad != bad else ["forward", "score"])


def test_what_the_logits_do_not_read_may_be_nan(omni, clips):
    inputs = clips["omni", CLIP_OF["omni"]]
    padded = own(omni.embed_inputs(**left_padded(omni, inputs, 5)))
    clean = omni.model(padded)[:, 5:]
    padded.position_ids[:, :, :5] = 7  # not NaN: its weight is zero, and NaN times zero is NaN
    assert torch.equal(omni.model(padded)[:, 5:], clean)
    unused = load("random-omni")
    unused.model.embed.weight.data[200] = torch.nan
    plain = load("random-omni")
    tokens = torch.arange(2, 12)[None]
    for name, call in calls(unused, unused.model.as_prompt(tokens)).items():
        if name != "prove":
            call()
    assert torch.equal(unused.model(tokens), plain.model(tokens))


def test_an_edit_that_makes_infinity_is_named(omni, prompt):
    at = names.FINAL_NORM
    for bad in BAD:
        spoil = (at, lambda tensor, hook, bad=bad: tensor + bad)
        for run in (omni.model.run_with_hooks, omni.model.generate):
            with pytest.raises(HookError, match=rf"got NaN .* Edited here: \['{at}'\]"):
                run(prompt, fwd_hooks=[spoil])


def test_half_precision_that_overflows():
    omni = load("random-omni", dtype="float16")
    prompt = omni.embed_inputs(**processed(omni, "text"))
    for weight in omni.model.get_submodule("blocks.1.mlp").parameters():
        weight.data.fill_(6e4)  # a half goes up to 65504
    require_refused(omni, prompt, ["forward", "generate"])


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_an_infinite_key_is_not_a_key_that_is_not_read(attention):
    """Its scores of -inf are finite weights of zero: a knockout that nobody made."""
    model = load("random-omni", attn_implementation=attention).model

    def cut(tensor: torch.Tensor, hook: Any) -> None:
        tensor[:, 2, :, 0] = -torch.inf

    key, query = (names.in_block(f"attn.hook_rot_{of}", 3) for of in "kq")
    hooks = [(query, lambda tensor, hook: tensor.abs() + 1), (key, cut)]
    tokens = torch.arange(2, 6)[None]
    for more in ([], [(names.pattern(3), look)]):
        with pytest.raises(HookError, match=r"got NaN or infinity.*hook_rot_k"):
            model.run_with_hooks(tokens, fwd_hooks=[*hooks, *more])


@pytest.mark.parametrize("kind", [torch.bool, torch.uint8, torch.int16])
def test_tokens_of_a_type_that_no_embedding_reads(omni, as_installed, kind):
    with pytest.raises(PromptError, match=f"got {kind}"):
        omni.model(torch.ones(1, 3, dtype=kind))
