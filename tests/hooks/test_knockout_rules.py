"""A rule is what its keywords say, windows are the paper's, and what could not act is refused."""

import re
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor

from hooked_omni import EmbeddedPrompt, HookedOmni, knockout, names, scale_attention, windows
from hooked_omni.errors import HookError, SpanError
from tests.support.cuts import every_cut
from tests.support.models import CLIP_OF, left_padded
from tests.support.runs import bits_equal, close, hooks_left, unstopped

PADDING = 5
SCALE_0 = partial(scale_attention, factor=0.0)


def test_windows_of_the_papers_figure():
    paper = windows(36, width=9, edges="paper")
    assert [(w.start + w.stop - 1) // 2 for w in paper] == list(range(4, 31, 2))
    assert all(len(w) == 9 for w in paper)
    assert paper[0] == range(0, 9) and paper[-1] == range(26, 35)
    assert [w.start for w in windows(28, edges="paper")] == list(range(0, 19, 2))
    assert windows(35, edges="paper")[-1] == range(24, 33)  # one more would end in the last layer
    assert [w.start for w in windows(36, step=6, edges="paper")] == [0, 6, 12, 18, 24]


def test_windows_that_are_cut_off_at_the_ends():
    assert windows(4, width=3) == [range(0, 2), range(0, 3), range(1, 4), range(2, 4)]
    assert windows(7, width=5, step=3) == [range(0, 3), range(1, 6), range(4, 7)]
    assert windows(3, width=1) == [range(0, 1), range(1, 2), range(2, 3)]
    assert len(windows(36)) == 36
    assert windows(36)[18] == range(14, 23)


@pytest.mark.parametrize(("width", "step"), [(2, 1), (0, 1), (-1, 1), (5, 1), (3, 0), (3, -1)])
def test_windows_that_do_not_fit(width, step):
    text = rf"expected an odd width from 1 to 4 and a step .* got width {width} and step {step}"
    with pytest.raises(HookError, match=text):
        windows(4, width, step)


def test_windows_of_which_none_is_whole_or_known(as_installed):
    """A sweep over no window would pass for one in which nothing mattered."""
    with pytest.raises(HookError, match="more than 9 layers for whole windows, got 9"):
        windows(9, width=9, edges="paper")
    edges: Any = "round"
    with pytest.raises(HookError, match="got 'round'"):
        windows(4, 3, edges=edges)


@pytest.fixture(params=[0, PADDING])
def padded(request: pytest.FixtureRequest, omni: HookedOmni, clips: dict) -> EmbeddedPrompt:
    return omni.embed_inputs(**left_padded(omni, clips["omni", "audio in video"], request.param))


def cells(omni: HookedOmni, prompt: EmbeddedPrompt, edit: Any) -> list[Any]:
    """What a knockout's hooks cut, and in which layers."""
    return [
        [*omni.model.named(name), hook.heads, hook.act.heads]
        + [(where.prompt.tolist(), where.after) for where in (hook.where, hook.act.keys)]
        for name, hook in edit(prompt.spans)
    ]


@every_cut
def test_the_notation_is_the_keywords(models, clips, name, cut):
    omni = models[name]
    prompt = omni.embed_inputs(**clips[name, CLIP_OF[name]])
    layers, heads = (None if n == (0, 1, 2, 3) else n for n in (cut.layers, cut.heads))
    keywords = knockout(query=cut.query, key=cut.key, layers=layers, heads=heads)
    found = cells(omni, prompt, knockout(cut.rule))
    assert found == cells(omni, prompt, keywords)
    named = [name for cell in found for name in cell if isinstance(name, str)]
    assert named == [names.attn_scores(layer) for layer in cut.layers]


@pytest.mark.parametrize(
    "rule", ["G!->V @ 1-2 H1,3", "  G !-> V  @  2,1  H3,1 ", "G !-> V @1 - 2 H1, 3"]
)
def test_spaces_and_order_mean_nothing(omni, prompt, rule):
    same = knockout("G !-> V @ 1-2 H1,3")
    assert cells(omni, prompt, knockout(rule)) == cells(omni, prompt, same)


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
def test_a_rule_that_cannot_be_read_says_where(rule, text):
    with pytest.raises(HookError, match=text):
        knockout(rule)


def test_a_prompt_without_sound_has_no_audio_to_cut(models, clips):
    for name in ("vl", "omni"):
        prompt = models[name].embed_inputs(**clips[name, "video"])
        with pytest.raises(SpanError, match="'audio'"):
            models[name].model.generate(prompt, max_new_tokens=4, fwd_hooks=[knockout("G !-> A")])


def test_a_rule_and_keywords_are_too_much():
    with pytest.raises(HookError, match="expected a rule alone, got 'G !-> V' and keywords"):
        knockout("G !-> V", layers=[3])
    with pytest.raises(HookError, match="expected query= and key=, or a rule"):
        knockout(query="generated")
    with pytest.raises(HookError, match="expected query= and key=, or a rule"):
        knockout()


@pytest.mark.parametrize("what", ["layers", "heads"])
@pytest.mark.parametrize("make", [knockout, scale_attention])
def test_no_layers_or_heads_are_refused_at_once(as_installed, what, make):
    more = {"factor": 2.0} if make is scale_attention else {}
    counted, listed = f"{what} counted from 0, got", f"a list of {what}, got"
    bad: Any = {counted: ([], [-1], [0, -2], [True], [1.9]), listed: ("13", 3)}
    for text, given in [(text, given) for text, each in bad.items() for given in each]:
        with pytest.raises(HookError, match=f"expected {text}"):
            make(query="generated", key="video", **{what: given}, **more)


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
        ("G !-> V @ 3-4", r"hook of this 4-layer model, got 'blocks.4.attn.hook_attn_scores'"),
        ("G !-> V H4", r"expected heads from 0 to 3, got \[4\]"),
        ("G !-> V @ 1 H2-5", r"expected heads from 0 to 3, got \[4, 5\]"),
        ("last !-> V @ 9", r"got 'blocks.9.attn.hook_attn_scores'"),
        ("last !-> V H9", r"expected heads from 0 to 3, got \[9\]"),
    ],
)
def test_spans_layers_and_heads_that_are_not_there(omni, prompt, passes, rule, text):
    model, cut = omni.model, knockout(rule)
    runs = [
        lambda: model.generate(prompt, max_new_tokens=4, fwd_hooks=[cut]),
        lambda: model.generate_many(prompt, [[], [cut]], max_new_tokens=4),
        lambda: model.score(prompt, torch.tensor([1, 2]), [[], [cut]]),
    ]
    if rule.startswith("last"):
        runs.append(lambda: model.run_with_hooks(prompt, fwd_hooks=[knockout("A !-> V"), cut]))
    for run in runs:
        with pytest.raises((HookError, SpanError), match=text):
            run()
    assert passes == []


