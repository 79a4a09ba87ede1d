"""The towers get the sound and the frames that were read, all of them, or the clip is refused."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch

from hooked_omni import HookedOmni, Prompt
from hooked_omni.errors import MediaError
from hooked_omni.inputs.media import MediaSettings
from hooked_omni.inputs.video import Video
from hooked_omni.organisms.random_towers import random_audio
from tests.support.models import frames, sound
from tests.support.standins import STANDINS

HEARS = ("omni", "omni3", "audio", "minicpm-o-2.6", "videollama2.1-av", "internomni")
SEES = ("omni", "omni3", "vl", "vl3")
LISTEN = Prompt("What now?", audio="sound")
LOOK = Prompt("What now?", video="clip", use_audio_in_video=False)


@pytest.fixture(scope="module")
def every(models: dict[str, HookedOmni]) -> dict[str, HookedOmni]:
    return models | {name: HookedOmni.from_hf(*build()) for name, build in STANDINS.items()}


def stereo(path: Path, seconds: float) -> Path:
    samples = np.random.default_rng(0).normal(0, 0.1, (round(seconds * 16_000), 2))
    soundfile.write(path, samples, 16_000)
    return path


@pytest.mark.parametrize(
    ("name", "seconds", "heard"),
    [("audio", 62.0, 30.0), ("audio", 30.04, 30.0), ("omni", 310.0, 300.0),
     ("videollama2.1-av", 31.0, 30.0)],
)  # fmt: skip
def test_more_sound_than_the_model_hears(every, tmp_path, name, seconds, heard):
    clip = stereo(tmp_path / "long.wav", seconds)
    with pytest.raises(MediaError, match=rf"whole sound, of {seconds} s, .* got {heard} s"):
        every[name].embed(Prompt("What now?", audio=clip))


def test_the_beginning_of_a_sound_if_that_is_wanted(every, tmp_path):
    """Facts, spans and times are those of what is heard."""
    clip = stereo(tmp_path / "long.wav", 62.0)
    chosen = replace(every["audio"].media, sound_seconds=30.0)
    prompt = every["audio"].embed(Prompt("What now?", audio=clip, media=chosen))
    short = every["audio"].embed(Prompt("What now?", audio=stereo(tmp_path / "short.wav", 30.0)))
    heard = prompt.facts["audio"]
    assert (heard["samples"], heard["seconds"]) == (480_000, 30.0)
    assert heard["notes"] == ["32.000 s of sound after 30 s left out: sound_seconds"]
    assert prompt.facts["prompt"]["media"]["sound_seconds"] == 30.0
    assert len(prompt.spans["audio"]) == 750 and float(prompt.spans.seconds["audio"].max()) < 30
    assert "audio@30-31s" not in prompt.spans
    # The first 30 s of the same noise, through the same resampler.
    assert torch.equal(short.tokens, prompt.tokens)
    torch.testing.assert_close(short.embeds, prompt.embeds, rtol=0, atol=1e-4)


def test_a_beginning_longer_than_the_sound_is_all_of_it(every, tmp_path):
    clip, chosen = (
        stereo(tmp_path / "clip.wav", 1.0),
        replace(every["omni"].media, sound_seconds=9.0),
    )
    for media in (None, chosen):
        facts = every["omni"].embed(Prompt("What now?", audio=clip, media=media)).facts["audio"]
        assert facts["seconds"] == 1.0 and facts["notes"] == []
    for wrong in (0.0, -1.0, float("nan"), float("inf")):
        with pytest.raises(MediaError, match="expected sound_seconds > 0"):
            replace(chosen, sound_seconds=wrong)


@pytest.mark.parametrize(("name", "rate"), [*((n, 8_000) for n in HEARS), ("omni3", 44_100)])
def test_sound_at_another_rate_than_the_model_hears(every, name, rate):
    """It would be heard slower or faster, with tokens at times that are not the clip's."""
    other = replace(sound(), sampling_rate=rate, samples=np.zeros(rate, np.float32))
    with pytest.raises(MediaError, match=r"takes 16000|sampling_rate"):
        every[name].embed_media(LISTEN, (other,))


@pytest.mark.parametrize("name", HEARS)
def test_sound_too_short_for_a_token(every, name):
    for n in (0, 639) if name == "omni" else (0, 1, 100, 400, 639):
        with pytest.raises(MediaError, match=r"whole sound|processor of"):
            every[name].embed_media(LISTEN, (replace(sound(), samples=sound().samples[:n]),))


