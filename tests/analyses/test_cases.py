"""A case that was made ready is embedded and passed over once, whatever is asked of it."""

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from pandas.testing import assert_frame_equal

from analyses import (
    attention_share,
    distribution_shift,
    knockout,
    logit_lens,
    modality_reliance,
)
from analyses.cases import Case, Skip, door, plain_answer, ready
from analyses.running.identity import KeptPrompts
from hooked_omni import HookedOmni, MediaSettings, Prompt, load, names
from hooked_omni.decoding.prefill import PrefilledPrompt
from tests.support.clips import write_clip
from tests.support.models import watched

LONG = 6
SMALL = MediaSettings(min_pixels=2 * 2 * 28 * 28, max_pixels=3 * 3 * 28 * 28)


@pytest.fixture(scope="module")
def film(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_clip(tmp_path_factory.mktemp("clips") / "film.mp4")


@pytest.fixture
def case(film: Path) -> Case:
    prompt = Prompt("Describe what you hear.", video=film, media=SMALL)
    return Case(prompt, "film", audio_captions=("a dog",), video_captions=("a red bus",))


@pytest.fixture
def endless(omni: HookedOmni, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(omni.model.cfg, "eos_tokens", ())


@pytest.fixture
def passes(omni: HookedOmni) -> Iterator[list[tuple[int, ...]]]:
    """Rows and positions of each pass."""
    seen: list[tuple[int, ...]] = []
    block: Any = omni.model.blocks[0]
    with watched(block, lambda args: seen.append(args[0].shape[:2])):
        yield seen


Way = Callable[[Case], pd.DataFrame]


@pytest.fixture
def every(omni: HookedOmni, vl: HookedOmni, endless: None) -> dict[str, Way]:
    """Each analysis, of answers of the same length."""
    shares = attention_share.Config(LONG, heads=True, tokens=True)
    apart = attention_share.Config(LONG, sinks="apart")
    cut = knockout.Config(max_new_tokens=LONG)
    moved = distribution_shift.Config(LONG)
    rests = modality_reliance.Config(max_new_tokens=LONG, tokens=True)
    return {
        "share": lambda case: attention_share.run(omni, [case], shares),
        "sinks": lambda case: attention_share.run(omni, [case], apart),
        "lens": lambda case: logit_lens.run(omni, [case]),
        "knockout": lambda case: knockout.run(omni, [case], cut),
        "shift": lambda case: distribution_shift.run(omni, [case], moved, base=vl),
        "reliance": lambda case: modality_reliance.run(omni, [case], rests),
    }


def test_a_ready_case_is_the_same_case_at_the_door(omni: HookedOmni, case: Case) -> None:
    made = ready(omni, case)
    assert made.prompt is case.prompt and made.keys == case.keys
    at_door = door(omni, made, "audio", "video")
    assert isinstance(at_door, PrefilledPrompt) and at_door.state is not None
    plain = door(omni, case)
    assert at_door.tokens.tolist() == plain.tokens.tolist()
    assert at_door.state.kept[names.resid_post(0)].tolist() == plain.spans["audio"].tolist()
    again = ready(omni, made)
    assert again.at_door is made.at_door


def test_another_model_embeds_the_prompt_anew(omni: HookedOmni, case: Case) -> None:
    made, other = ready(omni, case), load("random-omni")
    assert door(other, made) is not made.at_door
    assert (door(other, made).embeds == door(other, case).embeds).all()


def test_another_prompt_in_the_same_case_is_embedded_anew(omni: HookedOmni, case: Case) -> None:
    made = ready(omni, case)
    see = Prompt("Describe what you see, briefly.", video=case.prompt.video, media=SMALL)  # pyright: ignore[reportAttributeAccessIssue]
    other = replace(made, prompt=see)
    assert door(omni, other).tokens.tolist() == omni.embed(see).tokens.tolist()
    again = ready(omni, other)
    assert door(omni, again).tokens.tolist() == omni.embed(see).tokens.tolist()


def test_a_clip_that_cannot_be_read_is_skipped(omni: HookedOmni) -> None:
    with pytest.raises(Skip, match="got no file"):
        ready(omni, Case(Prompt("What?", video="nowhere.mp4"), "nowhere"))


def test_an_answer_is_given_once(
    omni: HookedOmni,
    case: Case,
    endless: None,
    passes: list[tuple[int, ...]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    made, loud = ready(omni, case), [(names.resid_mid(1), lambda resid, hook: resid * 5)]
    prompt, model = door(omni, made), omni.model
    with model.hooks(loud):  # what stands on the model is neither remembered nor passed by
        other = plain_answer(omni, made, prompt, LONG).tokens.tolist()
    first = plain_answer(omni, made, prompt, LONG)
    assert (
        first.tokens.tolist()
        == model.generate(door(omni, case), max_new_tokens=LONG).tokens.tolist()
    )
    passes.clear()
    assert plain_answer(omni, ready(omni, made), prompt, LONG) is first
    assert passes == []
    with model.hooks(loud):
        assert (
            plain_answer(omni, made, prompt, LONG).tokens.tolist() == other != first.tokens.tolist()
        )
    assert len(plain_answer(omni, made, prompt, LONG + 1).tokens) == LONG + 1
    end = int(first.tokens[1])
    monkeypatch.setattr(model.cfg, "eos_tokens", (end,))
    n_until = first.tokens.tolist().index(end) + 1
    assert len(plain_answer(omni, made, prompt, LONG).tokens) == n_until < LONG
    see = replace(made, prompt=Prompt("What is seen?", video=case.prompt.video, media=SMALL))  # pyright: ignore[reportAttributeAccessIssue]
    assert plain_answer(omni, see, door(omni, see), LONG) not in made.answers.values()


# --- every analysis --------------------------------------------------------------------------


def test_what_is_shared_changes_no_number_in_any_order(
    omni: HookedOmni, every: dict[str, Way], case: Case
) -> None:
    alone = {name: way(case) for name, way in every.items()}
    assert all(len(table) and not table.attrs["skipped"] for table in alone.values())
    for order in (list(every), list(every)[::-1]):
        shared = ready(omni, case)
        for name in order:
            assert_frame_equal(every[name](shared), alone[name], check_exact=True)


def test_the_prompt_is_passed_over_once_and_answered_once(
    omni: HookedOmni, every: dict[str, Way], case: Case, passes: list[tuple[int, ...]]
) -> None:
    shared = ready(omni, case)
    n_pos = door(omni, shared).n_pos
    assert passes == [(1, n_pos)]
    widths = {}
    for name, way in every.items():
        passes.clear()
        way(shared)
        widths[name] = passes.copy()
    forced, step = (1, LONG - 1), (1, 1)
    assert widths["share"] == [step] * (LONG - 1) + [forced]
    assert widths["sinks"] == widths["shift"] == [forced]
    assert widths["lens"] == []
    assert max(n for _, n in widths["knockout"]) < len("a red bus")
    mute, blank = (w for w in widths["reliance"] if w[1] > LONG)
    assert widths["reliance"] == [forced, mute, forced, blank, forced]
    assert mute[1] <= n_pos and blank[1] <= n_pos


def test_an_analysis_alone_passes_over_the_prompt_once_too(
    omni: HookedOmni, every: dict[str, Way], case: Case, passes: list[tuple[int, ...]]
) -> None:
    for name, way in every.items():
        passes.clear()
        way(case)
        long = [n for _, n in passes if n > len("a red bus")]
        assert len(long) == (3 if name == "reliance" else 1), name


def test_hooks_that_stand_on_the_model_act_on_a_ready_case_too(
    omni: HookedOmni, every: dict[str, Way], case: Case
) -> None:
    shared, plain = ready(omni, case), every["share"](case)
    every["share"](shared)  # its answer is remembered
    with omni.model.hooks([(names.resid_mid(1), lambda resid, hook: resid * 5)]):
        for name in ("share", "sinks", "lens", "shift"):
            assert_frame_equal(every[name](shared), every[name](case), check_exact=True)
        assert set(every["share"](shared)["answer"]) != set(plain["answer"])


def test_only_variants_go_through_the_towers_behind_kept_prompts(
    omni: HookedOmni,
    every: dict[str, Way],
    case: Case,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    kept, shown, embed = KeptPrompts(omni, tmp_path), [], HookedOmni.embed_media
    monkeypatch.setattr(
        HookedOmni, "embed_media", lambda self, *given: shown.append(given) or embed(self, *given)
    )
    config = modality_reliance.Config(max_new_tokens=LONG, tokens=True)
    tables = []
    for _ in range(2):
        tables.append(modality_reliance.run(kept, [case], config))
    assert len(shown) == 3 + 2  # intact once, muted and blank twice
    for table in tables:
        assert_frame_equal(table, every["reliance"](case), check_exact=True)
