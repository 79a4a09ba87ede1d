import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import av
import librosa
import numpy as np
import pytest
import soundfile
import torch

from hooked_omni.errors import MediaError
from hooked_omni.inputs.audio import read_audio
from hooked_omni.inputs.frames import frames_given, resized_shape, sampled_indices
from hooked_omni.inputs.media import MediaSettings
from hooked_omni.inputs.video import read_video
from tests.support.clips import frame_level, write_clip
from tests.support.places import SHARED

MEDIA = SHARED / "media"
real_clips = pytest.mark.skipif(
    not MEDIA.is_dir(), reason=f"the real clips are not at {MEDIA}; see its README in shared/"
)

# What qwen-omni-utils 0.0.9 gave for the real clips (decord 0.6, torchvision 0.29.2): shape, fps,
# and the first digits of the SHA-256 of the frames as bytes.
ORACLE_FRAMES = {
    "02321.mp4": ((20, 364, 644), 2.0, "cfcf427b2c264f4d"),
    "00003491.mp4": ((120, 364, 644), 2.0, "020e64f1335a34e9"),
    "1034346401.mp4": ((28, 308, 588), 1.8900018900018898, "3ba6c208570ea66f"),
    "h264_10bits.mp4": ((4, 336, 336), 4.0, "8146fe2111b5c468"),
    "h265_video.mp4": ((4, 336, 336), 4.0, "6ea82f602dce06ca"),
    "nasa_13013.mp4": ((26, 280, 476), 1.9980019980019978, "8e9b01c70ead91ce"),
    "sample_demo_1.mp4": ((18, 364, 644), 1.8518518518518516, "4a1270d1f2e82792"),
    "sample_demo_3.mp4": ((12, 364, 644), 1.970632107618409, "1f4ec84b499d3d4e"),
}
# The same with sound, ffmpeg 5.1.9: sample count, root mean square, samples at five places.
ORACLE_SOUND = {
    "02321.mp4": (158639, 0.1786184, [0.000147, -0.029302, -0.046529, -0.066883, -0.230846]),
    "00003491.mp4": (960070, 0.1753697, [-0.007747, 0.460622, 0.0899, -0.296404, 0.025353]),
    "nasa_13013.mp4": (208896, 0.0764393, [0.005014, 0.010825, -0.110098, 0.067835, -0.020452]),
    "sample_demo_1.mp4": (155296, 0.0222004, [0.001339, 0.011688, -0.012124, -0.001343, -0.002073]),
    "sample_demo_3.mp4": (96967, 0.0446610, [0.010847, 0.015622, 0.02702, -0.014123, -0.03038]),
    "bird-twitter-car.wav": (
        437561,
        0.0663669,
        [0.002194, -0.003811, 0.010043, 0.035096, -0.018929],
    ),
}
# qwen-omni-utils 0.0.9 with ffmpeg 9.0.2, whose AAC decoder is PyAV's. Older ones (5.1) differ in
# 0.04 % of the 16-bit samples, by one step.
ORACLE_SHA256_OF_02321_SOUND = "a4ecd2b79c4bbf2b1ae73aeab1c0d271148f80156cddba7dcc8a98fb03ce1823"


@pytest.fixture
def clip(tmp_path):
    return write_clip(tmp_path / "clip.mp4")


def levels(video):
    return video.frames.mean(dim=(1, 2, 3)).tolist()


def refusal(read, path):
    with pytest.raises(MediaError) as caught:
        read(path)
    return str(caught.value)


@real_clips
@pytest.mark.parametrize("name", ORACLE_FRAMES)
def test_frames_are_those_of_the_papers_pipeline(name):
    (count, height, width), fps, digest = ORACLE_FRAMES[name]
    video = read_video(MEDIA / name)
    assert video.frames.shape == (count, 3, height, width)
    assert video.fps == fps
    assert len(video.frame_seconds) == count
    # Without AVX2 torch resizes with other kernels, one gray level away here and there.
    if torch.backends.cpu.get_cpu_capability() != "DEFAULT":
        pixels = video.frames.to(torch.uint8).numpy()
        assert hashlib.sha256(pixels.tobytes()).hexdigest()[:16] == digest


