"""An edit writes exactly what it says, where it says, and not one bit elsewhere."""

from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from hooked_omni import (
    EmbeddedPrompt,
    HookedOmni,
    HookedTransformer,
    Prompt,
    Reference,
    Spans,
    ablate,
    names,
    patch,
    steer,
)
from hooked_omni.errors import HookError, SpanError
from tests.support.models import frames, left_padded, look, processed, sound

PADDING = 5
SPAN = "audio@1.0-2.0s+frame 1"  # interleaved, so not a slice
POINTS = [
    "hook_resid_pre",
    "hook_resid_mid",
    "hook_resid_post",
    "hook_attn_out",
    "hook_mlp_out",
    "attn.hook_q",
    "attn.hook_k",
    "attn.hook_v",
    "attn.hook_rot_q",
    "attn.hook_rot_k",
    "attn.hook_z",
    "attn.hook_result",
    "attn.hook_pattern",
    "attn.hook_attn_scores",
    "mlp.hook_pre",
    "mlp.hook_pre_linear",
    "mlp.hook_post",
    "ln1.hook_normalized",
    "ln2.hook_scale",
]
OUTSIDE = [names.EMBED, names.FINAL_NORM]
HEADED = [point for point in POINTS if point.startswith("attn.")]
# A score of zero is no absence, and a norm divides by its scale.
CAN_BE_ZERO = [p for p in POINTS if p not in ("attn.hook_attn_scores", "ln2.hook_scale")]
OF_ONE_POSITION = [p for p in POINTS if not p.endswith(names.PATTERN_LIKE)]


def bits_equal(ours: Tensor, theirs: Tensor) -> None:
    torch.testing.assert_close(ours, theirs, rtol=0, atol=0)