@pytest.mark.parametrize("make", [knockout, SCALE_0, partial(scale_attention, factor=2.0)])
@pytest.mark.parametrize(
    ("query", "key"), [("question", "audio"), ("last", "generated"), ("frame 0", "frame 2")]
)
def test_reading_forward_is_no_reading(omni, prompt, passes, make, query, key):
    with pytest.raises(HookError, match=rf"expected '{key}' to start before '{query}' ends.*Swap"):
        omni.model.generate(prompt, max_new_tokens=4, fwd_hooks=[make(query=query, key=key)])
    assert passes == []


@pytest.mark.parametrize("make", [knockout, SCALE_0])
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
def test_a_row_keeps_something_to_read(omni, padded, passes, make, query, key, position):
    at = position + padded.n_pos - 144
    text = f"expected every '{re.escape(query)}' position to keep .* got position {at} with"
    with pytest.raises(HookError, match=text):
        omni.model.generate(padded, max_new_tokens=4, fwd_hooks=[make(query=query, key=key)])
    assert passes == []


def test_what_is_just_enough_to_read_is_read(omni, padded):
    """A generated position reads itself, and a scaled row is never empty."""
    rows: list[Tensor] = []
    watch = (names.pattern(1), lambda pattern, hook: rows.append(pattern[0, :, -1]))
    omni.model.generate(padded, unstopped(2), [knockout("G !-> prompt"), watch])
    alone = torch.zeros_like(rows[-1])
    alone[:, -1] = 1
    bits_equal(rows[-1], alone)
    scale = scale_attention(query="last", key="prompt", factor=0.5)
    clean = omni.model(padded)[:, -1]
    close(omni.model.run_with_hooks(padded, fwd_hooks=[scale])[:, -1], clean)


def test_two_knockouts_that_together_leave_nothing(omni, padded):
    model, n = omni.model, padded.n_pos
    of_prompt = [knockout("last !-> A+V @ 2"), knockout("last !-> text @ 2")]
    of_answer = [knockout("G !-> prompt @ 1"), knockout("G !-> G @ 1")]
    for one in of_prompt:
        model.run_with_hooks(padded, fwd_hooks=[one])
    text = r"expected every query to keep a key .* 'blocks.2.attn.hook_attn_scores' for position "
    later, sweep = text.replace("2", "1") + rf"{n}\.", [[], of_answer, of_answer[:1]]
    text += rf"{n - 1}\."
    for expected, run in (
        (text, lambda: model.run_with_hooks(padded, fwd_hooks=of_prompt)),
        (text, lambda: model.generate_many(padded, [of_prompt, []], max_new_tokens=4)),
        (later, lambda: model.generate(padded, max_new_tokens=4, fwd_hooks=of_answer)),
        (later, lambda: model.generate_many(padded, sweep, max_new_tokens=4)),
        (later, lambda: model.score(padded, torch.tensor([3, 4]), [[], of_answer])),
    ):
        with pytest.raises(HookError, match=expected):
            run()
    assert hooks_left(model) == []


def test_two_scalings_to_nothing_that_together_leave_nothing(omni, prompt):
    keys = ("audio+video", "text")
    both = [scale_attention(query="last", key=key, factor=0.0, layers=[2]) for key in keys]
    with pytest.raises(HookError, match=r"got NaN .* Edited here: \['blocks.2.attn.hook_pattern'"):
        omni.model.run_with_hooks(prompt, fwd_hooks=both)


@pytest.mark.parametrize("factor", [-0.5, float("inf"), float("nan"), -1e-9])
def test_a_factor_that_is_none(factor):
    with pytest.raises(HookError, match="expected a factor of at least 0, got "):
        scale_attention(query="last", key="audio", factor=factor)
