"""A lens is Hugging Face's head on its own hidden states."""

from dataclasses import replace
from typing import Any

import pytest
import torch

import hooked_omni.decoding.lens
from benchmarks.sweep import peak_bytes
from hooked_omni import HookedOmni, Spans, load
from hooked_omni.decoding.lens import LENSES, read_lens
from hooked_omni.decoding.prefill import prefill
from hooked_omni.errors import PromptError, SpanError
from hooked_omni.hf.capture import find_decoder
from hooked_omni.organisms.random_weights import random_omni
from tests.support.models import watched

Clips = dict[tuple[str, str], dict[str, Any]]


def _residuals(omni: HookedOmni, inputs: dict[str, Any]) -> list[torch.Tensor]:
    """Hugging Face's hidden states, and what its last block gives before the norm."""
    kept: list[torch.Tensor] = []
    last: Any = find_decoder(omni.hf).layers[-1]  # pyright: ignore[reportIndexIssue]
    handle = last.register_forward_hook(
        lambda _module, _args, out: kept.append(out[0] if isinstance(out, tuple) else out)
    )
    states = omni.hf(**inputs, output_hidden_states=True).hidden_states
    handle.remove()
    return [*states[1:-1], kept[0]]


@pytest.mark.parametrize(("name", "span"), [("omni", "audio"), ("omni", "video"), ("vl", "video")])
def test_lenses_are_hugging_faces_head_on_its_hidden_states(models, clips, name, span):
    omni, inputs = models[name], clips[name, "video" if name == "vl" else "audio in video"]
    prompt, groups = omni.embed_inputs(**inputs), [[65], [7, 200, 31]]
    read = read_lens(omni.model, prompt, span, top_k=4, groups=groups)
    head, norm = omni.hf.get_output_embeddings(), find_decoder(omni.hf).norm
    for layer, state in enumerate(_residuals(omni, inputs)):
        at = state[0, prompt.spans[span]]
        for kind in LENSES:
            expected = head(norm(at) if kind == "norm" else at).double().log_softmax(-1)  # pyright: ignore[reportCallIssue]
            best, tokens = expected.topk(4)
            torch.testing.assert_close(read[kind].tokens[layer], tokens)
            own = read[kind].logprobs[layer].double()
            torch.testing.assert_close(own, best, atol=1e-6, rtol=1e-6)
            for i, group in enumerate(groups):
                value, index = expected[:, group].max(-1)
                own = read[kind].group_logprobs[layer, :, i].double()
                torch.testing.assert_close(own, value, atol=1e-6, rtol=1e-6)
                assert read[kind].group_tokens[layer, :, i].tolist() == [group[j] for j in index]
                ranks = 1 + (expected > value[:, None]).sum(-1)
                assert torch.equal(read[kind].group_ranks[layer, :, i], ranks)


def test_a_prefilled_prompt_is_read_without_a_pass_to_the_bit(omni, clips):
    model, prompt = omni.model, omni.embed_inputs(**clips["omni", "audio in video"])
    full = prefill(model, prompt, lambda name: name.endswith("hook_resid_post"), "audio")
    spans = ("audio", "audio@1.0-2.0s", "video", "audio+last")
    arguments: dict[str, Any] = dict(top_k=3, groups=[[65], [7, 200]])
    passes: list[int] = []
    block: Any = model.blocks[0]
    with watched(block, lambda args: passes.append(args[0].shape[1])):
        ours = [read_lens(model, full, span, **arguments) for span in spans]
        assert passes == [prompt.n_pos] * 2  # "video" and "audio+last" were not kept
        loud = [("blocks.1.hook_resid_mid", lambda resid, hook: resid * 2)]
        with model.hooks(loud):
            louder, expected = (read_lens(model, p, **arguments) for p in (full, prompt))
        stranger = load("random-omni").model
        others = [read_lens(stranger, p, **arguments) for p in (full, prompt)]
    plain = [read_lens(model, prompt, span, **arguments) for span in spans]
    for one, other in [*zip(ours, plain, strict=True), (louder, expected), (others[0], others[1])]:
        for kind in LENSES:
            for name in vars(one[kind]):
                assert torch.equal(getattr(one[kind], name), getattr(other[kind], name))
    assert not torch.equal(louder["norm"].logprobs, plain[0]["norm"].logprobs)


def test_the_last_layer_with_the_norm_predicts_the_first_token(omni, clips):
    prompt = omni.embed_inputs(**clips["omni", "audio in video"])
    read = read_lens(omni.model, prompt, "last", kinds=["norm"])["norm"]
    made = omni.model.generate(prompt, max_new_tokens=1)
    assert int(read.tokens[-1, 0, 0]) == int(made.tokens[0])


def test_chunks_bound_the_logits_and_change_nothing(omni, clips, monkeypatch):
    prompt = omni.embed_inputs(**clips["omni", "audio in video"])
    whole = read_lens(omni.model, prompt, top_k=2, groups=[[65]])
    monkeypatch.setattr(hooked_omni.decoding.lens, "CHUNK_BYTES", 7 * 16 * omni.model.cfg.d_vocab)
    rows: list[int] = []
    with watched(omni.model.unembed, lambda args: rows.append(args[0].shape[0])):
        parts = read_lens(omni.model, prompt, top_k=2, groups=[[65]])
    n_audio = len(prompt.spans["audio"])
    assert max(rows) == 7 and sum(rows) == n_audio * len(LENSES) * omni.model.cfg.n_layers
    for kind in LENSES:
        torch.testing.assert_close(parts[kind].logprobs, whole[kind].logprobs, atol=1e-6, rtol=0)
        assert torch.equal(parts[kind].group_ranks, whole[kind].group_ranks)


def test_memory_stays_within_a_few_chunks_through_many_layers(monkeypatch):
    """Small results kept between large buffers tear the heap apart: gigabytes at full size."""
    hf, processor = random_omni(n_layers=36)
    hf.resize_token_embeddings(20_000, mean_resizing=False)
    omni = HookedOmni.from_hf(hf, processor)
    tokens = torch.arange(300)[None] % 256
    prompt = omni.embed_inputs(input_ids=tokens, attention_mask=torch.ones_like(tokens))
    prompt = replace(prompt, spans=Spans({"audio": torch.arange(20, 270)}, 300))
    monkeypatch.setattr(hooked_omni.decoding.lens, "CHUNK_BYTES", 2**25)
    extra = peak_bytes(lambda: read_lens(omni.model, prompt, top_k=5, groups=[[65], [66, 67]]))
    assert extra < 4 * 2**25


def test_at_a_real_vocabulary_a_chunk_is_an_eighth_of_a_gigabyte():
    a_row = hooked_omni.decoding.lens._BYTES_A_LOGIT * 152_064
    rows = hooked_omni.decoding.lens.CHUNK_BYTES // a_row
    assert rows >= 32 and rows * a_row <= 2**27


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (dict(kinds=["tuned"]), r"expected lenses among \('norm', 'raw'\)"),
        (dict(kinds=[]), "expected lenses among"),
        (dict(top_k=0), "a top_k from 1 to"),
        (dict(groups=[[1], []]), "got an empty group"),
        (dict(groups=[[99_999]]), r"got \[99999\]"),
    ],
)
def test_what_cannot_be_read(omni, clips, as_installed, arguments, message):
    prompt = omni.embed_inputs(**clips["omni", "audio"])
    with pytest.raises(PromptError, match=message):
        read_lens(omni.model, prompt, **arguments)
    with pytest.raises(SpanError):
        read_lens(omni.model, prompt, "video")