@real_clips
@pytest.mark.parametrize("name", ORACLE_SOUND)
def test_sound_is_that_of_the_papers_pipeline(name):
    count, level, places = ORACLE_SOUND[name]
    samples = read_audio(MEDIA / name).samples
    assert samples.shape == (count,) and samples.dtype == np.float32
    assert np.sqrt(np.square(samples, dtype=np.float64).mean()) == pytest.approx(level, rel=1e-5)
    np.testing.assert_allclose(samples[:: count // 5][:5], places, atol=2e-5)
    if name == "02321.mp4":
        assert hashlib.sha256(samples.tobytes()).hexdigest() == ORACLE_SHA256_OF_02321_SOUND


@real_clips
def test_frames_that_decord_confuses_are_noted_with_their_true_times():
    video = read_video(MEDIA / "h265_video.mp4")
    assert video.frame_seconds == (0.0, 0.4, 0.7, 0.7)
    assert "[(3, 4), (6, 7), (9, 7)]" in video.notes[0]


@real_clips
def test_of_two_streams_a_note_names_the_one_that_was_read():
    for read, kind, stream in ((read_video, "video", 3), (read_audio, "audio", 1)):
        note = f"2 {kind} streams: stream {stream} of the container was read"
        assert read(MEDIA / "nasa_13013.mp4").notes == (note,)


def test_frames_are_evenly_spaced_and_timed(clip, tmp_path):
    video = read_video(clip)
    assert video.frames.shape == (4, 3, 280, 392)
    assert video.frames.dtype == torch.float32
    assert video.frame_seconds == pytest.approx((0.0, 0.6, 1.3, 1.9))
    assert levels(video) == pytest.approx([frame_level(i) for i in (0, 6, 13, 19)], abs=4)
    assert (video.fps, video.seconds, video.notes) == (2.0, 2.0, ())
    more = read_video(clip, MediaSettings(fps=5.0))
    assert (len(more.frames), more.fps) == (10, 5.0)
    short = read_video(write_clip(tmp_path / "concat:a b é.mp4", seconds=0.3))  # odd, but a name
    assert short.frame_seconds == pytest.approx((0.0, 0.2))


def test_sound_is_the_sine_that_was_written(tmp_path):
    audio = read_audio(write_clip(tmp_path / "clip.mp4", audio_hz=1000.0, sampling_rate=44_100))
    spectrum = np.abs(np.fft.rfft(audio.samples))
    assert spectrum.argmax() / audio.seconds == pytest.approx(1000, abs=1)
    assert audio.seconds == pytest.approx(2.0, abs=0.05)
    assert audio.seconds == len(audio.samples) / audio.sampling_rate == len(audio.samples) / 16_000


def test_sound_file_is_read_as_librosa_reads_it(tmp_path):
    stereo = np.random.default_rng(0).uniform(-0.5, 0.5, (22_050, 2))
    soundfile.write(tmp_path / "noise.flac", stereo, 22_050, subtype="PCM_24")
    expected, _ = librosa.load(tmp_path / "noise.flac", sr=16_000)
    np.testing.assert_array_equal(read_audio(tmp_path / "noise.flac").samples, expected)


def test_variable_frame_rate_keeps_true_times(tmp_path):
    times = [0.0, 0.1, 0.2, 0.3, 1.0, 1.1, 1.2, 2.0]
    video = read_video(write_clip(tmp_path / "clip.mp4", times=times, audio_hz=None))
    assert video.frame_seconds == pytest.approx((0.0, 0.2, 1.1, 2.0))
    assert levels(video) == pytest.approx([frame_level(i) for i in (0, 2, 5, 7)], abs=4)
    assert "variable frame rate: 0.100 to 0.800 s" in video.notes[0]


@pytest.mark.parametrize(("turns", "shape"), [(0, (280, 392)), (1, (392, 280)), (2, (280, 392))])
def test_rotation_is_applied_as_decord_applies_it(tmp_path, turns, shape):
    video = read_video(write_clip(tmp_path / "clip.mp4", width=96, height=64, turns=turns))
    assert video.frames.shape[2:] == shape
    assert video.notes == ()


def test_later_sound_is_noted(tmp_path):
    audio = read_audio(write_clip(tmp_path / "clip.mkv", audio_start=0.5))
    assert "the sound starts 0." in audio.notes[0]


def test_two_sound_tracks_give_the_first(tmp_path):
    audio = read_audio(write_clip(tmp_path / "clip.mp4", audio_hz=500.0, audio_tracks=2))
    assert np.abs(np.fft.rfft(audio.samples)).argmax() / audio.seconds == pytest.approx(500, abs=1)
    assert audio.notes == ("2 audio streams: stream 1 of the container was read",)


def test_files_that_are_no_media(tmp_path):
    (tmp_path / "empty.mp4").touch()
    (tmp_path / "text.mp4").write_text("not a clip\n" * 99)
    for read in (read_video, read_audio):
        assert "got no file at" in refusal(read, tmp_path / "none.mp4")
        assert "got a directory" in refusal(read, tmp_path)
        assert "got 0 bytes" in refusal(read, tmp_path / "empty.mp4")
        assert "or no media file" in refusal(read, tmp_path / "text.mp4")


def test_still_image_is_no_video(tmp_path):
    with av.open(str(tmp_path / "x.png"), "w", format="image2") as container:
        stream = container.add_stream("png", rate=1)
        stream.width, stream.height, stream.pix_fmt = 32, 32, "rgb24"
        frame = av.VideoFrame.from_ndarray(np.zeros((32, 32, 3), np.uint8), format="rgb24")
        container.mux(stream.encode(frame))
    image = (tmp_path / "x.png").rename(tmp_path / "image.mp4")
    assert "got 1: a still image is no video" in refusal(read_video, image)
    one = write_clip(tmp_path / "one.mp4", seconds=0.1, audio_hz=None)
    assert "expected at least 2 frames" in refusal(read_video, one)


def test_missing_tracks(tmp_path):
    silent = write_clip(tmp_path / "silent.mp4", audio_hz=None)
    assert "got only ['video']. Skip the clip" in refusal(read_audio, silent)
    blind = write_clip(tmp_path / "blind.m4a", fps=0)
    assert "got only ['audio']. Name a video." in refusal(read_video, blind)


def test_sound_files_that_are_empty_no_numbers_or_cut_off(tmp_path):
    path = tmp_path / "a.wav"
    soundfile.write(path, np.zeros(0), 16_000)
    assert "0 samples" in refusal(read_audio, path)
    soundfile.write(path, np.array([0, np.nan] * 8_000, np.float32), 16_000, subtype="FLOAT")
    assert "expected finite samples" in refusal(read_audio, path)
    soundfile.write(path, np.random.default_rng(0).uniform(-1, 1, 30_000), 16_000)
    data = path.read_bytes()
    for missing in (1, 4096, 20_000):
        path.write_bytes(data[:-missing])
        assert "cut off" in refusal(read_audio, path)


@pytest.mark.parametrize("share", [0.3, 0.6, 0.9])
@pytest.mark.parametrize("suffix", [".mp4", "fast.mp4", "fragments.mp4", ".mkv"])
def test_cut_off_clip(tmp_path, suffix, share):
    flags = {"fast.mp4": "faststart", "fragments.mp4": "frag_keyframe+empty_moov"}
    options = {"movflags": flags[suffix]} if suffix in flags else {}
    clip = write_clip(tmp_path / f"clip{suffix}", seconds=6.0, options=options)
    data = clip.read_bytes()
    clip.write_bytes(data[: int(len(data) * share)])
    for read in (read_video, read_audio):
        refusal(read, clip)


def test_sound_damaged_in_the_middle(tmp_path):
    clip = write_clip(tmp_path / "clip.m4a", fps=0, seconds=5.0)
    data = bytearray(clip.read_bytes())
    middle = len(data) // 2
    data[middle : middle + 2_000] = bytes(255 - byte for byte in data[middle : middle + 2_000])
    clip.write_bytes(data)
    assert "damaged" in refusal(read_audio, clip)


def remuxed(source: Path, target: Path, change: Callable[[Any], bool]) -> Path:
    """A clip without the packets for which `change`, which may also move them, is false."""
    with av.open(str(source)) as read, av.open(str(target), "w") as written:
        tracks = [written.add_stream_from_template(stream) for stream in read.streams]
        for packet in read.demux():
            if packet.pts is not None and change(packet):
                packet.stream = tracks[packet.stream.index]
                written.mux(packet)
    return target


def test_hole_in_the_sound(tmp_path):
    def outside(packet: Any) -> bool:
        return packet.stream.type != "audio" or not 1.0 < packet.pts * packet.time_base < 1.5

    whole = write_clip(tmp_path / "whole.mkv", seconds=3.0)
    assert "s missing at 1.0" in refusal(read_audio, remuxed(whole, tmp_path / "a.mkv", outside))


def test_frames_hidden_by_an_edit_list(tmp_path):
    def earlier(packet: Any) -> bool:
        second = int(1 / packet.time_base)
        packet.pts, packet.dts = packet.pts - second, packet.dts - second
        return True

    whole = write_clip(tmp_path / "whole.mp4", seconds=3.0, audio_hz=None)
    cut = remuxed(whole, tmp_path / "cut.mp4", earlier)
    assert "hidden by an edit list" in refusal(read_video, cut)


def test_transport_stream_has_no_frames_for_decord(tmp_path):
    clip = write_clip(tmp_path / "clip.ts")
    assert "Remux it" in refusal(read_video, clip)
    assert read_audio(clip).seconds == pytest.approx(2.0, abs=0.15)


def test_extreme_aspect_ratio(tmp_path):
    clip = write_clip(tmp_path / "clip.mp4", width=4_100, height=20, seconds=0.4, audio_hz=None)
    assert "expected an aspect ratio of at most 200, got 4100 x 20" in refusal(read_video, clip)


def test_sizes_follow_the_pipeline():
    settings = MediaSettings()
    assert resized_shape(360, 640, 20, settings) == (364, 644)
    assert resized_shape(316, 600, 28, settings) == (308, 588)
    assert resized_shape(2160, 3840, 20, settings) == (560, 1008)
    assert resized_shape(2160, 3840, 768, settings) == (336, 644)
    with pytest.raises(MediaError, match="expected a frame of at least 28"):
        resized_shape(10, 2_000, 2, MediaSettings(min_pixels=784, max_pixels=7_840))


def test_frame_counts_follow_the_pipeline():
    settings = MediaSettings()
    assert len(sampled_indices(250, 25.0, settings)) == 20
    assert len(sampled_indices(444, 30_000 / 1_001, settings)) == 28
    assert len(sampled_indices(9, 25.0, settings)) == 4
    assert sampled_indices(3, 25.0, settings) == [0, 2]
    assert len(sampled_indices(100_000, 25.0, settings)) == 768


def test_frames_are_those_of_the_pipelines_linspace():
    for total in (1, 2, 3, 9, 10, 250, 1_001, 11_520, 14_013, 30_011, 99_991, 200_000):
        for n in (1, 2, 3, 4, 7, 20, 101, 384, 600, 767, 768):
            every = MediaSettings(fps=1e9, min_frames=1, max_frames=n, frame_factor=1)
            due = torch.linspace(0, total - 1, min(n, total)).round().long().tolist()
            assert sampled_indices(total, 25.0, every) == due


def test_matching_prefers_the_frame_asked_for():
    pictures = np.random.default_rng(0).integers(0, 255, (4, 3, 8, 8)).astype(np.uint8)
    pictures[2] = pictures[1]
    weights = np.array([0.299, 0.587, 0.114])[:, None, None]
    thumbnails = (pictures * weights).sum(1).reshape(4, -1).astype(np.float32)
    assert frames_given(pictures[[0, 2, 3]], [0, 1, 3], thumbnails) == [0, 1, 3]
    assert frames_given(pictures[[0, 3]], [0, 1], thumbnails) == [0, 3]


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("fps", 0.0, "expected fps > 0, got 0.0"),
        ("fps", float("nan"), "expected fps > 0"),
        ("min_frames", 800, "expected min_frames <= max_frames, got 800 > 768"),
        ("max_frames", 1, "expected frame_factor <= max_frames"),
        ("min_pixels", 10**6, "expected min_pixels <= max_pixels"),
        ("max_pixels", 10**6, "expected max_pixels <= 768 * size_factor"),
        ("sampling_rate", -1, "expected sampling_rate > 0"),
    ],
)
def test_settings_that_cannot_be_meant(field, value, message):
    with pytest.raises(MediaError) as caught:
        MediaSettings(**{field: value})
    assert message in str(caught.value)