def noise(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@pytest.fixture(scope="module")
def model(omni: HookedOmni) -> Iterator[HookedTransformer]:
    omni.model.cfg.use_attn_result = True
    yield omni.model
    omni.model.cfg.use_attn_result = False


@pytest.fixture(scope="module")
def prompt(omni: HookedOmni, clips: dict) -> EmbeddedPrompt:
    return omni.embed_inputs(**clips["omni", "audio in video"])


@pytest.fixture(scope="module")
def other(omni: HookedOmni) -> EmbeddedPrompt:
    """The same words about another clip of the same length."""
    return clip(omni, frames(seed=11), sound(seed=12))


@pytest.fixture(scope="module")
def clean(model: HookedTransformer, prompt: EmbeddedPrompt) -> Any:
    """Activations of the run that every edit is compared with."""
    return cached(model, prompt)


@pytest.fixture(scope="module")
def source(model: HookedTransformer, other: EmbeddedPrompt) -> Reference:
    """The run to take activations from."""
    return Reference(cached(model, other), other.spans)


@pytest.fixture
def passes(omni: HookedOmni) -> Iterator[list[int]]:
    """One entry for each pass that has entered the blocks."""
    seen: list[int] = []
    block: Any = omni.model.blocks[0]
    handle = block.register_forward_pre_hook(lambda _module, args: seen.append(args[0].shape[1]))
    yield seen
    handle.remove()


def clip(omni: HookedOmni, video: Any, audio: Any, words: str = "What now?") -> EmbeddedPrompt:
    asked = Prompt(words, video="clip", audio="sound", system="Be brief.")
    inputs = omni.family.prepare(omni.processor, asked, video, audio)
    return omni.embed_inputs(**{k: v for k, v in inputs.items() if v is not None})


def cached(model: HookedTransformer, prompt: EmbeddedPrompt, *hooks: Any) -> Any:
    """Every activation, with every layer's attention opened in either case."""
    opened = [(names.pattern(layer), look) for layer in range(4)]
    return model.run_with_cache(prompt, fwd_hooks=[*hooks, *opened])[1]


def named(at: str, layer: int) -> str:
    return at if at in OUTSIDE else names.in_block(at, layer)


def cells(at: str, tensor: Tensor, positions: Tensor, heads: list[int] | None = None) -> Tensor:
    """Which entries of an activation belong to positions and heads, said axis by axis."""
    mask = torch.zeros_like(tensor, dtype=torch.bool)
    if at.endswith(("pattern", "attn_scores")):
        for head in range(4) if heads is None else heads:
            mask[:, head, positions] = True
    elif heads is None:
        mask[:, positions] = True
    else:
        for head in heads:
            mask[:, positions, head] = True
    return mask


def computed_before(at: str, layer: int) -> list[str]:
    """Hook points that fire before this one in every pass, of the layers before it."""
    if at == names.EMBED:
        return []
    last = 4 if at == names.FINAL_NORM else layer
    return [names.in_block(point, i) for i in range(last) for point in POINTS]


def require_written(
    model: HookedTransformer,
    prompt: EmbeddedPrompt,
    clean: Any,
    edit: Any,
    at: str,
    layer: int,
    expected: Callable[[Tensor], Tensor],
    heads: list[int] | None = None,
) -> None:
    """The cells of the span hold what is expected; the others, and what came before, are as was."""
    edited, name = cached(model, prompt, edit), named(at, layer)
    mask = cells(at, clean[name], prompt.spans[SPAN], heads)
    wanted = torch.where(mask, expected(clean[name]), clean[name])
    bits_equal(edited[name], wanted)
    assert mask.any() and not torch.equal(wanted, clean[name])
    for earlier in computed_before(at, layer):
        bits_equal(edited[earlier], clean[earlier])


# --- exact values ----------------------------------------------------------------------------


@pytest.mark.parametrize("at", [*CAN_BE_ZERO, *OUTSIDE])
def test_zero_is_zero(
    model: HookedTransformer, prompt: EmbeddedPrompt, clean: Any, at: str
) -> None:
    edit = ablate(at, span=SPAN, layers=None if at in OUTSIDE else [2])
    require_written(model, prompt, clean, edit, at, 2, torch.zeros_like)


def test_a_scale_of_zero_is_no_number(model: HookedTransformer, prompt: EmbeddedPrompt) -> None:
    edit = ablate("ln2.hook_scale", span=SPAN, layers=[2])
    with pytest.raises(HookError, match="expected numbers behind the edits, got NaN"):
        model.run_with_hooks(prompt, fwd_hooks=[edit])


@pytest.mark.parametrize("at", [point for point in HEADED if point in CAN_BE_ZERO])
def test_heads_are_ablated_one_by_one(
    model: HookedTransformer, prompt: EmbeddedPrompt, clean: Any, at: str
) -> None:
    heads = [1] if at.endswith(("_k", "_v")) else [0, 3]
    edit = ablate(at, span=SPAN, layers=[1], heads=heads)
    require_written(model, prompt, clean, edit, at, 1, torch.zeros_like, heads)


@pytest.mark.parametrize("at", OF_ONE_POSITION)
def test_a_mean_is_over_the_spans_of_all_references(
    model: HookedTransformer, prompt: EmbeddedPrompt, clean: Any, source: Reference, at: str
) -> None:
    runs = [source, Reference(clean, prompt.spans), source]
    edit = ablate(at, span=SPAN, layers=[2], to="mean", reference=runs)
    name = named(at, 2)
    rows = [run.cache[name][0, i] for run in runs for i in run.spans[SPAN].tolist()]
    mean = torch.stack(rows).mean(0)
    require_written(model, prompt, clean, edit, at, 2, lambda clean: mean.expand_as(clean))


@pytest.mark.parametrize(
    ("at", "heads"), [*((at, None) for at in POINTS), *((at, [1]) for at in HEADED)]
)
def test_resampling_takes_the_others_activations(
    model: HookedTransformer,
    prompt: EmbeddedPrompt,
    clean: Any,
    source: Reference,
    at: str,
    heads: list[int] | None,
) -> None:
    edit = ablate(at, span=SPAN, layers=[2], heads=heads, to="resample", reference=[source])
    require_written(
        model, prompt, clean, edit, at, 2, lambda clean: source.cache[named(at, 2)], heads
    )
    same = patch(at, span=SPAN, layers=[2], heads=heads, source=source)
    bits_equal(
        model.run_with_hooks(prompt, fwd_hooks=[edit]),
        model.run_with_hooks(prompt, fwd_hooks=[same]),
    )


@pytest.mark.parametrize("at", OF_ONE_POSITION)
def test_steering_adds(
    model: HookedTransformer, prompt: EmbeddedPrompt, clean: Any, at: str
) -> None:
    width = clean[named(at, 1)].shape[-1]
    vector = noise(width).abs()
    edit = steer(vector, span=SPAN, at=at, layers=[1], scale=0.5)
    require_written(model, prompt, clean, edit, at, 1, lambda clean: clean + 0.5 * vector)


def test_each_head_has_a_vector_of_its_own(
    model: HookedTransformer, prompt: EmbeddedPrompt, clean: Any
) -> None:
    vectors = noise(4, 16)
    edit = steer(vectors, span=SPAN, at="attn.hook_z", layers=[3], heads=[2, 0], scale=-2.0)
    require_written(
        model, prompt, clean, edit, "attn.hook_z", 3, lambda clean: clean - 2.0 * vectors, [0, 2]
    )


@pytest.mark.parametrize("at", OUTSIDE)
def test_edits_outside_the_blocks(
    model: HookedTransformer, prompt: EmbeddedPrompt, clean: Any, source: Reference, at: str
) -> None:
    vector = noise(64)
    edits: list[tuple[Any, Callable[[Tensor], Tensor]]] = [
        (steer(vector, span=SPAN, at=at), lambda clean: clean + vector),
        (patch(at, span=SPAN, source=source), lambda clean: source.cache[at]),
    ]
    for edit, expected in edits:
        require_written(model, prompt, clean, edit, at, 0, expected)


@pytest.mark.parametrize("at", ["hook_resid_post", "attn.hook_z", "mlp.hook_post"])
def test_no_layers_are_all_layers(
    model: HookedTransformer, prompt: EmbeddedPrompt, source: Reference, at: str
) -> None:
    for make in (
        lambda layers: ablate(at, span=SPAN, layers=layers),
        lambda layers: patch(at, span=SPAN, source=source, layers=layers),
        lambda layers: steer(noise(cached_width(at)), span=SPAN, at=at, layers=layers),
    ):
        every, listed = cached(model, prompt, make(None)), cached(model, prompt, make(range(4)))
        for name in every:
            bits_equal(every[name], listed[name])
    edited = cached(model, prompt, ablate(at, span=SPAN))
    for layer in range(4):
        assert (edited[named(at, layer)][:, prompt.spans[SPAN]] == 0).all()
        assert (edited[named(at, layer)][:, prompt.spans["text"]] != 0).any()


def cached_width(at: str) -> int:
    return {"attn.hook_z": 16, "mlp.hook_post": 128}.get(at, 64)


def test_edits_follow_each_other_in_their_order(
    model: HookedTransformer, prompt: EmbeddedPrompt
) -> None:
    vector = noise(64)
    push = steer(vector, span=SPAN, layers=[1])
    wipe = ablate("hook_resid_post", span=SPAN, layers=[1])
    name, where = names.resid_post(1), prompt.spans[SPAN]
    assert (cached(model, prompt, push, wipe)[name][0, where] == 0).all()
    pushed = cached(model, prompt, wipe, push)[name][0, where]
    bits_equal(pushed, vector.expand_as(pushed))
    twice = cached(model, prompt, wipe, push, push)[name][0, where]
    bits_equal(twice, (2 * vector).expand_as(twice))


def test_generated_positions_are_edited_step_by_step(
    model: HookedTransformer, prompt: EmbeddedPrompt, clean: Any
) -> None:
    seen: list[tuple[int, Tensor]] = []

    def keep(tensor: Tensor, hook: Any) -> None:
        seen.append((hook.window.start, tensor[0].clone()))

    watch = (names.resid_post(1), keep)
    vector = noise(64)
    wipe = ablate("hook_resid_post", span="generated", layers=[1])
    push = steer(vector, span="generated+last", layers=[1], scale=3.0)
    model.generate(prompt, max_new_tokens=4, fwd_hooks=[wipe, push, watch], stop_at_eos=False)
    clean_rows = clean[names.resid_post(1)][0]
    (_, whole), *steps = seen
    torch.testing.assert_close(whole[:-1], clean_rows[:-1], rtol=0, atol=1e-5)
    torch.testing.assert_close(whole[-1], clean_rows[-1] + 3 * vector, rtol=0, atol=1e-5)
    assert [start for start, _ in steps] == [prompt.n_pos + i for i in range(3)]
    for _, row in steps:
        bits_equal(row, (3 * vector)[None])


def test_edits_behind_padding(omni: HookedOmni, clips: dict) -> None:
    model, inputs = omni.model, clips["omni", "audio in video"]
    alone, padded = (
        omni.embed_inputs(**left_padded(omni, inputs, width)) for width in (0, PADDING)
    )
    edits = [
        ablate("hook_mlp_out", span=SPAN, layers=[1]),
        steer(noise(64), span="last", layers=[2]),
    ]
    bare = model.run_with_hooks(alone, fwd_hooks=edits)
    ours = model.run_with_hooks(padded, fwd_hooks=edits)[:, PADDING:]
    torch.testing.assert_close(ours, bare, rtol=0, atol=1e-5)
    assert not torch.allclose(ours, model(alone), atol=1e-3)
    source = Reference(model.run_with_cache(alone)[1], alone.spans)
    name = names.resid_post(1)
    _, cache = model.run_with_cache(
        padded, fwd_hooks=[patch("hook_resid_post", span="text", source=source, layers=[1])]
    )
    bits_equal(cache[name][:, padded.spans["text"]], source.cache[name][:, alone.spans["text"]])


# --- patching --------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["omni", "vl"])
def test_the_whole_prompt_at_the_first_layer_is_the_other_prompt(
    models: dict, clips: dict, name: str
) -> None:
    omni = models[name]
    kind = {"omni": "audio in video", "vl": "video"}[name]
    prompt = omni.embed_inputs(**clips[name, kind])
    spoiled = replace(prompt, embeds=prompt.embeds + noise(*prompt.embeds.shape))
    logits, cache = omni.model.run_with_cache(prompt, names_filter=names.resid_pre(0))
    source = Reference(cache, prompt.spans)
    restore = patch("hook_resid_pre", span="prompt", source=source, layers=[0])
    assert not torch.allclose(omni.model(spoiled), logits, atol=1e-2)
    bits_equal(omni.model.run_with_hooks(spoiled, fwd_hooks=[restore]), logits)
    clean = omni.model.generate(prompt, max_new_tokens=5, stop_at_eos=False, return_logits=True)
    caption = omni.model.generate(
        spoiled, max_new_tokens=5, fwd_hooks=[restore], stop_at_eos=False, return_logits=True
    )
    bits_equal(caption.logits, clean.logits)


def test_patching_the_clip_alone_restores_the_rest(
    model: HookedTransformer, prompt: EmbeddedPrompt, other: EmbeddedPrompt, clean: Any
) -> None:
    """The two prompts differ in their clips only, so the clip is all there is to restore."""
    source = Reference(clean, prompt.spans)
    restore = [
        patch("hook_resid_pre", span=span, source=source, layers=[0]) for span in ("audio", "video")
    ]
    bits_equal(model.run_with_hooks(other, fwd_hooks=restore), model(prompt))
    assert not torch.equal(model.run_with_hooks(other, fwd_hooks=restore[:1]), model(prompt))


def test_patching_itself_changes_nothing(
    model: HookedTransformer, prompt: EmbeddedPrompt, clean: Any
) -> None:
    source = Reference(clean, prompt.spans)
    for at in POINTS:
        for align in ("position", "time"):
            edit = patch(at, span="audio", source=source, layers=[2], align=align)
            edited = cached(model, prompt, edit)
            bits_equal(edited[names.FINAL_NORM], clean[names.FINAL_NORM])


def planted(prompt: EmbeddedPrompt, span: str) -> Tensor:
    """Activations that say their own time, frame and place in the frame."""
    told = torch.zeros(1, prompt.n_pos, 64)
    where, seconds = prompt.spans[span], prompt.spans.seconds[span]
    told[0, where, 0] = seconds
    order = torch.zeros(len(where))
    for start in seconds.unique():
        same = seconds == start
        order[same] = torch.arange(int(same.sum())).float()
    told[0, where, 1] = order
    return told


@pytest.mark.parametrize("span", ["audio", "video"])
@pytest.mark.parametrize(("mine", "theirs"), [(3.0, 5.0), (2.0, 3.0), (3.0, 3.0)])
def test_tokens_are_paired_by_their_time(
    omni: HookedOmni, span: str, mine: float, theirs: float
) -> None:
    short, long = (
        clip(omni, frames(int(2 * s), seed=int(s)), sound(s), words)
        for s, words in ((mine, "What now?"), (theirs, "And what is it that happens now?"))
    )
    name = names.resid_mid(1)
    source = Reference({name: planted(long, span)}, long.spans)
    edit = patch("hook_resid_mid", span=span, source=source, layers=[1], align="time")
    _, cache = omni.model.run_with_cache(short, names_filter=name, fwd_hooks=[edit])
    bits_equal(cache[name][:, short.spans[span]], planted(short, span)[:, short.spans[span]])
    if mine != theirs:
        with pytest.raises(HookError, match=f"expected a source as long as this prompt, .*{span}"):
            back = Reference({name: planted(short, span)}, short.spans)
            late = patch("hook_resid_mid", span=span, source=back, layers=[1], align="time")
            omni.model.run_with_hooks(long, fwd_hooks=[late])


def test_a_step_that_is_under_way_is_the_partner(
    model: HookedTransformer, prompt: EmbeddedPrompt
) -> None:
    """Between two starts, it is the earlier one that is heard."""
    n = 10
    seconds = torch.tensor([0.0, 0.5, 1.0, 1.5])
    source_spans = Spans({"audio": torch.arange(3, 7)}, n, {"audio": seconds})
    told = torch.zeros(1, n, 64)
    told[0, 3:7] = seconds[:, None]
    own = Spans(
        {"audio": torch.tensor([2, 5, 6, 9]), "last": torch.tensor([9])},
        n,
        {"audio": torch.tensor([0.2, 0.5, 0.99, 1.7])},
    )
    tokens = torch.arange(n)[None]
    asked = replace(model.as_prompt(tokens), spans=own)
    name = names.resid_post(0)
    edit = patch(
        "hook_resid_post",
        span="audio",
        source=Reference({name: told}, source_spans),
        layers=[0],
        align="time",
    )
    _, cache = model.run_with_cache(asked, names_filter=name, fwd_hooks=[edit])
    assert cache[name][0, [2, 5, 6, 9], 0].tolist() == [0.0, 0.5, 0.5, 1.5]
    # Earlier than the source begins, nothing is under way.
    late_spans = Spans({"audio": torch.arange(3, 7)}, n, {"audio": seconds + 0.4})
    early = patch(
        "hook_resid_post",
        span="audio",
        source=Reference({name: told}, late_spans),
        layers=[0],
        align="time",
    )
    with pytest.raises(HookError):
        model.run_with_hooks(asked, fwd_hooks=[early])


# --- what is refused -------------------------------------------------------------------------


def refused(
    model: HookedTransformer, prompt: EmbeddedPrompt, make: Callable[[], Any], text: str
) -> None:
    with pytest.raises((HookError, SpanError), match=text):
        model.run_with_hooks(prompt, fwd_hooks=[make()])
    assert [name for name, point in model.hook_dict.items() if point.has_hooks()] == []


@pytest.mark.parametrize(
    ("to", "n", "text"),
    [
        ("zero", 1, "got to='zero' with 1"),
        ("mean", 0, "got to='mean' with 0"),
        ("resample", 0, "got to='resample' with 0"),
        ("resample", 2, "got to='resample' with 2"),
    ],
)
def test_references_that_are_too_many_or_too_few(
    model: HookedTransformer, prompt: EmbeddedPrompt, to: Any, n: int, text: str
) -> None:
    run = Reference({}, prompt.spans)
    with pytest.raises(HookError, match=f"expected no reference for to='zero', .* {text}"):
        ablate("hook_resid_post", span="audio", to=to, reference=[run] * n)


def test_an_unknown_way_to_ablate(as_installed: None, prompt: EmbeddedPrompt) -> None:
    run, way = Reference({}, prompt.spans), "noise"
    for given in ([], [run]):
        with pytest.raises(HookError, match="noise"):
            ablate("hook_resid_post", span="audio", to=way, reference=given)  # pyright: ignore


BAD_PLACES: list[tuple[dict[str, Any], str]] = [
    (dict(at="hook_resid_post", layers=[4]), "4-layer model, got 'blocks.4.hook_resid_post'"),
    (dict(at="hook_resid_post", layers=[1, 9]), "got 'blocks.9.hook_resid_post'"),
    (dict(at="resid_post"), "got 'resid_post'"),
    (dict(at="hook_resid_pst"), "expected a filter that some hook name passes"),
    (dict(at="hook_resid_pst", layers=[2]), "Closest is 'blocks.2.hook_resid_post'"),
    (dict(at="hook_resid_post", layers=[]), "expected layers counted from 0"),
    (dict(at="hook_resid_post", layers=[-1]), "expected layers counted from 0"),
    (dict(at="hook_resid_post", heads=[0]), "expected a hook point with heads, got heads="),
    (dict(at="mlp.hook_post", heads=[0]), "expected a hook point with heads, got heads="),
    (dict(at="attn.hook_z", heads=[4]), r"expected heads from 0 to 3, got \[4\]"),
    (dict(at="attn.hook_z", heads=[]), "expected heads counted from 0"),
    (dict(at="attn.hook_k", layers=[1], heads=[2]), r"expected heads from 0 to 1, got \[2\]"),
    (dict(at="attn.hook_rot_k", heads=[1, 3]), r"expected heads from 0 to 1, got \[3\]"),
    (dict(at="attn.hook_v", heads=[2]), r"keys and values have fewer"),
    (dict(at="hook_resid_post", span="smell"), "expected one of .* got 'smell'"),
    (dict(at="hook_resid_post", span="frame 9"), "the video has 3 grid steps"),
    (dict(at="hook_resid_post", span="generated"), "expected a run that reaches 'generated'"),
]


@pytest.mark.parametrize("edit", ["ablate", "steer", "patch"])
@pytest.mark.parametrize(("where", "text"), BAD_PLACES, ids=[str(w) for w, _ in BAD_PLACES])
def test_a_place_that_is_not_there(
    omni: HookedOmni,
    prompt: EmbeddedPrompt,
    passes: list[int],
    edit: str,
    where: dict[str, Any],
    text: str,
) -> None:
    given = {"span": "audio", **where}
    if edit == "patch":
        if where.get("span") == "generated":
            text = "expected a span of the prompt, got 'generated': generated positions have no"
        whole = {names.in_block(given["at"], layer): noise(1, 144, 64) for layer in range(10)}
        cache = {given["at"]: noise(1, 144, 64), **whole}
        given["source"] = Reference(cache, prompt.spans)
    make = {
        "ablate": lambda: ablate(**given),
        "steer": lambda: steer(noise(64), **given),
        "patch": lambda: patch(**given),
    }[edit]
    refused(omni.model, prompt, make, text)
    assert passes == []


@pytest.mark.parametrize("many", [False, True])
def test_key_heads_are_counted_before_a_caption_too(
    omni: HookedOmni, prompt: EmbeddedPrompt, passes: list[int], many: bool
) -> None:
    """All layers are a filter of names, and keys have fewer heads in all of them."""
    edit = ablate("attn.hook_k", span="generated", heads=[3])
    with pytest.raises(HookError, match=r"expected heads from 0 to 1, got \[3\]"):
        if many:
            omni.model.generate_many(prompt, [[], [edit]], max_new_tokens=3)
        else:
            omni.model.generate(prompt, max_new_tokens=3, fwd_hooks=[edit])
    assert passes == []


@pytest.mark.parametrize(
    ("layers", "at", "text"),
    [
        ([2], "hook_resid_pre", "expected a cache that holds 'blocks.2.hook_resid_pre'"),
        ([1], "attn.hook_z", "expected a cache that holds 'blocks.1.attn.hook_z'"),
        (None, "hook_resid_pre", "expected a cache that holds 'blocks.0.hook_resid_pre'"),
    ],
)
@pytest.mark.parametrize("to", ["mean", "resample"])
def test_a_cache_without_the_activation(
    omni: HookedOmni,
    prompt: EmbeddedPrompt,
    passes: list[int],
    layers: Any,
    at: str,
    text: str,
    to: Any,
) -> None:
    _, cache = omni.model.run_with_cache(prompt, names_filter=names.resid_pre(1))
    passes.clear()
    run = Reference(cache, prompt.spans)
    make = lambda: ablate(at, span="audio", layers=layers, to=to, reference=[run])  # noqa: E731
    refused(omni.model, prompt, make, text)
    assert passes == []


def test_a_cache_that_is_cut(omni: HookedOmni, prompt: EmbeddedPrompt, passes: list[int]) -> None:
    name = names.resid_pre(1)
    whole = noise(1, prompt.n_pos, 64)
    for cut in (whole[0], whole[:, :-1], whole.repeat(2, 1, 1)):
        run = Reference({name: cut}, prompt.spans)
        refused(
            omni.model,
            prompt,
            lambda run=run: patch("hook_resid_pre", span="audio", layers=[1], source=run),
            rf"expected '{name}' of one prompt with 144 positions, got shape",
        )
    assert passes == []


def test_prompts_of_different_length(omni: HookedOmni, passes: list[int]) -> None:
    short, long = (clip(omni, frames(2 * n), sound(float(n))) for n in (2, 3))
    cache = {names.resid_pre(1): noise(1, long.n_pos, 64)}
    source = Reference(cache, long.spans)
    for span, mine, theirs in (("audio", 50, 75), ("video", 12, 18), ("prompt", 113, 144)):
        refused(
            omni.model,
            short,
            lambda span=span: patch("hook_resid_pre", span=span, source=source, layers=[1]),
            rf"expected as many '{span}' tokens in both prompts, got {mine} here and {theirs} in",
        )
    for span in ("question", "last", "audio@0-1s"):
        edit = patch("hook_resid_pre", span=span, source=source, layers=[1])
        omni.model.run_with_hooks(short, fwd_hooks=[edit])
        refused(
            omni.model,
            short,
            lambda span=span: patch(
                "hook_resid_pre", span=span, source=source, layers=[1], align="time"
            ),
            "expected 'audio' or 'video' with known times to align by",
        )
    assert len(passes) == 3


@pytest.mark.parametrize("at", ["attn.hook_pattern", "attn.hook_attn_scores"])
@pytest.mark.parametrize("to", ["mean", "resample"])
def test_patterns_of_prompts_of_different_length(
    omni: HookedOmni, prompt: EmbeddedPrompt, passes: list[int], at: str, to: Any
) -> None:
    """Their spans may be as long; what a row reads is not."""
    longer = omni.embed_inputs(**processed(omni, "audio in video", "What now, and what then?"))
    run = Reference(omni.model.run_with_cache(longer)[1], longer.spans)
    passes.clear()
    refused(
        omni.model,
        prompt,
        lambda: ablate(at, span="audio", layers=[1], to=to, reference=[run]),
        "expected",
    )
    assert passes == []


def test_scores_of_zero_would_open_the_future(
    omni: HookedOmni, prompt: EmbeddedPrompt, passes: list[int]
) -> None:
    """A score is a logarithm: zero is a weight of one, for keys behind the query as well."""
    refused(
        omni.model,
        prompt,
        lambda: ablate("attn.hook_attn_scores", span="audio", layers=[1]),
        "expected",
    )
    assert passes == []


def test_an_unknown_alignment(
    as_installed: None, omni: HookedOmni, prompt: EmbeddedPrompt, passes: list[int]
) -> None:
    way: Any = "words"
    source = Reference({names.resid_pre(1): noise(1, 144, 64)}, prompt.spans)
    refused(
        omni.model,
        prompt,
        lambda: patch("hook_resid_pre", span="audio", source=source, layers=[1], align=way),
        "expected align 'position' or 'time', got 'words'",
    )
    assert passes == []


@pytest.mark.parametrize(
    ("at", "shape"),
    [
        ("hook_resid_post", (63,)),
        ("hook_resid_post", (2, 64)),
        ("hook_resid_post", (75, 64)),
        ("hook_resid_post", ()),
        ("attn.hook_z", (64,)),
        ("attn.hook_z", (3, 16)),
        ("attn.hook_z", (75, 4, 16)),
        ("attn.hook_k", (4, 16)),
    ],
)
def test_a_vector_that_does_not_fit(
    as_installed: None, omni: HookedOmni, prompt: EmbeddedPrompt, at: str, shape: tuple[int, ...]
) -> None:
    refused(
        omni.model,
        prompt,
        lambda: steer(torch.ones(shape), span="audio", at=at, layers=[1]),
        r"expected a vector",
    )


def test_a_vector_that_is_no_number(omni: HookedOmni, prompt: EmbeddedPrompt) -> None:
    vector = torch.full((64,), torch.nan)
    refused(
        omni.model,
        prompt,
        lambda: steer(vector, span="audio", layers=[1]),
        r"got NaN .* \['blocks.1.hook_resid_post'\]",
    )


def test_layers_of_a_place_that_has_none(
    omni: HookedOmni, prompt: EmbeddedPrompt, passes: list[int]
) -> None:
    """They would be forgotten without a word."""
    for at in (names.EMBED, names.FINAL_NORM, names.resid_post(1)):
        refused(omni.model, prompt, lambda at=at: ablate(at, span="audio", layers=[3]), "layers")
    assert passes == []
