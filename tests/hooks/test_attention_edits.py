"""A knockout is the authors' additive mask, in every kind, layer and head; bad ones are refused."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import Tensor

from hooked_omni import (
    EmbeddedPrompt,
    HookedOmni,
    Prompt,
    knockout,
    load,
    names,
    scale_attention,
    windows,
)
from hooked_omni.errors import HookError, SpanError
from hooked_omni.hf.capture import find_decoder
from tests.support.models import eager, frames, left_padded, look, sound, uneven_gains, watched

STEPS = 8
PADDING = 5


@dataclass(frozen=True)
class Cut:
    """A rule, and what it means."""

    rule: str
    query: str
    key: str
    layers: tuple[int, ...] = (0, 1, 2, 3)
    heads: tuple[int, ...] = (0, 1, 2, 3)


OMNI_CUTS = [
    Cut("G !-> V", "generated", "video"),
    Cut("G !-> A", "generated", "audio"),
    Cut("G !-> G @ 1-3", "generated", "generated", (1, 2, 3)),
    Cut("G+last !-> V", "generated+last", "video"),
    Cut("last !-> A", "last", "audio"),
    Cut("A !-> V", "audio", "video"),
    Cut("A !-> Q", "audio", "question"),
    Cut("V !-> Q+system @ 0", "video", "question+system", (0,)),
    Cut("G !-> V @ 1-2", "generated", "video", (1, 2)),
    Cut("G !-> A @ 0,2-3 H1", "generated", "audio", (0, 2, 3), (1,)),
    Cut("G+last !-> A @ 0,3 H1,2", "generated+last", "audio", (0, 3), (1, 2)),
    Cut("last !-> audio@1.0-2.0s @ 2", "last", "audio@1.0-2.0s", (2,)),
    Cut("G !-> V.frame1 @ 1 H0,3", "generated", "frame 1", (1,), (0, 3)),
    Cut("A+generated !-> video@0-1s", "audio+generated", "video@0-1s"),
    Cut("G !-> text H2-3", "generated", "text", heads=(2, 3)),
]
VL_CUTS = [
    Cut("G !-> V", "generated", "video"),
    Cut("G+last !-> V", "generated+last", "video"),
    Cut("last !-> V.frame0 @ 1-2", "last", "frame 0", (1, 2)),
    Cut("V !-> Q", "video", "question"),
    Cut("V.frame2 !-> V.frame0", "frame 2", "frame 0"),
    Cut("G !-> V.frame2 @ 3 H1", "generated", "frame 2", (3,), (1,)),
    Cut("G !-> Q @ 0-1", "generated", "question", (0, 1)),
]
CUTS = [("omni", cut) for cut in OMNI_CUTS] + [("vl", cut) for cut in VL_CUTS]
every_cut = pytest.mark.parametrize(("name", "cut"), CUTS, ids=[f"{n}: {c.rule}" for n, c in CUTS])
KIND = {"omni": "audio in video", "vl": "video"}


def bits_equal(ours: Tensor | None, theirs: Tensor | None) -> None:
    torch.testing.assert_close(ours, theirs, rtol=0, atol=0)


def members(prompt: EmbeddedPrompt, names_: str, n: int) -> Tensor:
    """Which of the first `n` positions are in a union, said without the library's masks."""
    mask = torch.zeros(n, dtype=torch.bool)
    for name in names_.split("+"):
        mask[torch.arange(prompt.n_pos, n) if name == "generated" else prompt.spans[name]] = True
    return mask


