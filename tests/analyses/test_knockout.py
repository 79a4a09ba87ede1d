"""The knockout sweep finds the planted layers, says what Hugging Face says, and passes once."""

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

from analyses import knockout
from analyses.cases import Case
from analyses.knockout.figure import measured
from analyses.knockout.table import COLUMNS, chosen_windows
from analyses.plots import published
from analyses.text.references import references, word_logprobs
from hooked_omni import EmbeddedPrompt, HookedOmni
from hooked_omni import knockout as cut_attention
from hooked_omni.decoding.prefill import prefill
from hooked_omni.errors import HookError, ResultsError
from tests.support.hugging_face import Cut, hf_caption, hf_cut, hf_logprobs
from tests.support.models import eager, watched
from tests.support.planted import WORDS, asked, planted

OWN = {word: [word] for word in WORDS}
run: Any = knockout.run  # columns of a frame have no types to check
CONFIG = knockout.Config(own=OWN, max_new_tokens=6)


@pytest.fixture(scope="module")
def model() -> HookedOmni:
    return planted(heard_at=2, seen_at=5)


def case(omni: HookedOmni, heard: str, seen: str, **more: Any) -> Case:
    return Case(
        asked(omni, heard, seen, **more),
        sample=f"{heard} over {seen}",
        kind="factual" if heard == seen else "counterfactual",
        audio_captions=(f"A {heard}.",),
        video_captions=(f"A {seen}.",),
    )


@pytest.fixture(scope="module")
def swept(model: HookedOmni) -> Any:
    pairs = (("dog", "bus"), ("train", "chef"), ("dog", "dog"), ("bus", "bus"))
    return run(model, [case(model, *pair) for pair in pairs], CONFIG)


@pytest.fixture(scope="module")
def panels(swept: Any) -> Any:
    """What the question is makes no difference to a planted model."""
    return pd.concat([swept, swept.assign(question="see")], ignore_index=True)


def cuts(table: Any) -> Any:
    """Rows of knockouts, with the changes that the figure shows."""
    changes = measured(table)
    return changes[changes["key"] != "none"]


def moved(table: Any, column: str, by: float = 0.01) -> set[tuple[str, int]]:
    """Which key and layer moves a measure."""
    rows = cuts(table)
    rows = rows[rows[column].abs() > by]
    return set(zip(rows["key"], rows["first_layer"], strict=True))


def test_the_layers_where_words_move_are_found(swept: Any) -> None:
    table = swept.query("kind == 'counterfactual'")
    assert moved(table, "caption_change") == {("video", 5)}
    assert moved(table, "word_change") == {("video", 5), ("audio", 2)}
    freed = table[(table["key"] == "video") & (table["first_layer"] == 5)]
    assert freed["caption"].tolist() == ["A dog.", "A train."]
    assert freed["heard_found"].tolist() == [1, 1] and freed["seen_found"].tolist() == [0, 0]
    assert freed["n_same"].tolist() == [1, 1]
    others = table.drop(freed.index)
    assert set(others["caption"]) == {"A bus.", "A chef."}
    assert others["heard_found"].sum() == 0 and others["seen_found"].mean() == 1
    assert (others["n_same"] == others["n_tokens"]).all()
    gain = cuts(table).set_index(["key", "first_layer"])["word_change"]
    assert (gain["video", 5] > 1).all() and (gain["audio", 2] < -1).all()


def test_windows_that_cover_the_layer(model: HookedOmni) -> None:
    table = run(model, [case(model, "dog", "bus")], replace(CONFIG, width=3, step=1))
    video, audio = ({(k, first + n) for n in range(3)} for k, first in (("video", 3), ("audio", 0)))
    assert moved(table, "caption_change") == video
    assert moved(table, "word_change") == video | audio


@pytest.mark.parametrize(
    ("heard_at", "seen_at", "expected"),
    [(None, 5, {("video", 5)}), (2, None, {("audio", 2)}), (None, None, set())],
)
def test_nothing_is_found_in_the_twin(heard_at: Any, seen_at: Any, expected: Any) -> None:
    twin = planted(heard_at=heard_at, seen_at=seen_at)
    table = run(twin, [case(twin, "dog", "dog")], CONFIG)
    for measure in ("word_change", "caption_change"):
        assert moved(table, measure, by=1e-4) == expected
    if not expected:
        assert set(table["caption"]) == {"A thing."}
        said = knockout.headline(table)
        assert len(said) == 7
        assert all("in no window" in sentence for sentence in said[1:])


