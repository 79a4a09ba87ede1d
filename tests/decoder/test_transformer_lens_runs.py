"""Runs as a TransformerLens user writes them: text, losses, stops, flags and weights."""

from typing import Any

import pytest
import torch
from transformer_lens.utilities.lm_utils import lm_cross_entropy_loss

from hooked_omni import names
from hooked_omni.errors import HookError, PromptError
from tests.support.models import look
from tests.support.runs import noise

TEXT = "the dog barks"


def test_text_is_its_tokens(omni):
    model = omni.model
    tokens = model.to_tokens(TEXT)
    assert torch.equal(model(TEXT), model(tokens))
    both = [TEXT, TEXT[::-1]]
    assert torch.equal(model(both), model(model.to_tokens(both)))
    assert torch.equal(model.run_with_cache(TEXT, names.EMBED)[0], model(TEXT))
    assert model.to_string(tokens) == [TEXT]
    assert model.to_string(tokens[0]) == TEXT
    assert model.to_str_tokens(TEXT) == model.to_str_tokens(tokens) == list(TEXT)
    assert model.to_str_tokens(both) == [list(text) for text in both]
    assert model.to_single_token("a") == model.to_tokens("a").item()


def test_a_prompts_tokens_are_read_but_not_run(omni, prompt):
    model: Any = omni.model
    assert model.to_tokens(prompt) is prompt
    assert model.to_string(prompt) == [omni.processor.tokenizer.decode(prompt.tokens[0])]
    assert len(model.to_str_tokens(prompt)) == prompt.n_pos


@pytest.mark.parametrize(
    ("attempt", "value"),
    [
        (lambda m: m.to_tokens("a", prepend_bos=True), "True"),
        (lambda m: m.to_tokens(["a", "bb"]), r"\[1, 2\]"),
        (lambda m: m(["a", "bb"]), r"\[1, 2\]"),
        (lambda m: m(""), r"\[0\]"),
        (lambda m: m.to_single_token("ab"), "2 for 'ab'"),
        (lambda m: m.to_str_tokens(m.to_tokens(["a", "b"])), "got 2"),
        (lambda m: m(TEXT, return_type="probs"), "'probs'"),
    ],
)
def test_text_that_cannot_run_is_refused(omni, as_installed, attempt, value):
    with pytest.raises(PromptError, match=value):
        attempt(omni.model)


def test_an_unknown_word_is_no_single_token(omni, monkeypatch):
    model, tokenizer = omni.model, omni.model.tokenizer
    monkeypatch.setattr(tokenizer, "encode", lambda text: [tokenizer.unk_token_id])
    with pytest.raises(PromptError, match="'wug'"):
        model.to_single_token("wug")
    assert model.to_single_token(tokenizer.unk_token) == tokenizer.unk_token_id


def test_return_types_of_text(omni):
    model = omni.model
    tokens, logits = model.to_tokens(TEXT), model(TEXT)
    loss = lm_cross_entropy_loss(logits, tokens)
    each = lm_cross_entropy_loss(logits, tokens, per_token=True)
    assert torch.equal(model(TEXT, return_type="loss"), loss)
    assert torch.equal(model(TEXT, return_type="loss", loss_per_token=True), each)
    assert torch.equal(model.loss_fn(logits, tokens), loss)
    both = model.run_with_hooks(TEXT, return_type="both")
    assert torch.equal(both[0], logits) and torch.equal(both[1], loss)
    seen: list[str] = []
    last = names.resid_post(model.cfg.n_layers - 1)
    note = (last, lambda resid, hook: seen.append(hook.name))
    assert model.run_with_hooks(TEXT, fwd_hooks=[note], return_type=None) is None
    assert seen == [last]
    assert torch.equal(model.run_with_cache(TEXT, last, return_type="loss")[0], loss)