@contextmanager
def hf_cut(omni: HookedOmni, prompt: EmbeddedPrompt, cut: Cut) -> Iterator[None]:
    """The knockout in eager Hugging Face, as the authors do it: in the additive mask."""

    def mask_out(_module: Any, args: Any, kwargs: dict[str, Any]) -> Any:
        mask: Tensor = kwargs["attention_mask"]
        n_query, n_key = mask.shape[2:]
        reads = members(prompt, cut.query, n_key)[n_key - n_query :]
        blocked = reads[:, None] & members(prompt, cut.key, n_key)
        edited = mask.expand(-1, omni.model.cfg.n_heads, -1, -1).clone()
        for head in cut.heads:
            edited[:, head].masked_fill_(blocked, torch.finfo(mask.dtype).min)
        return args, {**kwargs, "attention_mask": edited}

    layers: Any = find_decoder(omni.hf).layers
    handles = [
        layers[layer].self_attn.register_forward_pre_hook(mask_out, with_kwargs=True)
        for layer in cut.layers
    ]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def hf_caption(omni: HookedOmni, inputs: dict[str, Any]) -> tuple[list[int], Tensor]:
    """Tokens of Hugging Face's own greedy decoding, and what each was chosen from."""
    ends, omni.hf.generation_config.eos_token_id = omni.hf.generation_config.eos_token_id, None
    try:
        out = omni.hf.generate(
            **inputs,
            max_new_tokens=STEPS,
            do_sample=False,
            output_logits=True,
            return_dict_in_generate=True,
        )
    finally:
        omni.hf.generation_config.eos_token_id = ends
    return out.sequences[0, inputs["input_ids"].shape[1] :].tolist(), torch.cat(out.logits)


@pytest.fixture(scope="module")
def eager_models() -> dict[str, HookedOmni]:
    """Models whose two halves both write their attention out."""
    loaded = {n: load(f"random-{n}", attn_implementation="eager") for n in ("omni", "vl")}
    for omni in loaded.values():
        uneven_gains(omni.hf)
    return loaded


@pytest.fixture
def prompt(omni: HookedOmni, clips: dict) -> EmbeddedPrompt:
    return omni.embed_inputs(**clips["omni", "audio in video"])


@pytest.fixture
def passes(omni: HookedOmni) -> Iterator[list[int]]:
    """One entry for each pass that has entered the blocks: its number of positions."""
    seen: list[int] = []
    block: Any = omni.model.blocks[0]
    with watched(block, lambda args: seen.append(args[0].shape[1])):
        yield seen


# --- against Hugging Face --------------------------------------------------------------------


@every_cut
def test_a_knockout_is_that_mask_to_the_bit(
    eager_models: dict, clips: dict, name: str, cut: Cut
) -> None:
    omni, inputs = eager_models[name], clips[name, KIND[name]]
    prompt = omni.embed_inputs(**inputs)
    with hf_cut(omni, prompt, cut):
        tokens, logits = hf_caption(omni, inputs)
        prefill = omni.hf(**inputs).logits
    ours = omni.model.generate(
        prompt, STEPS, [knockout(cut.rule)], stop_at_eos=False, return_logits=True
    )
    assert ours.logits is not None
    assert ours.tokens.tolist() == tokens
    bits_equal(ours.logits[1:], logits[1:])
    # Hugging Face unembeds the prompt's last row alone, which may round otherwise.
    torch.testing.assert_close(ours.logits[0], logits[0], rtol=0, atol=1e-5)
    if cut.query == "generated":
        with pytest.raises(HookError, match="expected a run that reaches 'generated'"):
            omni.model.run_with_hooks(prompt, fwd_hooks=[knockout(cut.rule)])
        bits_equal(omni.model(prompt), prefill)
    else:
        bits_equal(omni.model.run_with_hooks(prompt, fwd_hooks=[knockout(cut.rule)]), prefill)
        assert not torch.equal(omni.model(prompt), prefill)
    plain = omni.model.generate(prompt, STEPS, stop_at_eos=False, return_logits=True)
    assert plain.logits is not None
    assert not torch.equal(plain.logits[-1], ours.logits[-1])
    first_moves = cut.query != "generated"
    assert torch.equal(plain.logits[0], ours.logits[0]) != first_moves


