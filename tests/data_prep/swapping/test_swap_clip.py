import json
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
import soundfile

from data_prep.swapping.soundtrack import decode, fit
from data_prep.swapping.swap_clip import swap
from hooked_omni.errors import MediaError
from hooked_omni.inputs.audio import read_audio
from hooked_omni.inputs.video import read_video
from tests.support.clips import write_clip
from tests.support.places import SHARED

MEDIA = SHARED / "media"
real_clips = pytest.mark.skipif(
    not MEDIA.is_dir(), reason=f"the real clips are not at {MEDIA}; see its README in shared/"
)
AAC_FRAME = 1024 / 44_100


def picture(path: Path) -> list[tuple[float, float, bytes]]:
    """Times and bytes of the packets of the track that the model sees."""
    with av.open(str(path)) as container:
        stream: Any = container.streams.best("video")
        packets: list[Any] = [packet for packet in container.demux(stream) if packet.size]
        return [(float(p.pts * p.time_base), float(p.dts * p.time_base), bytes(p)) for p in packets]


def correlation(one: np.ndarray, other: np.ndarray) -> float:
    n_samples = min(len(one), len(other))
    return float(np.corrcoef(one[:n_samples], other[:n_samples])[0, 1])


def rms(wave: np.ndarray) -> float:
    return float(np.sqrt(np.mean(np.square(wave, dtype=np.float64))))


@real_clips
@pytest.mark.parametrize(
    ("video", "audio"),
    [
        ("02321.mp4", "sample_demo_1.mp4"),  # a little shorter than the picture
        ("sample_demo_3.mp4", "00003491.mp4"),  # MP3, trimmed from 60 s
        ("1034346401.mp4", "bird-twitter-car.wav"),  # no sound of its own, 16-bit PCM
        ("nasa_13013.mp4", "02321.mp4"),  # two pictures and two sounds
        ("h265_video.mp4", "nasa_13013.mp4"),  # HEVC; sound at 8 kHz
        ("h264_10bits.mp4", "sample_demo_3.mp4"),
    ],
)
def test_real_clips_keep_their_picture_and_get_the_other_sound(tmp_path, video, audio):
    assert swap(MEDIA / video, MEDIA / audio, tmp_path / "out.mp4")
    before, after = picture(MEDIA / video), picture(tmp_path / "out.mp4")
    assert [packet[2] for packet in after] == [packet[2] for packet in before]
    np.testing.assert_allclose([p[:2] for p in after], [p[:2] for p in before], atol=1e-6)
    new, source = read_audio(tmp_path / "out.mp4"), read_audio(MEDIA / audio)
    assert correlation(new.samples, source.samples) > 0.99
    with av.open(str(tmp_path / "out.mp4")) as container:
        seen, sounds = (Fraction(s.duration or 0) * (s.time_base or 0) for s in container.streams)
        rate: Any = container.streams.video[0].average_rate
    frame = 1 / rate
    assert abs(seen - sounds) <= frame
    assert abs(new.seconds - float(seen)) <= frame
    padding = new.samples[len(source.samples) + 2000 :]
    assert rms(padding) < 1e-3 if len(padding) else True


@real_clips
@pytest.mark.parametrize("name", ["02321.mp4", "00003491.mp4", "nasa_13013.mp4"])
def test_a_self_swap_changes_nothing_that_is_decoded(tmp_path, name):
    swap(MEDIA / name, None, tmp_path / "out.mp4", "self")
    assert picture(tmp_path / "out.mp4") == picture(MEDIA / name)
    before, after = read_audio(MEDIA / name), read_audio(tmp_path / "out.mp4")
    np.testing.assert_array_equal(after.samples, before.samples)


@real_clips
def test_controls_of_a_real_clip(tmp_path):
    clip = MEDIA / "02321.mp4"
    own = read_audio(clip).samples
    for control in ("silence", "noise", "reversed"):
        swap(clip, None, tmp_path / f"{control}.mp4", control)
    made = (read_audio(tmp_path / f"{name}.mp4") for name in ("silence", "noise", "reversed"))
    silence, noise, backwards = (audio.samples for audio in made)
    assert not silence.any()
    assert rms(noise) == pytest.approx(rms(own), rel=0.03)
    assert abs(correlation(noise, own)) < 0.02
    assert correlation(backwards, own) < 0.5
    # At the native rate: half a sample of shift at 16 kHz would hide how alike they are.
    before, after = decode(clip).wave[0], decode(tmp_path / "reversed.mp4").wave[0]
    assert correlation(after, before[::-1]) > 0.99
    assert swap(clip, None, tmp_path / "other.mp4", "noise", seed=1)
    assert abs(correlation(read_audio(tmp_path / "other.mp4").samples, noise)) < 0.02


def test_a_clip_whose_clock_starts_late_keeps_picture_and_sound_together(tmp_path, pair):
    times = [1.5 + i / 10 for i in range(20)]
    clip = write_clip(tmp_path / "v.mp4", times=times, audio_start=1.5)
    swap(clip, pair[1], tmp_path / "out.mp4")
    assert picture(tmp_path / "out.mp4")[0][2] == picture(clip)[0][2]
    before, after = read_video(clip), read_video(tmp_path / "out.mp4")
    assert after.frame_seconds == pytest.approx(before.frame_seconds, abs=1e-4)
    new = read_audio(tmp_path / "out.mp4")
    assert correlation(new.samples, read_audio(pair[1]).samples) > 0.99