@pytest.mark.parametrize("name", HEARS)
def test_a_whole_sound_is_heard_to_its_last_token(every, name):
    """Lengths that are no whole number of mel frames, tokens or seconds."""
    for n in (23_457,) if name == "omni" else (640, 15_999, 16_001, 23_456):
        samples = sound(4.0).samples[:n]
        prompt = every[name].embed_media(LISTEN, (replace(sound(), samples=samples),))
        times = prompt.spans.seconds.get("audio", torch.zeros(1))
        padded = 480_000 if name == "videollama2.1-av" else n  # silence has tokens there, too
        assert float(times.max()) < padded / 16_000
        assert len(prompt.spans["audio"]) > 0


@pytest.mark.parametrize("name", SEES)
def test_frames_that_the_processor_would_repeat(every, name):
    side = every[name].media.size_factor
    with pytest.raises(MediaError, match=r"\(5, \d+, \d+\).* got \(6, "):
        every[name].embed_media(LOOK, (frames(5, side=side),))


@pytest.mark.parametrize("name", SEES)
def test_frames_of_a_size_that_is_no_whole_number_of_patches(every, name):
    with pytest.raises(MediaError, match="processor"):
        every[name].embed_media(LOOK, (frames(4, side=30),))


def test_a_processor_that_samples_frames_anew(every):
    """Whatever its settings: what comes out is compared with what went in."""
    omni = every["vl"]
    kept = omni.processor.video_processor.temporal_patch_size
    omni.processor.video_processor.temporal_patch_size = 1
    try:
        with pytest.raises(MediaError, match=r"\(6, 56, 84\).* got \(12, 56, 84\)"):
            omni.embed_media(LOOK, (frames(),))
    finally:
        omni.processor.video_processor.temporal_patch_size = kept


def test_a_processor_that_hears_less(clips):
    hf, processor = random_audio()
    processor.feature_extractor.n_samples = 2 * 16_000
    processor.feature_extractor.nb_max_frames = 200
    with pytest.raises(MediaError, match=r"of 3\.0 s, .* got 2\.0 s"):
        HookedOmni.from_hf(hf, processor).embed_media(LISTEN, (sound(),))


def small(n_frames: int) -> Video:
    return replace(frames(n_frames), frames=frames(n_frames).frames[..., :28, :56])


def cut_off(name: str, seconds: int) -> HookedOmni:
    """A stand-in whose processor takes some seconds of sound, and half of the frames."""
    hf, processor = STANDINS[name]()
    if name == "internomni":
        _, extractor = processor
        extractor.n_samples = seconds * 16_000
        return HookedOmni.from_hf(hf, processor)
    if name == "videollama2.1-av":
        return HookedOmni.from_hf(hf, replace(processor, video=lambda f: processor.video(f[::2])))

    class Cut(type(processor)):
        def __call__(self, texts: Any, images: Any, sounds: Any, *rest: Any, **more: Any) -> Any:
            waves = [wave[: seconds * 16_000] for wave in sounds[0]]
            return super().__call__(texts, images, [waves], *rest, **more)

    processor.__class__ = Cut
    return HookedOmni.from_hf(hf, processor)


@pytest.mark.parametrize("name", ["internomni", "minicpm-o-2.6"])
def test_code_of_a_checkpoint_that_cuts_the_sound_off(name):
    with pytest.raises(MediaError, match=r"of 3\.0 s, .* got 2\.0 s"):
        cut_off(name, 2).embed_media(LISTEN, (sound(),))


def test_code_of_a_checkpoint_that_drops_frames():
    with pytest.raises(MediaError, match=r"\(16, 28, 56\).* got \(8,\)"):
        cut_off("videollama2.1-av", 2).embed_media(LOOK, (small(16),))


def test_facts_say_what_a_familys_own_code_does(every, tmp_path):
    """VideoLLaMA2 hears pieces of a sound: nothing can change that, so every prompt says it."""
    clip = stereo(tmp_path / "clip.wav", 3.0)
    for name, said in (("videollama2.1-av", "eight evenly spaced pieces"), ("omni", None)):
        facts = every[name].embed(Prompt("What now?", audio=clip)).facts
        assert facts["own_reading"] is None if said is None else said in facts["own_reading"]


def test_a_sampling_rate_of_ones_own(every, tmp_path):
    """Read as the settings say, and refused, since the model hears another rate."""
    clip, own = stereo(tmp_path / "clip.wav", 3.0), MediaSettings(sampling_rate=22_050)
    with pytest.raises(MediaError, match=r"whole sound, of 3\.0 s"):
        every["omni3"].embed(Prompt("What now?", audio=clip, media=own))