@every_cut
def test_tokens_are_hugging_faces_with_kernels_as_loaded(
    models: dict, clips: dict, name: str, cut: Cut
) -> None:
    omni, inputs = models[name], clips[name, KIND[name]]
    assert omni.model.cfg.attn_implementation == "sdpa"
    prompt = omni.embed_inputs(**inputs)
    with eager(omni), hf_cut(omni, prompt, cut):
        tokens, logits = hf_caption(omni, inputs)
    ours = omni.model.generate(
        prompt, STEPS, [knockout(cut.rule)], stop_at_eos=False, return_logits=True
    )
    assert ours.tokens.tolist() == tokens
    torch.testing.assert_close(ours.logits, logits, rtol=0, atol=1e-4)


@pytest.mark.parametrize("cut", [OMNI_CUTS[i] for i in (0, 3, 5, 10, 11, 12)], ids=lambda c: c.rule)
def test_a_knockout_behind_padding_is_that_mask(eager_models: dict, clips: dict, cut: Cut) -> None:
    omni = eager_models["omni"]
    inputs = left_padded(omni, clips["omni", "audio in video"], PADDING)
    prompt = omni.embed_inputs(**inputs)
    with hf_cut(omni, prompt, cut):
        tokens, logits = hf_caption(omni, inputs)
    ours = omni.model.generate(
        prompt, STEPS, [knockout(cut.rule)], stop_at_eos=False, return_logits=True
    )
    assert ours.logits is not None
    assert ours.tokens.tolist() == tokens
    bits_equal(ours.logits[1:], logits[1:])
    alone = omni.embed_inputs(**clips["omni", "audio in video"])
    bare = omni.model.generate(
        alone, STEPS, [knockout(cut.rule)], stop_at_eos=False, return_logits=True
    )
    torch.testing.assert_close(ours.logits, bare.logits, rtol=0, atol=1e-4)


def test_two_knockouts_are_both_masks(eager_models: dict, clips: dict) -> None:
    omni, inputs = eager_models["omni"], clips["omni", "audio in video"]
    prompt = omni.embed_inputs(**inputs)
    pair = (OMNI_CUTS[0], OMNI_CUTS[10])
    with hf_cut(omni, prompt, pair[0]), hf_cut(omni, prompt, pair[1]):
        tokens, logits = hf_caption(omni, inputs)
    rules = [knockout(cut.rule) for cut in pair]
    for order in (rules, rules[::-1]):
        ours = omni.model.generate(prompt, STEPS, order, stop_at_eos=False, return_logits=True)
        assert ours.logits is not None
        assert ours.tokens.tolist() == tokens
        bits_equal(ours.logits[1:], logits[1:])


# --- laws ------------------------------------------------------------------------------------


def embedded(omni: HookedOmni, video_seed: int, sound_seed: int) -> EmbeddedPrompt:
    asked = Prompt("What now?", video="clip", audio="sound", system="Be brief.")
    inputs = omni.family.prepare(
        omni.processor, asked, frames(seed=video_seed), sound(seed=sound_seed)
    )
    return omni.embed_inputs(**{k: v for k, v in inputs.items() if v is not None})


@pytest.mark.parametrize(("key", "other"), [("video", "audio"), ("audio", "video")])
def test_what_nobody_reads_might_as_well_be_another_clip(
    omni: HookedOmni, key: str, other: str
) -> None:
    mine = embedded(omni, 1, 2)
    theirs = embedded(omni, 7, 2) if key == "video" else embedded(omni, 1, 7)
    assert torch.equal(mine.tokens, theirs.tokens) and not torch.equal(mine.embeds, theirs.embeds)
    cuts = [knockout(query=f"text+generated+{other}", key=key)]

    def last(prompt: EmbeddedPrompt, hooks: list[Any]) -> Tensor:
        made = omni.model.generate(prompt, STEPS, hooks, stop_at_eos=False, return_logits=True)
        assert made.logits is not None
        return made.logits

    bits_equal(last(mine, cuts), last(theirs, cuts))
    assert not torch.equal(last(mine, []), last(theirs, []))
    # One reader that is forgotten is a leak.
    for readers in (f"text+{other}", f"generated+{other}", "text+generated"):
        leak = [knockout(query=readers, key=key)]
        assert not torch.equal(last(mine, leak), last(theirs, leak))