def test_a_swapped_clip_is_not_made_again_unless_it_must(tmp_path, pair):
    low, high = pair
    out = tmp_path / "out.mp4"
    assert swap(low, high, out)
    made, when = out.read_bytes(), out.stat().st_mtime_ns
    assert not swap(low, high, out)
    assert out.stat().st_mtime_ns == when
    assert swap(low, None, out, "silence") and out.read_bytes() != made
    for damaged in (b"", made[:-1], made[:500], made[:900] + b"\xff" + made[901:], made + b"x"):
        out.write_bytes(damaged)
        assert swap(low, high, out)
        assert out.read_bytes() == made
    write_clip(high, seconds=3.0, audio_hz=900)
    assert swap(low, high, out) and out.read_bytes() != made
    assert [item.name for item in tmp_path.iterdir() if item.name.startswith(".")] == []


def test_the_comment_names_the_sources(tmp_path, pair):
    swap(pair[0], pair[1], tmp_path / "out.mp4")
    with av.open(str(tmp_path / "out.mp4")) as container:
        recipe = json.loads(container.metadata["comment"])
    assert recipe.keys() == {"video", "audio", "control", "made"}
    assert len(recipe["video"]) == len(recipe["audio"]) == 64


@pytest.mark.parametrize("turns", [0, 2])
def test_pictures_that_are_rotated_or_start_late_stay_so(tmp_path, pair, turns):
    clip = write_clip(tmp_path / "v.mp4", times=[0.5, 0.6, 0.7, 0.8, 0.9, 1.0], turns=turns)
    swap(clip, pair[1], tmp_path / "out.mp4")
    before, after = read_video(clip), read_video(tmp_path / "out.mp4")
    assert bool((before.frames == after.frames).all()) and before.frames.shape == after.frames.shape
    # The old sound began at 0, half a second before the picture, and so does the new one.
    assert after.frame_seconds == before.frame_seconds == (0.5, 0.7, 0.8, 1.0)
    new = read_audio(tmp_path / "out.mp4")
    assert new.seconds == pytest.approx(1.1, abs=AAC_FRAME) and not new.notes
    assert correlation(new.samples, read_audio(pair[1]).samples) > 0.99


@pytest.mark.parametrize("rate", [8_000, 11_025, 22_050, 37_001, 44_100, 96_000])
def test_any_sampling_rate_becomes_sound_of_the_right_length(tmp_path, pair, rate):
    wave = 0.3 * np.sin(2 * np.pi * 500 * np.arange(3 * rate) / rate)
    soundfile.write(tmp_path / "s.wav", np.stack([wave, wave / 2], axis=1), rate)
    swap(pair[0], tmp_path / "s.wav", tmp_path / "out.mp4")
    out = read_audio(tmp_path / "out.mp4")
    assert out.seconds == pytest.approx(2.0, abs=AAC_FRAME)
    assert correlation(out.samples, read_audio(tmp_path / "s.wav").samples) > 0.99


def test_fitted_sound_is_whole_frames_and_keeps_its_channels(pair):
    sound = decode(pair[1])
    assert (sound.rate, sound.layout) == (48_000, "mono")
    assert fit(sound, Fraction(2), None, [0]).wave.shape == (1, 94 * 1024)
    assert not fit(sound, Fraction(9), None, [0]).wave[:, 3 * 48_000 + 4096 :].any()
    assert fit(sound, Fraction(0), None, [0]).wave.shape == (1, 1024)


def test_what_cannot_be_swapped_is_refused_and_leaves_no_file(tmp_path, pair):
    low, high = pair
    out = tmp_path / "out.mp4"
    silent = write_clip(tmp_path / "silent.mp4", audio_hz=None)
    sound = write_clip(tmp_path / "sound.m4a", fps=0)
    cut = tmp_path / "cut.mp4"
    cut.write_bytes(low.read_bytes()[:-3000])
    (tmp_path / "text.mp4").write_text("no clip")
    refused: list[tuple[Any, str]] = [
        ((tmp_path / "none.mp4", high, out), "no file at"),
        ((low, tmp_path / "none.mp4", out), "no file at"),
        ((tmp_path / "text.mp4", high, out), "FFmpeg cannot read"),
        ((low, tmp_path / "text.mp4", out), "FFmpeg cannot read"),
        ((cut, high, out), "cut|FFmpeg cannot read|damaged"),
        ((low, silent, out), "expected audio in"),
        ((silent, None, out, "self"), "expected audio in"),
        ((sound, high, out), "expected video in"),
        ((low, high, tmp_path / "out.mkv"), "ends in .mp4"),
        ((low, high, low), "another file than the sources"),
        ((low, high, high), "another file than the sources"),
        ((low, high, out, "quiet"), "expected a control of"),
        ((low, high, out, "self"), "no other sound"),
        ((low, None, out, "noise", -1), "seed of 0 or more"),
    ]
    kept = sorted(tmp_path.iterdir())
    for arguments, words in refused:
        with pytest.raises(MediaError, match=words):
            swap(*arguments)
    assert sorted(tmp_path.iterdir()) == kept


def test_a_picture_that_mp4_cannot_hold_as_it_is_is_refused(tmp_path, pair):
    clip = tmp_path / "v.avi"
    with av.open(str(clip), "w") as container:
        stream = container.add_stream("wmv2", rate=10)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        for level in range(5):
            gray = np.full((48, 64, 3), level * 40, np.uint8)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(gray, format="rgb24")))
        container.mux(stream.encode(None))
    with pytest.raises(MediaError, match=r"that MP4 can hold, got .*v.avi"):
        swap(clip, pair[1], tmp_path / "out.mp4")