def test_the_first_token_is_out_of_reach_unless_asked_for() -> None:
    early = planted(names_at="last")
    one = [case(early, "dog", "bus")]
    table = run(early, one, replace(CONFIG, own=OWN | {"dog": ["A dog"]}))
    assert set(table["caption"]) == {" bus."}
    assert moved(table, "caption_change", by=1e-4) == set()
    assert table["heard_logprob"].isna().all()  # " dog" would open the answer
    table = run(early, one, replace(CONFIG, query="generated+last"))
    assert moved(table, "caption_change") == {("video", 5)}
    assert table[table["first_layer"] == 5]["caption"].tolist() == [" dog.", " bus."]


def test_other_spans(model: HookedOmni) -> None:
    """Without its silence, the sound is louder on average."""
    one = [case(model, "dog", "bus", heard_when="audio@1.0-2.0s")]
    config = replace(CONFIG, keys=("audio@0.0-1.0s", "audio@1.0-2.0s"))
    rows = cuts(run(model, one, config)).set_index(["key", "first_layer"])["word_change"]
    assert rows["audio@1.0-2.0s", 2] < -0.5 and rows["audio@0.0-1.0s", 2] > 0.5
    assert rows.drop(index=2, level="first_layer").abs().max() < 1e-4


def test_scores_are_hugging_faces(omni: HookedOmni, clips: dict, monkeypatch: Any) -> None:
    inputs = clips["omni", "audio in video"]
    prompt = omni.embed_inputs(**inputs)
    captions = ("Then dogs bark.", "A siren.")
    asked_of = Case(prompt, "a", audio_captions=captions[:1], video_captions=captions[1:])
    monkeypatch.setattr(omni.model.cfg, "eos_tokens", ())
    config = knockout.Config(windows=((0, 0), (1, 3), (2, 3)), max_new_tokens=8)
    table = run(omni, [asked_of], config)
    monkeypatch.undo()
    heard, seen = (references(omni.model.tokenizer, [caption])[0] for caption in captions)
    assert (len(heard.words), len(seen.words)) == (2, 1)  # dogs, bark; siren
    baseline = None
    with eager(omni):
        for row in table.to_dict("records"):
            whole = row["key"] == "none"
            layers = () if whole else tuple(range(row["first_layer"], row["last_layer"] + 1))
            cut = Cut("", "generated", "video" if whole else row["key"], layers)
            with hf_cut(omni, prompt, cut):
                tokens, _ = hf_caption(omni, inputs)
                baseline = torch.tensor(tokens) if baseline is None else baseline
                scored = hf_logprobs(omni, prompt, baseline)
                for name, reference in (("heard", heard), ("seen", seen)):
                    by_token = hf_logprobs(omni, prompt, reference.tokens)
                    by_word = [float(by_token[list(word)].sum()) for word in reference.words]
                    assert row[f"{name}_logprob"] == pytest.approx(np.mean(by_word), rel=1e-6)
            assert row["caption"] == omni.model.tokenizer.decode(tokens, skip_special_tokens=True)
            assert row["n_scored"] == 8
            assert row["caption_logprob"] / 8 == pytest.approx(float(scored.mean()), abs=1e-6)
    assert table["caption"].nunique() > 3


@pytest.fixture
def passes(model: HookedOmni) -> Iterator[list[tuple[int, int]]]:
    seen: list[tuple[int, int]] = []
    block: Any = model.model.blocks[0]
    with watched(block, lambda args: seen.append(args[0].shape[:2])):
        yield seen


def test_a_reference_is_read_as_far_as_its_last_word(model: HookedOmni, passes: list[Any]) -> None:
    prompt = case(model, "dog", "bus").prompt
    assert isinstance(prompt, EmbeddedPrompt)
    tokenizer, ready = model.model.tokenizer, prefill(model.model, prompt)
    conditions = [[], [cut_attention("G !-> V")]]
    scores = []
    for caption in ("A dog.", "A dog. Then there is silence."):
        asked_for = references(tokenizer, [caption], own=OWN)
        passes.clear()
        scores.append(word_logprobs(model.model, ready, asked_for, conditions))
        assert passes == [(2, tokenizer.encode("A dog.").index(tokenizer.encode(" dog")[0]))]
    np.testing.assert_array_equal(*scores)


