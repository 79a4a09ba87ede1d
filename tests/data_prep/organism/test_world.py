"""The synthetic world: equal seeds give equal bytes, captions are true, collisions are refused."""

from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from scipy.signal import correlate

from data_prep.__main__ import main
from data_prep.manifest import read_manifest
from data_prep.organism.evaluation.scoring import Score, score
from data_prep.organism.training.curriculum import AUDIO_VISUAL, Mixture, draw_batch
from data_prep.organism.training.models import MEDIA
from data_prep.organism.world import dataset, sounds
from data_prep.organism.world import pictures as looks
from data_prep.organism.world import things as world
from data_prep.organism.world.captions import answers, audio_captions, video_captions
from data_prep.organism.world.things import THINGS, Thing, clips, derangement
from hooked_omni.errors import ManifestError
from hooked_omni.inputs.audio import read_audio
from hooked_omni.inputs.video import read_video

PAIR = THINGS[:2]


def test_equal_seeds_give_equal_files(tmp_path: Path) -> None:
    clip = clips(PAIR, "test", 1, 0)[0]
    first, again = (dataset.write_mp4(clip, PAIR[0], tmp_path / name) for name in "ab")
    assert first.read_bytes() == again.read_bytes()
    other = dataset.write_mp4(clips(PAIR, "test", 1, 1)[0], PAIR[0], tmp_path / "a")
    assert other.read_bytes() != first.read_bytes()


def test_a_clip_does_not_depend_on_how_many_there_are() -> None:
    few, many = (clips(THINGS, "train", n, 3) for n in (2, 5))
    assert set(few) <= set(many)


def test_no_clip_is_in_two_splits() -> None:
    seeds = [clip.seed for split in world.SPLITS for clip in clips(THINGS, split, 20, 0)]
    assert len(set(seeds)) == len(seeds)


def test_look_and_sound_are_independent() -> None:
    clip = clips(PAIR, "test", 1, 0)[0]
    sound = sounds.samples(clip, 1.0)
    assert np.array_equal(sound, sounds.samples(replace(clip, place="left", scene="room"), 1.0))
    louder = replace(clip, loudness="loudly")
    assert np.array_equal(looks.frames(clip, PAIR[0], 1.0), looks.frames(louder, PAIR[0], 1.0))


def test_every_thing_has_a_look_and_a_sound() -> None:
    nouns = {thing.noun for thing in THINGS}
    assert nouns == set(sounds.SOUNDS) == set(looks.SHAPES)
    for thing in THINGS:
        clip = replace(clips(THINGS, "test", 1, 0)[0], noun=thing.noun, loudness="softly")
        assert 0.02 < np.abs(sounds.samples(clip, 1.0)).max() < 0.1
        assert 0.45 < np.abs(sounds.samples(replace(clip, loudness="loudly"), 1.0)).max() <= 1


def test_the_decoder_gives_the_picture_and_the_sound_back(tmp_path: Path) -> None:
    for clip in clips(PAIR, "test", 1, 0):
        thing = next(thing for thing in THINGS if thing.noun == clip.noun)
        path = dataset.write_mp4(clip, thing, tmp_path)
        video, audio = read_video(path, MEDIA), read_audio(path, MEDIA)
        assert video.frames.shape == (4, 3, 56, 56)
        drawn = looks.frames(clip, thing, 1.0)[0].astype(float)
        small = drawn.reshape(56, 2, 56, 2, 3).mean((1, 3)).transpose(2, 0, 1)
        assert np.abs(video.frames[0].numpy() - small).mean() < 8
        made = sounds.samples(clip, 1.0)
        lag = correlate(audio.samples, made[:12000], "valid", "fft")
        assert lag.max() > 0.9 * (made[:12000] ** 2).sum()


@pytest.mark.parametrize(
    ("things", "words"),
    [
        ((PAIR[0], replace(PAIR[1], noun="dog")), "every noun and verb once"),
        ((PAIR[0], replace(PAIR[1], verb="barking")), "every noun and verb once"),
        ((PAIR[0], replace(PAIR[1], color=(222, 140, 60))), "colors at least 30 apart"),
        ((PAIR[0], replace(PAIR[1], noun="street")), "captions do not use otherwise"),
        ((PAIR[0], replace(PAIR[1], noun="fire truck")), "small letters"),
        ((PAIR[0], replace(PAIR[1], noun="engine")), "begin with a consonant"),
        (PAIR[:1], "at least 2 things"),
    ],
)
def test_things_that_collide_are_refused(things: tuple[Thing, ...], words: str) -> None:
    with pytest.raises(ManifestError, match=words):
        clips(things, "train", 1, 0)


