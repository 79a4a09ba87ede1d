"""A prefilled case is embedded and passed over once, whichever analyses run on it."""

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
from pandas.testing import assert_frame_equal

from analyses import (
    attention_share,
    captions,
    distribution_shift,
    knockout,
    logit_lens,
    modality_reliance,
)
from analyses.cases import Case, embedded, plain_answer, prefilled, read_cases, tabulate
from analyses.running.identity import KeptPrompts
from analyses.running.results import gather, write_table
from data_prep.manifest import Sample, write_manifest
from hooked_omni import HookedOmni, Prompt, load, names
from hooked_omni.decoding.prefill import PrefilledPrompt
from hooked_omni.errors import ResultsError
from hooked_omni.hf.towers import Towers
from hooked_omni.inputs.media import MediaSettings
from tests.support.clips import write_clip
from tests.support.models import watched

LONG = 6
SMALL = MediaSettings(min_pixels=2 * 2 * 28 * 28, max_pixels=3 * 3 * 28 * 28)
RESTS = modality_reliance.Config(max_new_tokens=LONG, tokens=True)

Way = Callable[[Case], pd.DataFrame]
Passes = list[tuple[int, ...]]


@pytest.fixture(scope="module")
def case(tmp_path_factory: pytest.TempPathFactory) -> Case:
    film = write_clip(tmp_path_factory.mktemp("clips") / "film.mp4")
    prompt = Prompt("Describe what you hear.", video=film, media=SMALL)
    return Case(prompt, "film", audio_captions=("a dog",), video_captions=("a red bus",))


@pytest.fixture(scope="module")
def passes(omni: HookedOmni) -> Iterator[Passes]:
    """Rows and positions of each pass."""
    seen: Passes = []
    block: Any = omni.model.blocks[0]
    with watched(block, lambda args: seen.append(args[0].shape[:2])):
        yield seen


@pytest.fixture(scope="module")
def every(omni: HookedOmni, vl: HookedOmni) -> Iterator[dict[str, Way]]:
    """Each analysis, of answers of the same length."""
    shares = attention_share.Config(LONG, heads=True, tokens=True)
    apart = attention_share.Config(LONG, sinks="apart")
    cut, moved = knockout.Config(max_new_tokens=LONG), distribution_shift.Config(LONG)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(omni.model.cfg, "eos_tokens", ())
        yield {
            "share": lambda case: attention_share.run(omni, [case], shares),
            "sinks": lambda case: attention_share.run(omni, [case], apart),
            "lens": lambda case: logit_lens.run(omni, [case]),
            "knockout": lambda case: knockout.run(omni, [case], cut),
            "shift": lambda case: distribution_shift.run(omni, [case], moved, base=vl),
            "reliance": lambda case: modality_reliance.run(omni, [case], RESTS),
        }


@pytest.fixture(scope="module")
def alone(every: dict[str, Way], case: Case, passes: Passes) -> dict[str, tuple[Any, Passes]]:
    """The table of each analysis of the case that nothing is known of, and its passes."""
    made = {}
    for name, way in every.items():
        passes.clear()
        made[name] = way(case), passes.copy()
    return made


def test_a_prefilled_case_is_the_same_case_embedded(omni: HookedOmni, case: Case) -> None:
    made = prefilled(omni, case)
    assert made.prompt is case.prompt and made.keys == case.keys
    prompt = embedded(omni, made, "audio", "video")
    assert isinstance(prompt, PrefilledPrompt) and prompt.state is not None
    plain = embedded(omni, case)
    assert prompt.tokens.tolist() == plain.tokens.tolist()
    assert prompt.state.kept[names.resid_post(0)].tolist() == plain.spans["audio"].tolist()
    assert prefilled(omni, made).prefilled_prompt is made.prefilled_prompt
    other = load("random-omni")  # another model embeds the prompt anew
    assert embedded(other, made) is not prompt
    assert (embedded(other, made).embeds == embedded(other, case).embeds).all()


def test_another_prompt_in_the_same_case_is_embedded_anew(omni: HookedOmni, case: Case) -> None:
    see: Any = replace(case.prompt, text="Describe what you see, briefly.")  # pyright: ignore[reportCallIssue]
    other = replace(prefilled(omni, case), prompt=see)
    for one in (other, prefilled(omni, other)):
        assert embedded(omni, one).tokens.tolist() == omni.embed(see).tokens.tolist()