def test_a_knockout_changes_its_own_cells_only(omni: HookedOmni, prompt: EmbeddedPrompt) -> None:
    cut = knockout("A !-> V @ 1 H0,2")
    name = names.attn_scores(1)
    opened = [(name, look)]
    _, before = omni.model.run_with_cache(prompt, names_filter=name, fwd_hooks=opened)
    _, after = omni.model.run_with_cache(prompt, names_filter=name, fwd_hooks=[cut])
    expected = before[name].clone()
    for head in (0, 2):
        cells = (0, head, prompt.spans["audio"][:, None], prompt.spans["video"])
        expected[cells] = torch.finfo(expected.dtype).min
    bits_equal(after[name], expected)
    assert not torch.equal(expected, before[name])


def test_the_last_prompt_position_is_not_generated(
    omni: HookedOmni, prompt: EmbeddedPrompt
) -> None:
    """`G` is the authors' definition: the first new token is chosen before any of them."""
    rows: dict[int, Tensor] = {}

    def keep(pattern: Tensor, hook: Any) -> None:
        for row, position in enumerate(hook.window):
            rows[position] = pattern[0, :, row, prompt.spans["video"]].sum(-1)

    n = prompt.n_pos
    watch = (names.pattern(2), keep)
    omni.model.generate(prompt, 4, [knockout("G !-> V"), watch], stop_at_eos=False)
    assert (rows[n - 1] > 0).all()
    assert all((rows[n + step] == 0).all() for step in range(3))
    omni.model.generate(prompt, 4, [knockout("G+last !-> V"), watch], stop_at_eos=False)
    assert all((rows[n + step] == 0).all() for step in range(-1, 3))
    assert (rows[n - 2] > 0).all()


# --- windows ---------------------------------------------------------------------------------


