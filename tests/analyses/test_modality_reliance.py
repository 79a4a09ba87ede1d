"""What an answer loses without its sound or picture is what was planted to rest on them."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

from analyses import modality_reliance
from analyses.cases import Case
from analyses.modality_reliance import variants
from hooked_omni import HookedOmni, Prompt
from hooked_omni.errors import ResultsError
from hooked_omni.inputs.audio import Audio
from hooked_omni.inputs.media import MediaSettings
from hooked_omni.inputs.video import Video
from tests.support.clips import write_clip
from tests.support.hugging_face import hf_logprobs
from tests.support.planted import asked, planted, tune

SMALL = MediaSettings(min_pixels=2 * 2 * 28 * 28, max_pixels=3 * 3 * 28 * 28)
run: Any = modality_reliance.run  # columns of a frame have no types to check
CONFIG = modality_reliance.Config(variants=("mute", "shift", "blank"), max_new_tokens=6)


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("clips")
    return {
        "dog and bus": write_clip(folder / "dog.mp4", audio_hz=440),
        "train and chef": write_clip(folder / "train.mp4", audio_hz=3000, fps=20, seconds=3),
        "silent film": write_clip(folder / "silent.mp4", audio_hz=None),
        "sound": write_clip(folder / "sound.wav.mp4", fps=0),
    }


def clip_of(omni: HookedOmni, path: Path) -> tuple[Video, Audio]:
    video, audio = omni.read_media(Prompt("What?", video=path, media=SMALL))
    assert isinstance(video, Video) and isinstance(audio, Audio)
    return video, audio


def taught(files: dict[str, Path], **plant: Any) -> HookedOmni:
    """A planted model whose towers know the two clips, silence and darkness."""
    omni = planted(**plant)
    assert omni.towers is not None
    omni.towers.media = SMALL
    video, audio = clip_of(omni, files["dog and bus"])
    other_sound = variants.other_sound(files["train and chef"], SMALL)((video, audio))[1]
    other_picture = variants.other_picture(files["train and chef"], SMALL)((video, audio))[0]
    later, silence = (edit((video, audio))[1] for edit in (variants.shift(), variants.mute()))
    dark, mean = (variants.blank(color)((video, audio))[0] for color in ("black", "mean"))
    sounds: Any = {"dog": [audio, later], "train": [other_sound], None: [silence]}
    pictures: Any = {"bus": [video], "chef": [other_picture], None: [dark, mean]}
    tune(omni, sounds, pictures)
    return omni


@pytest.fixture(scope="module")
def model(files: dict[str, Path]) -> HookedOmni:
    return taught(files)


def cases(files: dict[str, Path], *names: str) -> list[Case]:
    return [Case(Prompt("What?", video=files[n], media=SMALL), n) for n in names]


def changes(omni: HookedOmni, files: dict[str, Path], **more: Any) -> dict[str, float]:
    config = replace(CONFIG, swap_with=str(files["train and chef"]), **more)
    table = run(omni, cases(files, "dog and bus"), config)
    return dict(zip(table["variant"], table["change"], strict=True))


def test_an_answer_that_rests_on_the_picture(model: HookedOmni, files: dict[str, Path]) -> None:
    changed = changes(model, files)
    assert changed["intact"] == 0
    assert changed["blank"] < -3 and changed["swap picture"] < -3
    # Without the sound's word beside it, the picture's is a little likelier.
    assert 0 < changed["mute"] < 0.1
    assert abs(changed["shift"]) < 0.02 and abs(changed["swap sound"]) < 0.1


def test_an_answer_that_rests_on_the_sound(files: dict[str, Path]) -> None:
    blind = taught(files, seen_at=None)
    for blank in ("black", "mean"):
        changed = changes(blind, files, blank=blank)
        assert changed["mute"] < -2 and changed["swap sound"] < -2
        for variant in ("blank", "swap picture"):
            assert changed[variant] == pytest.approx(0, abs=1e-5)


def test_nothing_is_found_where_nothing_rests(files: dict[str, Path]) -> None:
    deaf = changes(taught(files, heard_at=None), files)
    assert deaf["blank"] < -2
    both = changes(taught(files, heard_at=None, seen_at=None), files)
    for changed in (*(deaf[v] for v in ("mute", "shift", "swap sound")), *both.values()):
        assert changed == pytest.approx(0, abs=1e-5)


def test_the_token_that_names_it(model: HookedOmni, files: dict[str, Path]) -> None:
    one = cases(files, "dog and bus")
    by_token, whole = (run(model, one, replace(CONFIG, tokens=each)) for each in (True, False))
    blank = by_token[by_token["variant"] == "blank"]
    assert blank["token_text"].tolist()[:3] == ["A", " bus", "."]
    assert blank["step"].tolist() == [0, 1, 2, 3]
    lost = blank["change"].to_numpy()
    assert lost[1] < -3 and np.abs(np.delete(lost, 1)).max() < 1e-3
    for name in ("logprob", "change"):
        sums = by_token.groupby("variant", sort=False)[name].sum().to_numpy()
        np.testing.assert_allclose(sums, whole[name].to_numpy(), atol=1e-9)
    assert modality_reliance.headline(by_token) == modality_reliance.headline(whole)


def test_scores_are_hugging_faces(omni: HookedOmni, files: dict[str, Path]) -> None:
    """Inputs made by hand, of arrays made by hand."""
    prompt = Prompt("What?", video=files["dog and bus"], media=SMALL)
    config = modality_reliance.Config(
        variants=("mute", "shift", "blank", "mute and blank"), max_new_tokens=6, shift_seconds=0.5
    )
    table = run(omni, [prompt], config)
    video, audio = clip_of(omni, files["dog and bus"])
    silent = replace(audio, samples=np.zeros_like(audio.samples))
    late = replace(audio, samples=np.roll(audio.samples, 8000))
    dark = replace(video, frames=torch.zeros_like(video.frames))
    variants_by_hand = {
        "intact": (video, audio),
        "mute": (video, silent),
        "shift": (video, late),
        "blank": (dark, audio),
        "mute and blank": (dark, silent),
    }
    assert table["variant"].tolist() == list(variants_by_hand)
    made = omni.model.generate(omni.embed(prompt), max_new_tokens=6)
    assert set(table["answer"]) == {made.text} and set(table["n_tokens"]) == {len(made.tokens)}
    expected = {}
    for name, (picture, heard) in variants_by_hand.items():
        inputs = omni.family.prepare(omni.processor, prompt, (picture, heard))
        ready = omni.embed_inputs(**{k: v for k, v in inputs.items() if v is not None})
        expected[name] = float(hf_logprobs(omni, ready, made.tokens).sum())
    for row in table.to_dict("records"):
        n_tokens, by_hand = row["n_tokens"], expected[row["variant"]]
        assert row["logprob"] == pytest.approx(by_hand, abs=1e-6 * n_tokens)
        difference = by_hand - expected["intact"]
        assert row["change"] == pytest.approx(difference, abs=2e-6 * n_tokens)
    moved = table.set_index("variant")["change"].abs()
    assert (moved.drop(index="intact") > 1e-3).all()


def test_variants_keep_shapes_and_source(model: HookedOmni, files: dict[str, Path]) -> None:
    video, audio = clip_of(model, files["dog and bus"])
    frames, samples = video.frames.clone(), audio.samples.copy()
    path = files["train and chef"]
    for edit in (
        *(variants.mute(), variants.shift(0.5), variants.blank("black"), variants.blank("mean")),
        *(variants.other_sound(path, SMALL), variants.other_picture(path, SMALL)),
    ):
        seen, heard = edit((video, audio))
        assert isinstance(seen, Video) and isinstance(heard, Audio)
        assert seen.frames.shape == frames.shape and heard.samples.shape == samples.shape
        assert heard.samples.dtype == samples.dtype and seen.frames.dtype == frames.dtype
        same = torch.equal(seen.frames, frames), np.array_equal(heard.samples, samples)
        assert same in ((True, False), (False, True))
    assert torch.equal(video.frames, frames) and np.array_equal(audio.samples, samples)
    later = variants.shift(0.5)((video, audio))[1]
    assert isinstance(later, Audio)
    np.testing.assert_array_equal(later.samples[8000:], samples[:-8000])


def test_who_is_skipped_and_what_is_left_out(model: HookedOmni, files: dict[str, Path]) -> None:
    film = Prompt("What?", video=files["silent film"], media=SMALL, use_audio_in_video=False)
    hears = Prompt("What?", audio=files["sound"], media=SMALL)
    listed = [
        Case(asked(model), "embedded"),
        *cases(files, "silent film"),
        *[Case(replace(film, video="nowhere.mp4"), "nowhere"), Case(Prompt("What?"), "words")],
        *[Case(film, "film"), Case(hears, "hears")],
    ]
    table = run(model, listed, CONFIG)
    skipped = table.attrs["skipped"]
    assert "got one that is embedded" in skipped["embedded/hear"]
    assert "pass use_audio_in_video=False" in skipped["silent film/hear"]
    assert "got no file" in skipped["nowhere/hear"]
    assert "expected a clip that" in skipped["words/hear"]
    assert set(skipped) == {f"{n}/hear" for n in ("embedded", "silent film", "nowhere", "words")}
    by_sample = {str(s): g["variant"].tolist() for s, g in table.groupby("sample")}
    assert by_sample == {"film": ["intact", "blank"], "hears": ["intact", "mute", "shift"]}
    assert "n = 1, 1 missing" in modality_reliance.headline(table)[0]


def test_a_shift_that_moves_nothing(model: HookedOmni, files: dict[str, Path]) -> None:
    seconds = clip_of(model, files["dog and bus"])[1].seconds
    config = replace(CONFIG, shift_seconds=2 * seconds)
    table = run(model, cases(files, "dog and bus"), config)
    assert "expected a shift that moves" in table.attrs["skipped"]["dog and bus/hear"]
    with pytest.raises(ResultsError, match="expected rows, got none"):
        modality_reliance.plot(table)


def test_bad_configs(as_installed: None) -> None:
    wrong: Any = [dict(variants=names) for names in (("louder",), (), ("swap sound",))]
    wrong += [dict(blank="white"), dict(max_new_tokens=0)]
    for bad in wrong:
        with pytest.raises(ResultsError, match=r"expected variants among|expected blank"):
            modality_reliance.Config(**bad)


@pytest.fixture
def made_up() -> pd.DataFrame:
    """Twelve samples that lose 1 nat a token without sound, and 3 without picture."""
    changes = (("intact", "none", 0.0), ("mute", "audio", -1.0), ("blank", "video", -3.0))
    rows = [
        dict(sample=str(i), variant=variant, modality=modality, change=4 * (change + i / 100))
        for i in range(12)
        for variant, modality, change in changes
    ]
    known: Any = dict(kind="factual", question="hear", step=None, token_text=None, answer="A dog.")
    return pd.DataFrame(rows).assign(**known, logprob=-10.0, n_tokens=4)


def test_the_headline(made_up: pd.DataFrame) -> None:
    mute, *_, last = modality_reliance.headline(made_up)
    assert mute.startswith("factual, hear: mute changes log p of the answer by -0.945 nats a token")
    assert mute.endswith("n = 12.")
    more = "the answer rests more on the picture, by 2.000 nats a token (p = 0.00049, n = 12)."
    assert last == f"factual, hear: {more}"


def test_the_figure(made_up: pd.DataFrame) -> None:
    both = pd.concat(
        [made_up.assign(kind="counterfactual", sample=made_up["sample"] + "b"), made_up]
    )
    panels = modality_reliance.plot(both).axes
    titles = [panel.get_title() for panel in panels]
    assert titles == ["factual, hear", "counterfactual, hear", "all, hear"]
    assert [panel.get_xticklabels()[0].get_text()[-2:] for panel in panels] == ["12", "12", "24"]
    said = modality_reliance.headline(both)
    assert [line.partition(",")[0] for line in said[::3]] == ["factual", "counterfactual", "all"]
    axes = modality_reliance.plot(made_up).axes[0]
    labels = [label.get_text() for label in axes.get_xticklabels()]
    assert labels == ["mute\nn = 12", "blank\nn = 12"]
    heights = [bar.get_height() for bar in axes.patches]  # pyright: ignore[reportAttributeAccessIssue]
    assert heights == pytest.approx([-0.945, -2.945])