def test_the_loss_of_a_prompt_is_over_text(omni, prompt):
    model = omni.model
    each = model(prompt, return_type="loss", loss_per_token=True)
    text = torch.zeros(prompt.n_pos, dtype=torch.bool)
    text[prompt.spans["text"]] = True
    assert 0 < text.sum() < prompt.n_pos
    assert torch.equal(each[0].isnan(), ~text[1:])
    log_probs = model(prompt)[0, :-1].log_softmax(-1)
    by_hand = -log_probs.gather(1, prompt.tokens[0, 1:, None])[:, 0]
    torch.testing.assert_close(each[0][text[1:]], by_hand[text[1:]])
    torch.testing.assert_close(model(prompt, return_type="loss"), by_hand[text[1:]].mean())


def test_losses_that_mean_nothing_are_refused(omni, prompt, as_installed):
    model = omni.model
    two = prompt[torch.tensor([0, 0])]
    with pytest.raises(PromptError, match="batch of 2"):
        model(two, return_type="loss")
    logits = model(two)
    assert torch.equal(model(two[0:1]), logits[0:1])
    with pytest.raises(PromptError, match=r"prompt\[0:1\]"):
        prompt[0]  # pyright: ignore[reportArgumentType]


@pytest.mark.parametrize("name", ["omni", "vl3"])
def test_a_stop_returns_the_residual_stream(models, clips, name):
    model = models[name].model
    prompt = models[name].embed_inputs(**clips[name, "video"])
    n_layers = model.cfg.n_layers
    _, cache = model.run_with_cache(prompt, lambda n: "hook_resid" in n)
    for layer in range(n_layers):
        expected = cache["resid_pre", layer]
        assert torch.equal(model(prompt, stop_at_layer=layer), expected)
        assert torch.equal(model(prompt, stop_at_layer=layer - n_layers), expected)
    whole = model(prompt, stop_at_layer=n_layers)
    assert torch.equal(whole, cache["resid_post", n_layers - 1])
    resid, cut = model.run_with_cache(prompt, stop_at_layer=2)  # opens the layers before it
    torch.testing.assert_close(resid, cache["resid_pre", 2], rtol=1e-4, atol=1e-5)
    assert {names.layer_of(n) for n in cut} == {None, 0, 1}
    half = [(names.resid_post(0), lambda t, hook: t / 2)]
    assert not torch.equal(model.run_with_hooks(prompt, half, stop_at_layer=1), resid)


def test_hooks_after_the_stop_are_refused(omni, prompt):
    model = omni.model
    late = names.resid_pre(2)
    for attempt in (
        lambda: model.run_with_hooks(prompt, [(late, look)], stop_at_layer=2),
        lambda: model.run_with_hooks(prompt, bwd_hooks=[(late, look)], stop_at_layer=2),
        lambda: model.run_with_cache(prompt, late, stop_at_layer=-2),
        lambda: model.run_with_cache(prompt, ["ln_final.hook_scale"], stop_at_layer=4),
        lambda: model.run_with_cache(prompt, lambda n: "ln_final" in n, stop_at_layer=4),
    ):
        with pytest.raises(HookError, match=r"hook_resid_pre|ln_final|filter"):
            attempt()
    for layer in (5, -5):
        with pytest.raises(HookError, match=f"got {layer}"):
            model(prompt, stop_at_layer=layer)
    seen: list[str] = []
    every = [(lambda n: n.endswith("resid_pre"), lambda t, hook: seen.append(hook.name))]
    model.run_with_hooks(prompt, every, stop_at_layer=2)
    assert seen == [names.resid_pre(0), names.resid_pre(1)]


@pytest.mark.parametrize("flag", sorted(names.FLAGS))
def test_a_hook_point_is_off_until_its_flag_is_on(omni, prompt, flag):
    model, turn = omni.model, getattr(omni.model, f"set_{flag}")
    points = [names.in_block(point, 1) for point in names.FLAGS[flag]]
    clean, cache = model.run_with_cache(prompt)
    assert not set(points) & set(cache)
    for point in points:
        for attempt, message in (
            (lambda p=point: model.run_with_hooks(prompt, [(p, look)]), rf"set_{flag}\(True\)"),
            (lambda p=point: model.run_with_cache(prompt, p), rf"set_{flag}\(True\)"),
            (lambda p=point: model.add_hook(p, look), rf"set_{flag}\(True\)"),
            (lambda p=point: model.run_with_cache(prompt, lambda name: name == p), "filter"),
        ):
            with pytest.raises(HookError, match=message):
                attempt()
    turn(True)
    try:
        read, cache = model.run_with_cache(prompt, points)
        assert torch.equal(read, model(prompt))
        assert torch.equal(read, model.run_with_hooks(prompt, [(p, look) for p in points]))
        for point in points:
            heads = model.cfg.n_key_value_heads if point[-8:] in ("_k_input", "_v_input") else 4
            assert cache[point].shape[2:] == ((heads, 64) if names.on_heads(point) else (64,))
            more = [(point, lambda t, hook: t + 1)]
            assert not torch.equal(model.run_with_hooks(prompt, more), read)
        model.add_hook(points[0], look)
        turn(False)
        with pytest.raises(HookError, match=flag):
            model(prompt)
    finally:
        turn(False)
        model.reset_hooks()
    assert torch.equal(clean, model.run_with_cache(prompt)[0])