def test_an_answer_is_generated_once(
    omni: HookedOmni, every: Any, case: Case, passes: Passes, monkeypatch: pytest.MonkeyPatch
) -> None:
    made, loud = prefilled(omni, case), [(names.resid_mid(1), lambda resid, hook: resid * 5)]
    prompt, model = embedded(omni, made), omni.model

    def answer() -> list[int]:
        return plain_answer(omni, made, prompt, LONG).tokens.tolist()

    with model.hooks(loud):  # what stands on the model is neither remembered nor left out
        other = answer()
    first = plain_answer(omni, made, prompt, LONG)
    plain = model.generate(embedded(omni, case), max_new_tokens=LONG)
    assert answer() == plain.tokens.tolist() != other
    passes.clear()
    assert plain_answer(omni, prefilled(omni, made), prompt, LONG) is first
    assert passes == []
    with model.hooks(loud):
        assert answer() == other
    assert len(plain_answer(omni, made, prompt, LONG + 1).tokens) == LONG + 1
    end = int(first.tokens[1])
    monkeypatch.setattr(model.cfg, "eos_tokens", (end,))
    assert len(answer()) == first.tokens.tolist().index(end) + 1 < LONG
    see: Any = replace(case.prompt, text="What is seen?")  # pyright: ignore[reportCallIssue]
    seen = replace(made, prompt=see)
    assert plain_answer(omni, seen, embedded(omni, seen), LONG) not in made.answers.values()


def test_what_is_shared_changes_no_number_and_the_prompt_is_passed_over_once(
    omni: HookedOmni, every: dict[str, Way], alone: dict[str, Any], case: Case, passes: Passes
) -> None:
    for order in (list(every), list(every)[::-1]):
        passes.clear()
        shared, widths = prefilled(omni, case), {}
        n_pos = embedded(omni, shared).n_pos
        assert passes == [(1, n_pos)]
        for name in order:
            passes.clear()
            table, expected = every[name](shared), alone[name][0]
            widths[name] = passes.copy()
            assert len(table) and not table.attrs["skipped"]
            assert_frame_equal(table, expected, check_exact=True)
        steps, forced = [(1, 1)] * (LONG - 1), [(1, LONG - 1)]
        answered = "share" if order[0] == "share" else "reliance"
        for name in ("share", "sinks"):
            assert widths[name] == steps * (name == answered) + forced
        assert widths["lens"] == widths["shift"] == []  # read, and remembered with the answer
        assert max(n for _, n in widths["knockout"]) < len("a red bus")
        mute, blank = ([w] for w in widths["reliance"] if w[1] > LONG)
        rests = [*forced, *mute, *blank]  # a variant and the answer after it, in one pass
        assert widths["reliance"] == steps * (answered == "reliance") + rests
        assert max(mute[0][1], blank[0][1]) <= n_pos + LONG - 1


def test_an_analysis_alone_passes_over_the_prompt_once_too(alone: dict[str, Any]) -> None:
    for name, (_, passes) in alone.items():
        long = [n for _, n in passes if n > len("a red bus")]
        assert len(long) == (3 if name == "reliance" else 1), name


def test_hooks_that_stand_on_the_model_act_on_a_prefilled_case_too(
    omni: HookedOmni, every: dict[str, Way], alone: dict[str, Any], case: Case
) -> None:
    shared = prefilled(omni, case)
    every["share"](shared)  # its answer is remembered
    with omni.model.hooks([(names.resid_mid(1), lambda resid, hook: resid * 5)]):
        for name in ("share", "sinks", "lens", "shift"):
            assert_frame_equal(every[name](shared), every[name](case), check_exact=True)
        assert set(every["share"](shared)["answer"]) != set(alone["share"][0]["answer"])