def test_windows_of_the_papers_figure() -> None:
    paper = windows(36, width=9, edges="paper")
    assert [(w.start + w.stop - 1) // 2 for w in paper] == list(range(4, 31, 2))
    assert all(len(w) == 9 for w in paper)
    assert paper[0] == range(0, 9) and paper[-1] == range(26, 35)
    assert [w.start for w in windows(28, edges="paper")] == list(range(0, 19, 2))
    assert windows(35, edges="paper")[-1] == range(24, 33)  # one more would end in the last layer
    assert [w.start for w in windows(36, step=6, edges="paper")] == [0, 6, 12, 18, 24]


def test_windows_that_are_cut_off_at_the_ends() -> None:
    assert windows(4, width=3) == [range(0, 2), range(0, 3), range(1, 4), range(2, 4)]
    assert windows(7, width=5, step=3) == [range(0, 3), range(1, 6), range(4, 7)]
    assert windows(3, width=1) == [range(0, 1), range(1, 2), range(2, 3)]
    assert len(windows(36)) == 36
    assert windows(36)[18] == range(14, 23)


@pytest.mark.parametrize(("width", "step"), [(2, 1), (0, 1), (-1, 1), (5, 1), (3, 0), (3, -1)])
def test_windows_that_do_not_fit(width: int, step: int) -> None:
    text = rf"expected an odd width from 1 to 4 and a step .* got width {width} and step {step}"
    with pytest.raises(HookError, match=text):
        windows(4, width, step)


def test_windows_of_which_none_is_whole() -> None:
    """A sweep over no window would pass for one in which nothing mattered."""
    with pytest.raises(HookError, match="expected"):
        windows(9, width=9, edges="paper")


def test_windows_with_unknown_edges(as_installed: None) -> None:
    edges: Any = "round"
    with pytest.raises(HookError, match="expected edges 'clip' or 'paper', got 'round'"):
        windows(4, 3, edges=edges)


# --- the notation ----------------------------------------------------------------------------


@every_cut
def test_the_notation_is_the_keywords(models: dict, clips: dict, name: str, cut: Cut) -> None:
    omni = models[name]
    prompt = omni.embed_inputs(**clips[name, KIND[name]])
    keywords = knockout(query=cut.query, key=cut.key, layers=cut.layers, heads=cut.heads)
    made = [
        omni.model.generate(prompt, 4, [one], stop_at_eos=False, return_logits=True).logits
        for one in (knockout(cut.rule), keywords)
    ]
    bits_equal(*made)
    if cut.layers != (0, 1, 2, 3):
        named = [hook for hook, _ in keywords(prompt.spans)]
        assert named == [names.attn_scores(layer) for layer in cut.layers]
        assert [hook for hook, _ in knockout(cut.rule)(prompt.spans)] == named


@pytest.mark.parametrize(
    "rule",
    ["G !-> V @ 1-2 H1,3", "G!->V @ 1-2 H1,3", "  G !-> V  @  1,2  H3,1 ", "G !-> V @1 - 2 H1, 3"],
)
def test_spaces_and_order_mean_nothing(omni: HookedOmni, prompt: EmbeddedPrompt, rule: str) -> None:
    made = [
        omni.model.generate(prompt, 4, [knockout(r)], stop_at_eos=False, return_logits=True).logits
        for r in (rule, "G !-> V @ 1-2 H1,3")
    ]
    bits_equal(*made)


@pytest.mark.parametrize(
    ("rule", "text"),
    [
        ("", r"expected 'query !-> key', got '' without '!->'"),
        ("G -> V", r"got 'G -> V' without '!->'"),
        ("G !-> ", r"expected a span on both sides of '!->', got ' ' in 'G !-> '"),
        ("!-> V", r"expected a span on both sides of '!->', got '' in '!-> V'"),
        ("G+ !-> V", r"expected a span on both sides of '!->', got 'G\+ ' in"),
        ("G !-> V @ x", r"expected layers such as '@ 12-20', got 'x' in 'G !-> V @ x'"),
        ("G !-> V @ 1-", r"expected layers .* got '1-' in"),
        ("G !-> V @ -1", r"expected layers .* got '-1' in"),
        ("G !-> V @ 3-1", r"expected layers in rising order, got '3-1' in"),
        ("G !-> V @ 1 @ 2", r"expected layers .* got '1 @ 2' in"),
        ("G !-> V @ 1 Hx", r"expected heads such as 'H3,5', got 'x' in"),
        ("G !-> V @ 1 H", r"expected heads .* got '' in"),
        ("G !-> V @ 1 H3-1", r"expected heads in rising order, got '3-1' in"),
        ("G !-> V @ 1 H1 2", r"expected heads .* got '1 2' in"),
        ("G !-> V @ 1 2", r"expected layers .* got '1 2' in"),
    ],
)
def test_a_rule_that_cannot_be_read_says_where(rule: str, text: str) -> None:
    with pytest.raises(HookError, match=text):
        knockout(rule)


@pytest.mark.parametrize(
    ("rule", "text"),
    [
        ("G !-> X", r"expected one of \['audio', 'generated', .*'video'\], .* got 'X'"),
        ("g !-> V", r"got 'g'"),
        ("G !-> V.frame7", r"'video.frame7' tokens, got one without: the video has 3 grid steps"),
        ("last !-> audio@9-10s", r"'audio@9-10s' tokens, got .* start at 0.00 to 2.96 s"),
        ("last !-> audio@2-1s", r"'audio@2-1s' tokens, got one without"),
        ("G !-> V H1 @ 1", r"got 'V H1'"),
        ("G !-> V !-> A", r"got 'V !-> A'"),
    ],
)
def test_a_span_that_is_not_there_is_named(
    omni: HookedOmni, prompt: EmbeddedPrompt, passes: list[int], rule: str, text: str
) -> None:
    with pytest.raises(SpanError, match=text):
        omni.model.generate(prompt, 4, [knockout(rule)])
    assert passes == []


def test_a_prompt_without_sound_has_no_audio_to_cut(
    vl: HookedOmni, omni: HookedOmni, clips: dict
) -> None:
    for model, inputs in ((vl, clips["vl", "video"]), (omni, clips["omni", "video"])):
        with pytest.raises(SpanError, match="'audio'"):
            model.model.generate(model.embed_inputs(**inputs), 4, [knockout("G !-> A")])


def test_a_rule_and_keywords_are_too_much() -> None:
    with pytest.raises(HookError, match="expected a rule alone, got 'G !-> V' and keywords"):
        knockout("G !-> V", layers=[3])
    with pytest.raises(HookError, match="expected query= and key=, or a rule"):
        knockout(query="generated")
    with pytest.raises(HookError, match="expected query= and key=, or a rule"):
        knockout()


@pytest.mark.parametrize("what", ["layers", "heads"])
@pytest.mark.parametrize("make", [knockout, scale_attention])
def test_no_layers_or_heads_are_refused_at_once(what: str, make: Any) -> None:
    more = {"factor": 2.0} if make is scale_attention else {}
    for given in ([], [-1], [0, -2]):
        with pytest.raises(HookError, match=rf"expected {what} counted from 0, got"):
            make(query="generated", key="video", **{what: given}, **more)


@pytest.mark.parametrize(
    ("rule", "text"),
    [
        ("G !-> V @ 3-4", r"hook of this 4-layer model, got 'blocks.4.attn.hook_attn_scores'"),
        ("G !-> V H4", r"expected heads from 0 to 3, got \[4\]"),
        ("G !-> V @ 1 H2-5", r"expected heads from 0 to 3, got \[4, 5\]"),
        ("last !-> V @ 9", r"got 'blocks.9.attn.hook_attn_scores'"),
        ("last !-> V H9", r"expected heads from 0 to 3, got \[9\]"),
    ],
)
def test_layers_and_heads_that_are_not_there(
    omni: HookedOmni, prompt: EmbeddedPrompt, passes: list[int], rule: str, text: str
) -> None:
    model, cut = omni.model, knockout(rule)
    for run in (
        lambda: model.generate(prompt, 4, [cut]),
        lambda: model.generate_many(prompt, [[], [cut]], 4),
        lambda: model.score_many(prompt, torch.tensor([1, 2]), [[], [cut]]),
    ):
        with pytest.raises(HookError, match=text):
            run()
    if rule.startswith("last"):
        with pytest.raises(HookError, match=text):
            model.run_with_hooks(prompt, fwd_hooks=[knockout("A !-> V"), cut])
    assert passes == []


# --- causality, and nothing left to read -----------------------------------------------------


@pytest.mark.parametrize("make", ["knockout", "scale 0", "scale 2"])
@pytest.mark.parametrize(
    ("query", "key"), [("question", "audio"), ("last", "generated"), ("frame 0", "frame 2")]
)
def test_reading_forward_is_no_reading(
    omni: HookedOmni, prompt: EmbeddedPrompt, passes: list[int], make: str, query: str, key: str
) -> None:
    with pytest.raises(HookError, match=rf"expected '{key}' to start before '{query}' ends.*Swap"):
        omni.model.generate(prompt, 4, [made(make, query, key)])
    assert passes == []


def made(make: str, query: str, key: str) -> Any:
    if make == "knockout":
        return knockout(query=query, key=key)
    return scale_attention(query=query, key=key, factor=float(make.removeprefix("scale ")))


@pytest.mark.parametrize("make", ["knockout", "scale 0"])
@pytest.mark.parametrize("padding", [0, PADDING])
@pytest.mark.parametrize(
    ("query", "key", "position"),
    [
        ("question", "text", 25),
        ("prompt", "prompt", 0),
        ("last", "prompt", 143),
        ("generated", "prompt+generated", 144),
        ("last+generated", "text+audio+video", 143),
        ("markup", "markup", 0),
    ],
)
def test_a_row_keeps_something_to_read(
    omni: HookedOmni,
    clips: dict,
    passes: list[int],
    make: str,
    padding: int,
    query: str,
    key: str,
    position: int,
) -> None:
    inputs = left_padded(omni, clips["omni", "audio in video"], padding)
    padded = omni.embed_inputs(**inputs)
    text = f"expected every '{query}' position to keep .* got position {position + padding} with"
    with pytest.raises(HookError, match=text.replace("+g", r"\+g").replace("+t", r"\+t")):
        omni.model.generate(padded, 4, [made(make, query, key)])
    assert passes == []


@pytest.mark.parametrize("padding", [0, PADDING])
def test_what_is_just_enough_to_read_is_read(omni: HookedOmni, clips: dict, padding: int) -> None:
    """A generated position reads itself, and a scaled row is never empty."""
    inputs = left_padded(omni, clips["omni", "audio in video"], padding)
    padded = omni.embed_inputs(**inputs)
    rows: list[Tensor] = []
    watch = (names.pattern(1), lambda pattern, hook: rows.append(pattern[0, :, -1]))
    omni.model.generate(padded, 2, [knockout("G !-> prompt"), watch], stop_at_eos=False)
    alone = torch.zeros_like(rows[-1])
    alone[:, -1] = 1
    bits_equal(rows[-1], alone)
    scale = scale_attention(query="last", key="prompt", factor=0.5)
    clean = omni.model(padded)[:, -1]
    torch.testing.assert_close(
        omni.model.run_with_hooks(padded, fwd_hooks=[scale])[:, -1], clean, rtol=0, atol=1e-5
    )


@pytest.mark.parametrize("padding", [0, PADDING])
def test_two_knockouts_that_together_leave_nothing(
    omni: HookedOmni, clips: dict, padding: int
) -> None:
    inputs = left_padded(omni, clips["omni", "audio in video"], padding)
    model, padded = omni.model, omni.embed_inputs(**inputs)
    n = padded.n_pos
    of_prompt = [knockout("last !-> A+V @ 2"), knockout("last !-> text @ 2")]
    of_answer = [knockout("G !-> prompt @ 1"), knockout("G !-> G @ 1")]
    for one in of_prompt:
        model.run_with_hooks(padded, fwd_hooks=[one])
    text = r"expected every query to keep a key .* 'blocks.2.attn.hook_attn_scores' for position "
    with pytest.raises(HookError, match=rf"{text}{n - 1}\."):
        model.run_with_hooks(padded, fwd_hooks=of_prompt)
    with pytest.raises(HookError, match=rf"{text}{n - 1}\."):
        model.generate_many(padded, [of_prompt, [], of_prompt[:1]], 4)
    text = text.replace("2", "1")
    for run in (
        lambda: model.generate(padded, 4, of_answer),
        lambda: model.generate_many(padded, [[], of_answer, of_answer[:1]], 4),
        lambda: model.score_many(padded, torch.tensor([3, 4]), [[], of_answer]),
    ):
        with pytest.raises(HookError, match=rf"{text}{n}\."):
            run()
    assert [name for name, point in model.hook_dict.items() if point.has_hooks()] == []


def test_two_scalings_to_nothing_that_together_leave_nothing(
    omni: HookedOmni, prompt: EmbeddedPrompt
) -> None:
    both = [
        scale_attention(query="last", key=key, factor=0.0, layers=[2])
        for key in ("audio+video", "text")
    ]
    with pytest.raises(HookError, match=r"got NaN .* Edited here: \['blocks.2.attn.hook_pattern'"):
        omni.model.run_with_hooks(prompt, fwd_hooks=both)


# --- scaled attention ------------------------------------------------------------------------


@pytest.mark.parametrize("cut", [OMNI_CUTS[i] for i in (0, 3, 5, 8, 10, 11)], ids=lambda c: c.rule)
def test_scaling_to_zero_is_a_knockout(omni: HookedOmni, prompt: EmbeddedPrompt, cut: Cut) -> None:
    what: Any = dict(query=cut.query, key=cut.key, layers=cut.layers, heads=cut.heads)
    rows: dict[str, list[Tensor]] = {}
    for label, edit in (("cut", knockout(**what)), ("scaled", scale_attention(**what, factor=0.0))):
        kept = rows.setdefault(label, [])
        watch = [
            (names.pattern(layer), lambda pattern, hook, kept=kept: kept.append(pattern.clone()))
            for layer in range(4)
        ]
        made = omni.model.generate(
            prompt, STEPS, [edit, *watch], stop_at_eos=False, return_logits=True
        )
        assert made.logits is not None
        kept += [made.logits[0], made.logits[-1]]
    for cut_row, scaled_row in zip(rows["cut"][:-2], rows["scaled"][:-2], strict=True):
        torch.testing.assert_close(scaled_row, cut_row, rtol=0, atol=1e-6)
        torch.testing.assert_close(scaled_row.sum(-1), torch.ones(scaled_row.shape[:-1]))
    for cut_row, scaled_row in zip(rows["cut"][-2:], rows["scaled"][-2:], strict=True):
        torch.testing.assert_close(scaled_row, cut_row, rtol=0, atol=1e-5)


@pytest.mark.parametrize("factor", [0.25, 3.0, 1e6])
def test_scaling_multiplies_the_odds(
    omni: HookedOmni, prompt: EmbeddedPrompt, factor: float
) -> None:
    name = names.pattern(2)
    scale = scale_attention(query="audio", key="video", factor=factor, layers=[2], heads=[1, 3])
    _, before = omni.model.run_with_cache(prompt, names_filter=name)
    _, after = omni.model.run_with_cache(prompt, names_filter=name, fwd_hooks=[scale])
    video, audio = prompt.spans["video"], prompt.spans["audio"]
    expected = before[name].clone()
    for head in (1, 3):
        for query in audio.tolist():
            row = expected[0, head, query]
            row[video] *= factor
            row /= row.sum()
    torch.testing.assert_close(after[name], expected, rtol=1e-5, atol=1e-7)
    untouched = torch.ones_like(expected, dtype=torch.bool)
    untouched[0, torch.tensor([1, 3])[:, None], audio] = False
    bits_equal(after[name][untouched], before[name][untouched])
    torch.testing.assert_close(after[name].sum(-1), torch.ones(after[name].shape[:-1]))
    share = before[name][0, 1, audio[-1], video].sum()
    scaled = after[name][0, 1, audio[-1], video].sum()
    torch.testing.assert_close(
        scaled / (1 - scaled), factor * share / (1 - share), rtol=1e-2, atol=0
    )


def test_scaling_by_one_is_rounding(omni: HookedOmni, prompt: EmbeddedPrompt) -> None:
    scale = scale_attention(query="generated+text", key="video", factor=1.0)
    made = [
        omni.model.generate(prompt, STEPS, hooks, stop_at_eos=False, return_logits=True)
        for hooks in ([scale], [])
    ]
    torch.testing.assert_close(made[0].logits, made[1].logits, rtol=0, atol=1e-5)
    assert torch.equal(made[0].tokens, made[1].tokens)


@pytest.mark.parametrize("factor", [-0.5, float("inf"), float("nan"), -1e-9])
def test_a_factor_that_is_none(factor: float) -> None:
    with pytest.raises(HookError, match="expected a factor of at least 0, got "):
        scale_attention(query="last", key="audio", factor=factor)