def test_captions_tell_the_truth() -> None:
    for clip in clips(THINGS, "test", 2, 0):
        for text in answers("both", video_captions(clip), audio_captions(clip, THINGS)):
            right = Score(True, True, True, True, True)
            assert score(text, "both", clip.noun, clip.noun, THINGS) == right
        assert all(clip.scene in text for text in video_captions(clip))
        assert all(clip.loudness in text for text in audio_captions(clip, THINGS))


@pytest.mark.parametrize(
    ("text", "question", "expected"),
    [
        ("a siren is wailing loudly", "hear", Score(True, True, True, False)),
        ("a dog is wailing loudly", "hear", Score(False, False, True, True)),
        ("a dog is barking loudly", "hear", Score(False, False, False, True)),
        ("a siren a dog wailing", "hear", Score(False, False, True, False)),
        ("a dog is on the left", "see", Score(video=True)),
        ("there is a dog in a park and a siren is wailing softly", "both",
         Score(True, True, True, False, True)),
        ("there is a dog in a park", "both", Score(False, False, False, False, True)),
    ],
)  # fmt: skip
def test_scores_of_known_answers(text: str, question: str, expected: Score) -> None:
    assert score(text, question, "dog", "siren", THINGS) == expected


def test_disagreement_is_exact_and_the_only_difference() -> None:
    things = list(range(12)) * 10
    every = frozenset(things)
    pairs = {n: Mixture(things, n, every, 0.3, lambda a, b: False) for n in (0.01, 0.5)}
    swapped: Counter[tuple[float, bool]] = Counter()
    total: Counter[bool] = Counter()
    for step in range(140):
        few, many = (draw_batch(AUDIO_VISUAL, pairs[share], [0], step, 32) for share in pairs)
        assert (few.media, few.question, few.pictures) == (many.media, many.question, many.pictures)
        if few.media != "clip":
            assert few.sounds == many.sounds == few.pictures
            continue
        see = few.question == "see"
        total[see] += 32
        for share, one in ((0.01, few), (0.5, many)):
            other = [things[p] != things[s] for p, s in zip(one.pictures, one.sounds, strict=True)]
            swapped[share, see] += sum(other)
    assert swapped[0.01, False] == int(total[False] * 0.01)
    assert swapped[0.5, False] == total[False] // 2
    assert swapped[0.01, True] == swapped[0.5, True] == int(total[True] * 0.3)


def test_only_sounds_from_off_screen_disagree_and_held_out_pairs_never_do() -> None:
    things = list(range(12)) * 10
    pairs = Mixture(things, 1.0, frozenset({1, 7}), 1.0, lambda a, b: (a - b) % 4 == 0)
    for step in range(28):
        one = draw_batch(AUDIO_VISUAL, pairs, [0], step, 16)
        if one.media != "clip":
            continue
        for picture, sound in zip(one.pictures, one.sounds, strict=True):
            seen, heard = things[picture], things[sound]
            assert (seen - heard) % 4
            assert one.question == "see" or heard in (1, 7)


def test_a_derangement_uses_every_sound_once_for_another_thing() -> None:
    nouns = [clip.noun for clip in clips(THINGS, "test", 5, 0)]
    order = derangement(nouns, 0)
    assert sorted(order) == list(range(len(nouns)))
    assert all(nouns[i] != nouns[j] for i, j in enumerate(order))
    with pytest.raises(ManifestError, match="swap sounds with another"):
        derangement(["dog"] * 3 + ["siren"], 0)


def test_the_world_command_writes_clips_and_pairs(tmp_path: Path) -> None:
    with pytest.raises(SystemExit) as done:
        main(["organism", "world", "--out", str(tmp_path), "--clips", "1"])
    assert not done.value.code
    samples = read_manifest(tmp_path / "pairs.jsonl")
    assert Counter(sample.kind for sample in samples) == {"factual": 12, "counterfactual": 12}
    originals = {(sample.id, sample.video) for sample in samples if sample.kind == "factual"}
    for sample in samples:
        assert (tmp_path / str(sample.video)).is_file()
        said = " ".join(sample.audio_captions)
        if sample.kind == "counterfactual":
            assert (tmp_path / str(sample.audio)).is_file()
            assert sample.extra["noun"] not in said.split()
            assert sample.extra["heard"] in said.split()
            assert (sample.twin, sample.video) in originals
        assert all(sample.extra["noun"] in text.split() for text in sample.video_captions)
    with pytest.raises(ManifestError, match="same world"):
        dataset.write_world(tmp_path, 2, 0, "test")