def test_only_variants_go_through_the_towers_after_kept_prompts(
    omni: HookedOmni, alone: dict, case: Case, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept, given, embed = KeptPrompts(omni, tmp_path), [], Towers.embed_media
    monkeypatch.setattr(
        Towers, "embed_media", lambda self, *media: given.append(media) or embed(self, *media)
    )
    tables = [modality_reliance.run(kept, [case], RESTS) for _ in range(2)]
    assert len(given) == 3 + 2  # intact once, muted and blank twice
    for table in tables:
        assert_frame_equal(table, alone["reliance"][0], check_exact=True)


def test_twins_travel_from_the_manifest_into_every_table(tmp_path: Path) -> None:
    omni = load("random-omni")
    samples = [
        Sample("dog", video="dog.mp4"),
        Sample("dog+rain", "counterfactual", video="dog.mp4", audio="rain.mp4", twin="dog"),
        Sample("cat+dog", "counterfactual", video="cat.mp4", audio="dog.mp4"),
    ]
    cases = read_cases(write_manifest(tmp_path / "m.jsonl", samples), ("see", "hear"))
    assert [case.twin for case in cases] == [None, None, "dog", "dog", None, None]
    for i, case in enumerate(cases):
        table = tabulate(omni, lambda _: [{"x": 1}], [case], ["x"])
        write_table(tmp_path / f"{i}", table, "any")
    whole = gather({tmp_path / f"{i}": {} for i in range(len(cases))})
    assert len(whole) == 6 and whole.attrs["twins"] == {"dog+rain": "dog"}


def test_other_words_and_another_system_prompt(tmp_path: Path) -> None:
    samples = [Sample("a", video="a.mp4")]
    manifest = write_manifest(tmp_path / "m.jsonl", samples)
    (case,) = read_cases(manifest, wording={"hear": "What sounds?"}, system="Be brief.")
    prompt: Any = case.prompt
    assert (prompt.text, prompt.system, case.question) == ("What sounds?", "Be brief.", "hear")
    with pytest.raises(
        ResultsError, match=r"expected words for questions among .* for \['smell'\]"
    ):
        read_cases(manifest, wording={"smell": "What smells?"})


def test_order_and_items_of_a_manifest_become_prompts(tmp_path: Path, models: dict) -> None:
    items = (("image", "a.png"), ("audio", "b.wav"))
    own = Sample("own", items=(*items, ("text", "What is it?")))
    samples = [Sample("clip", video="v.mp4", audio="w.wav"), Sample("both", items=items)]
    path = write_manifest(tmp_path / "m.jsonl", samples)
    media = [("video", tmp_path / "v.mp4", tmp_path / "w.wav")]
    listed = [(kind, tmp_path / one) for kind, one in items]
    words = ("text", "Describe what you hear.")
    plain, both = (case.prompt for case in read_cases(path))
    assert plain == Prompt(words[1], *media[0][1:]) and both == Prompt(items=[words, *listed])
    for order, last in (("text-first", False), ("clip-first", True)):
        prompts = [case.prompt for case in read_cases(path, order=order)]
        for prompt, given in zip(prompts, (media, listed), strict=True):
            assert prompt == Prompt(items=[*given, words] if last else [words, *given])
    with pytest.raises(ResultsError, match=r"expected an order among .* got 'sound-first'"):
        read_cases(path, order="sound-first")
    alone = write_manifest(tmp_path / "own.jsonl", [own])
    asked = Prompt(items=[*listed, ("text", "What is it?")])
    assert [case.prompt for case in read_cases(alone, ["own"])] == [asked]
    for manifest, question in ((alone, "hear"), (path, "own")):
        with pytest.raises(ResultsError, match="'own' for samples with words of their own"):
            read_cases(manifest, [question])
    for order in ("text-first", "clip-first", "sound-first"):
        with pytest.raises(ResultsError, match=f"no order for 'own', whose .* got '{order}'"):
            read_cases(alone, ["own"], order=order)


def test_order_moves_the_question_and_is_in_every_table(
    omni: HookedOmni, case: Case, tmp_path: Path
) -> None:
    given = case.prompt
    assert isinstance(given, Prompt)
    words, clip = given.content
    tables, starts = {}, {}
    for name, items in (("text-first", (words, clip)), ("clip-first", (clip, words))):
        prompt = Prompt(items=items, media=SMALL)
        spans = omni.embed(prompt).spans
        starts[name] = int(spans["question"][0]) < int(spans["video"][0])
        tables[name] = captions.run(omni, [replace(case, prompt=prompt)], captions.Config(LONG))
        assert tables[name].attrs["order"] == name
    assert starts == {"text-first": True, "clip-first": False}
    assert captions.run(omni, [case]).attrs["order"] == "text-first"
    marks = {tmp_path / f"{name}.parquet": {} for name in [*tables, "again"]}
    tables["again"] = tables["clip-first"]
    for path in marks:
        write_table(path, tables[path.stem], "captions")
    for parts in (marks, dict(reversed(marks.items()))):  # of samples with words of their own
        assert gather(parts).attrs["order"] == "clip-first, text-first"
    first = omni.model(omni.embed(given))
    assert torch.equal(omni.model(omni.embed(Prompt(items=(words, clip), media=SMALL))), first)