def mp3(path: Path, wave: np.ndarray, header: bool) -> Path:
    """MP3 of a variable bit rate, with or without a header that says how long it is."""
    options = {"write_xing": str(int(header)), "id3v2_version": "0"}
    with av.open(str(path), "w", format="mp3", options=options) as container:
        coding = {"global_quality": "1062", "flags": "+qscale"}
        stream = container.add_stream("libmp3lame", rate=44_100, layout="mono", options=coding)
        for at in range(0, len(wave), 1152):
            frame = av.AudioFrame.from_ndarray(wave[None, at : at + 1152], "fltp", "mono")
            frame.sample_rate, frame.pts = 44_100, at
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path


def test_mp3_whose_length_is_a_guess(tmp_path):
    noise = 0.5 * np.random.default_rng(0).standard_normal(44_100 * 2).astype(np.float32)
    silence = np.zeros(44_100 * 2, np.float32)
    whole = mp3(tmp_path / "a.mp3", np.concatenate([silence, noise]), header=False)
    np.testing.assert_array_equal(read_audio(whole).samples, librosa.load(whole, sr=16_000)[0])
    short = mp3(tmp_path / "b.mp3", np.concatenate([noise, silence]), header=False)
    assert len(librosa.load(short, sr=None)[0]) < 44_100 * 2  # of four seconds
    assert "Remux it: ffmpeg -i a.mp3 -c copy b.mp3" in refusal(read_audio, short)
    cut = mp3(tmp_path / "c.mp3", np.concatenate([silence, noise]), header=True)
    assert read_audio(cut).seconds == pytest.approx(4)
    cut.write_bytes(cut.read_bytes()[:-9_000])
    assert "cut off" in refusal(read_audio, cut)