@pytest.mark.parametrize("letter", ["q", "k", "v"])
def test_a_heads_input_is_read_by_that_head_alone(omni, prompt, letter):
    model, layer, head, push = omni.model, 1, 1, noise(omni.model.cfg.d_model)
    reads, resid = f"blocks.1.attn.hook_{letter}", names.resid_pre(layer)

    def add(resid: Any, hook: Any) -> None:
        resid[:, 7, head] += push

    with model.every_hook_point():
        _, clean = model.run_with_cache(prompt, [reads, resid])
        _, cache = model.run_with_cache(prompt, reads, fwd_hooks=[(f"{reads}_input", add)])
    block: Any = model.blocks[layer]
    weight, bias = (getattr(block.attn, f"{w}_{letter.upper()}")[head] for w in "Wb")
    by_hand = block.ln1(clean[resid][:, 7] + push) @ weight + bias
    torch.testing.assert_close(cache[reads][:, 7, head], by_hand, rtol=1e-4, atol=1e-5)
    cells = torch.ones(clean[reads].shape[1:3], dtype=torch.bool)
    cells[7, head] = False
    assert torch.equal(cache[reads][0, cells], clean[reads][0, cells])


@pytest.mark.parametrize("head", [1, 3])
def test_an_attention_input_is_read_by_queries_keys_and_values(omni, prompt, head):
    """As in TransformerLens, two key-value heads read the first two copies."""
    model, reads = omni.model, [f"blocks.1.attn.hook_{letter}" for letter in "qkv"]

    def add(resid: Any, hook: Any) -> None:
        resid[:, :, head] += torch.linspace(-1, 1, resid.shape[-1])

    with model.every_hook_point():
        _, clean = model.run_with_cache(prompt, reads)
        hooks = [("blocks.1.attn.hook_attn_in", add)]
        _, cache = model.run_with_cache(prompt, reads, fwd_hooks=hooks)
    for name in reads:
        moved = (cache[name] - clean[name]).abs().amax((0, 1, 3)) > 1e-4
        assert moved.nonzero().flatten().tolist() == ([head] if head < len(moved) else [])


def test_circuits_are_products_of_weights(models):
    for name in ("omni", "omni3"):
        model = models[name].model
        layer, head = 2, 3
        attn = model.blocks[layer].attn
        ov, qk = model.OV[layer, head].AB, model.QK[layer, head].AB
        torch.testing.assert_close(ov, attn.W_V[head // 2] @ attn.W_O[head])
        torch.testing.assert_close(qk, attn.W_Q[head] @ attn.W_K[head // 2].T)
        assert model.OV.shape == (4, 4, model.cfg.d_model, model.cfg.d_model)


def test_a_cache_moves_and_loses_its_batch_axis(omni, prompt):
    _, cache = omni.model.run_with_cache(prompt, names.resid_post(1))
    before = cache["resid_post", 1].clone()
    assert cache.to("cpu")["resid_post", 1].device.type == "cpu"
    assert torch.equal(cache.remove_batch_dim()["resid_post", 1], before[0])
    assert (prompt.shape, prompt.ndim, len(prompt)) == (prompt.tokens.shape, 2, 1)
    assert prompt.cpu().device == prompt.device == torch.device("cpu")
    assert prompt[0:1].spans is prompt.spans