PAPERS = {"model": "Qwen/Qwen2.5-Omni-3B"}


def test_windows_of_the_paper_and_of_other_depths() -> None:
    def centers(n_layers: int, **more: Any) -> list[int]:
        windows = chosen_windows(knockout.Config(**more), n_layers)
        return [(w.start + w.stop - 1) // 2 for w in windows]

    points = published.points("figure6_knockout", PAPERS, "hear", "factual")
    assert centers(36) == sorted(set(points["center_layer"])) == list(range(4, 31, 2))
    assert {len(w) for w in chosen_windows(knockout.Config(), 36)} == {9}
    assert centers(28) == list(range(3, 25, 2))
    assert centers(8) == list(range(8))
    assert centers(1) == [0]
    assert centers(6, width=3, step=2) == [1, 3]
    given = knockout.Config(windows=((1, 2), (0, 5)))
    assert chosen_windows(given, 6) == [range(1, 3), range(6)]


def test_who_is_skipped(model: HookedOmni) -> None:
    kinds = ("video", "audio", "audio in video")
    cases = [replace(case(model, "dog", "bus", kind=kind), sample=kind) for kind in kinds]
    table = run(model, cases, CONFIG)
    assert set(table["sample"]) == {"audio in video"}
    assert "no audio" in table.attrs["skipped"]["video/hear"]
    assert "no video" in table.attrs["skipped"]["audio/hear"]
    only_video = run(model, cases, replace(CONFIG, keys=("video",)))
    assert set(only_video["sample"]) == {"audio in video", "video"}


def test_an_answer_of_one_token_is_skipped(model: HookedOmni, monkeypatch: Any) -> None:
    monkeypatch.setattr(model.model.cfg, "eos_tokens", (32,))  # "A"
    table = run(model, [case(model, "dog", "bus")], CONFIG)
    assert table.empty and list(table.columns) == ["sample", "kind", "question", *COLUMNS]
    assert "two tokens or more" in table.attrs["skipped"]["dog over bus/hear"]
    with pytest.raises(ResultsError, match="expected rows, got none"):
        knockout.plot(table)


def test_a_sample_without_captions_has_no_word_scores(model: HookedOmni) -> None:
    bare = replace(case(model, "dog", "bus"), audio_captions=(), video_captions=())
    table = run(model, [bare], CONFIG)
    for column in ("heard_logprob", "seen_logprob", "heard_found", "seen_found"):
        assert table[column].isna().all()
    assert table["n_heard_words"].sum() == 0
    assert len(knockout.plot(table).axes) == 1  # the baseline caption's row alone
    assert len(knockout.headline(table)) == 2


def test_bad_configs(model: HookedOmni, as_installed: None) -> None:
    wrong: list[tuple[dict[str, Any], str]] = [
        (dict(query="last"), r"expected query 'generated' or 'generated\+last'"),
        (dict(keys=()), "and some keys"),
        (dict(max_new_tokens=1), "at least 2 new tokens"),
        (dict(windows=((1, 2),), width=3), "got both"),
        *((dict(width=width), "expected an odd width") for width in (-1, 0, 4)),
        (dict(step=0), "a step of 1 or more"),
        (dict(windows=((3, 1),)), "windows as"),
        (dict(memory_budget=0), "a memory budget above 0"),
    ]
    for bad, text in wrong:
        with pytest.raises(ResultsError, match=text):
            knockout.Config(**bad)
    one = [case(model, "dog", "bus")]
    with pytest.raises(ResultsError, match=r"in layers 0 to 7, got \[\(7, 8\)\]"):
        run(model, one, replace(CONFIG, windows=((0, 1), (7, 8))))
    with pytest.raises(HookError, match="expected an odd width"):
        run(model, one, replace(CONFIG, width=9))


def test_panels_in_the_papers_form(panels: Any) -> None:
    figure = knockout.plot(panels.sample(frac=1, random_state=0))
    rows = ["A: factual see", "B: factual hear", "C: counterfactual see", "D: counterfactual hear"]
    labels = [axes.get_ylabel().replace(",\n", " ") for axes in figure.axes[::3]]
    assert labels == [*rows, "all see", "all hear"]
    lines, whole = (
        {str(line.get_label()): np.asarray(line.get_ydata(), float) for line in axes.get_lines()}
        for axes in (figure.axes[9], figure.axes[15])
    )
    assert lines["G !-> V"].tolist() == [0, 0, 0, 0, 0, 100, 0, 0]
    assert lines["G !-> A"].tolist() == [0.0] * 8
    assert set(lines["untouched"]) == {0.0}
    assert whole["G !-> A"].tolist() == [50.0] * 8 and whole["G !-> V"][5] == 100
    # Three bands, the baseline's among them, and nothing that is published of another model.
    assert all(len(axes.collections) + len(axes.patches) == 3 for axes in figure.axes)
    (level,) = figure.axes[15].patches
    (start,) = [line for line in knockout.headline(panels) if "all, hear: untouched" in line]
    ends: Any = level.get_extents().transformed(figure.axes[15].transData.inverted())
    assert f"50.0 % [{ends.y0:.1f}, {ends.y1:.1f}], n = 4" in start


def test_one_legend_tells_lines_apart_that_coincide(panels: Any) -> None:
    figure = knockout.plot(panels)
    (legend,) = figure.legends
    texts = [text.get_text() for text in legend.get_texts()]
    assert texts == ["untouched", "G !-> V", "G !-> A"]
    assert all(axes.get_legend() is None for axes in figure.axes)
    _, video, audio = figure.axes[0].get_lines()
    looks: Any = [(one.get_linestyle(), one.get_marker()) for one in (video, audio)]
    assert len({look[0] for look in looks}) == len({look[1] for look in looks}) == 2
    # What is under the other is wider, and so seen.
    assert video.get_linewidth() > audio.get_linewidth()
    assert video.get_markersize() > audio.get_markersize() and video.get_fillstyle() == "none"


def test_a_judges_fidelity_takes_the_place_of_words(panels: Any) -> None:
    figure = knockout.plot(panels.assign(audio_fidelity=0.25, video_fidelity=0.75))
    assert figure.axes[0].get_title() == "fidelity, %\nn = 2"
    heights = [set(np.asarray(a.get_lines()[0].get_ydata(), float)) for a in figure.axes[::3]]
    assert heights == [{75.0}, {25.0}] * 3


@pytest.mark.parametrize("name", ["Qwen/Qwen2.5-Omni-3B", "another/of-36-layers"])
def test_published_points_under_their_model(panels: Any, name: str) -> None:
    judged = panels.assign(n_layers=36, audio_fidelity=0.25, video_fidelity=0.75)
    judge = {"name": "Qwen/Qwen3-32B", "model": "Qwen/Qwen3-32B"}
    words: Any = {"name": "lexical"}
    for table, by, n in ((judged, judge, 112), (judged, words, 0), (panels, judge, 0)):
        table.attrs = {**panels.attrs, "model": name, "judge": by}
        drawn = [c for axes in knockout.plot(table).axes[::3] for c in axes.collections]
        points = [c.get_offsets() for c in drawn if str(c.get_label()).startswith("published")]
        assert sum(len(np.asarray(each)) for each in points) == (n if "Omni" in name else 0)


def test_the_headline(panels: Any) -> None:
    lines = "\n".join(knockout.headline(panels))
    freed = "counterfactual, hear: G !-> V moves what is named most in layer 5: +100.00 points"
    (line,) = (line for line in lines.splitlines() if line.startswith(freed))
    assert "n = 2 (band and p = 0.5 for all 8 windows at once)" in line
    assert "counterfactual, hear: untouched, reference events named: 0.0 %" in lines
    assert "G !-> A moves the log-probability of reference words most in layer 2" in lines


def test_missing_numbers_are_counted(panels: Any) -> None:
    holed = panels.copy()
    holed.loc[holed["sample"] == "dog over bus", ["heard_found", "seen_found"]] = np.nan
    titles = [axes.get_title().splitlines()[-1] for axes in knockout.plot(holed).axes[9:12]]
    assert titles == ["n = 1, up to 1 missing", "n = 2", "n = 2"]