@pytest.mark.parametrize(
    ("gains", "lost"),
    [
        ((1, 1), False),
        ((1, 0), False),
        ((1, -0.2), False),
        ((1, -1), True),
        ((1, -0.8), True),
        ((1, 0, 0, 0, 0, 0), False),
        ((1, -1, 0, 0, 0.01, -0.01), True),
    ],
)
def test_channels_that_cancel_are_noted(tmp_path, gains, lost):
    tone = 0.3 * np.sin(np.arange(44_100 * 2) / 20)
    soundfile.write(tmp_path / "a.wav", tone[:, None] * np.array(gains), 44_100)
    notes = read_audio(tmp_path / "a.wav").notes
    assert ["in 2 of 2 s with sound" in note for note in notes] == [True] * lost


def test_channels_of_no_relation_do_not_cancel(tmp_path):
    noise = 0.1 * np.random.default_rng(0).standard_normal((44_100, 2))
    soundfile.write(tmp_path / "a.wav", noise, 44_100)
    assert read_audio(tmp_path / "a.wav").notes == ()


def test_memory_has_a_limit(tmp_path, monkeypatch):
    long, promised = tmp_path / "long.flac", "or more for"
    soundfile.write(long, np.zeros(8_000 * 3_600, np.int16), 8_000)
    assert "at most 1 GB of memory to read, got 1.04 GB" in refusal(read_audio, long)
    clip = write_clip(tmp_path / "clip.mp4", seconds=4.0)
    for read, gigabytes in ((read_audio, "0.001"), (read_video, "0.0002"), (read_video, "0.00001")):
        monkeypatch.setenv("HOOKED_OMNI_MEDIA_GB", gigabytes)
        text = refusal(read, clip)
        assert promised in text and "--media-gb" in text and "HOOKED_OMNI_MEDIA_GB" in text
    aac = write_clip(tmp_path / "clip.aac", fps=0, seconds=4.0)  # says no length
    assert promised in refusal(read_audio, aac)
    monkeypatch.setenv("HOOKED_OMNI_MEDIA_GB", "much")
    assert "got 'much'" in refusal(read_audio, clip)
    monkeypatch.setenv("HOOKED_OMNI_MEDIA_GB", "inf")
    assert read_audio(clip).seconds == pytest.approx(4, abs=0.1)


def test_narrow_picture_is_to_be_scaled(tmp_path):
    clip = write_clip(tmp_path / "clip.mp4", width=72, height=48, seconds=0.4, audio_hz=None)
    assert "72 x 48" in refusal(read_video, clip)
    assert refusal(read_video, clip).endswith("Scale it to 80 pixels or more each way.")


@pytest.mark.parametrize(
    "before", [bytes(400), b"APETAGEX" + bytes(90), b"\xff\xfb" * 3 + bytes(700)]
)
def test_a_cut_mp3_whose_header_is_not_at_once(tmp_path, before):
    wave = 0.5 * np.random.default_rng(0).standard_normal(44_100 * 2).astype(np.float32)
    whole = before + mp3(tmp_path / "a.mp3", wave, header=True).read_bytes()
    (tmp_path / "b.mp3").write_bytes(whole)
    assert read_audio(tmp_path / "b.mp3").seconds == pytest.approx(2)
    (tmp_path / "b.mp3").write_bytes(whole[: len(whole) * 2 // 3])
    assert "cut off" in refusal(read_audio, tmp_path / "b.mp3")


@pytest.mark.parametrize("kind", ["VORBIS", "OPUS"])
def test_a_cut_ogg_is_refused(tmp_path, kind):
    """It says nowhere how long it is, but which page is the last."""
    path = tmp_path / "a.ogg"
    tone = 0.3 * np.sin(np.arange(48_000 * 3) / 20)
    soundfile.write(path, tone, 48_000, format="OGG", subtype=kind)
    whole = path.read_bytes()
    assert read_audio(path).seconds == pytest.approx(3, abs=0.1)
    for n in (len(whole) // 2, len(whole) * 9 // 10, len(whole) - 1, whole.rfind(b"OggS")):
        path.write_bytes(whole[:n])
        assert "expected" in refusal(read_audio, path)


def test_a_path_that_is_too_long_is_no_file(tmp_path):
    for read in (read_audio, read_video):
        assert "got no file" in refusal(read, tmp_path / ("a" * 300))
