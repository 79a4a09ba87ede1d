"""The kept weights are those of the pattern, to the bound that is written beside them."""

from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from torch import Tensor

from analyses import attention_map
from analyses.attention_map import Config
from analyses.attention_map.packing import NONE, KeptWeights, packed, unpacked
from analyses.attention_map.table import COLUMNS
from analyses.attention_share.shares import forced_shares
from analyses.cases import Case, prefilled
from analyses.text.pieces import word_ranges, words
from hooked_omni import HookedOmni, names
from hooked_omni.decoding.score import forced_logits
from hooked_omni.errors import ResultsError
from tests.support.planted import HEARD_HEAD, SEEN_HEAD, asked, planted


@pytest.fixture(scope="module")
def known() -> HookedOmni:
    return planted(heard_at=2, seen_at=5)


@pytest.fixture(scope="module")
def made(known: HookedOmni) -> pd.DataFrame:
    return attention_map.run(known, [asked(known, heard="dog", seen="bus")], Config(kept=24))


def weights_of(row: Any) -> KeptWeights:
    sizes = [int(row[name]) for name in ("n_layers", "n_heads", "n_queries", "n_kept")]
    return unpacked(row["packed"], (sizes[0], sizes[1], sizes[2], sizes[3]), len(row["segments"]))


def patterns(omni: HookedOmni, prompt: Any, tokens: Tensor) -> dict[int, Tensor]:
    """Every layer's whole pattern of the generated positions."""
    found: dict[int, list[Tensor]] = {layer: [] for layer in range(omni.model.cfg.n_layers)}

    def keep(pattern: Tensor, hook: Any) -> None:
        if hook.window.start >= prompt.n_pos:
            found[names.layer_of(hook.name) or 0].append(pattern[0].clone())

    forced_logits(omni.model, prompt, tokens, [(names.pattern(layer), keep) for layer in found])
    return {layer: torch.cat(parts, 1) for layer, parts in found.items()}


@pytest.mark.parametrize("name", ["planted", "omni3", "internvl"])
def test_every_weight_is_the_patterns_to_the_bound_and_sums_are_exact(
    known: HookedOmni, models: dict, clips: dict, name: str
) -> None:
    if name == "planted":
        omni, prompt = known, asked(known, heard="dog", seen="bus")
    else:
        omni = models[name]
        kind = "audio in video" if name == "omni3" else "video"
        prompt = omni.embed_inputs(**clips[name, kind])
    (row,) = attention_map.run(omni, [prompt], Config(max_new_tokens=6, kept=9)).to_dict("records")
    tokens = omni.model.generate(prompt, max_new_tokens=6).tokens
    whole, own = patterns(omni, prompt, tokens), weights_of(row)
    n_pos, segments = prompt.n_pos, row["segments"]
    shares = forced_shares(omni.model, prompt, tokens, segments)
    for layer, pattern in whole.items():
        paid = pattern[..., :n_pos].numpy()  # head, query, key
        rebuilt = np.zeros((*paid.shape[:2], NONE + 1))
        np.put_along_axis(rebuilt, own.positions[layer].astype(int), own.weights[layer], -1)
        assert np.abs(rebuilt[..., :n_pos] - paid).max() <= row["bound"] + 1e-6
        assert not rebuilt[..., n_pos:].any()
        for i, segment in enumerate(segments):
            theirs = shares[segment][:, layer].T.numpy()
            assert np.abs(own.sums[layer, :, :, i] - theirs).max() < 1e-5
    assert 0 < row["bound"] < 0.5 and np.allclose(own.sums.sum(-1), 1, atol=1e-4)
    assert (np.diff(own.positions.astype(int), axis=-1) >= 0).all()


def test_the_planted_heads_look_at_their_own_modality(known, made) -> None:
    (row,) = made.to_dict("records")
    assert list(made.columns) == ["sample", "kind", "question", *COLUMNS]
    own, at = weights_of(row), set(row["video_position"])
    heard, seen = (own.positions[layer, head] for layer, head in ((2, HEARD_HEAD), (5, SEEN_HEAD)))
    assert {int(p) for p in heard.flat} - {NONE} <= set(row["audio_position"])
    assert {int(p) for p in seen.flat} - {NONE} <= at
    assert row["answer"] == "A bus." and row["token_text"] == ("A", " bus", ".")
    cells = list(zip(row["video_frame"], row["video_row"], row["video_column"], strict=True))
    assert len(set(cells)) == len(cells) == len(at) and row["no_grid"] == ""
    assert len(row["frame_seconds"]) == max(row["video_frame"]) + 1
    assert list(row["audio_second"]) == sorted(row["audio_second"])


def test_more_kept_weights_leave_less_out(known) -> None:
    prompt = asked(known, heard="dog", seen="bus")
    few, many = (attention_map.run(known, [prompt], Config(kept=n)).iloc[0] for n in (4, 1000))
    assert many["n_kept"] == prompt.n_pos and many["bound"] <= 1 / 256 < few["bound"]
    assert all(m > f for m, f in zip(many["kept_share"], few["kept_share"], strict=True))


def test_the_kept_share_is_of_what_the_bytes_hold(omni, prompt) -> None:
    row = attention_map.run(omni, [prompt], Config(6, kept=500)).iloc[0]
    read = weights_of(row)
    on_prompt = read.sums[..., :-1].sum((1, 2, 3))
    held = 100 * read.weights.sum((1, 2, 3)) / on_prompt
    assert row["kept_share"] == pytest.approx(held.tolist(), abs=2)  # but for rounding
    assert max(row["kept_share"]) < 90  # most weights are too small to be kept


def test_a_prefilled_case_has_the_same_bytes(known) -> None:
    case = Case(asked(known, heard="dog", seen="bus"), "a")
    first, second = (attention_map.run(known, [c]) for c in (case, prefilled(known, case)))
    pd.testing.assert_frame_equal(first, second)


def test_what_a_map_cannot_show_is_said(models, clips, known) -> None:
    omni = models["phi4"]
    (row,) = attention_map.run(omni, [omni.embed_inputs(**clips["phi4", "audio"])]).to_dict(
        "records"
    )
    assert row["video_position"] == () and row["no_grid"] == "" and row["audio_position"]
    text = models["omni"].model.as_prompt(torch.arange(2, 30)[None])
    (row,) = attention_map.run(models["omni"], [text]).to_dict("records")
    assert row["audio_position"] == () and row["segments"] == ("text", "generated")
    with pytest.raises(ResultsError, match="got 1 and 12"):
        Config(max_new_tokens=1)
    for kept in (0, -1, 1001):
        with pytest.raises(ResultsError, match=f"and {kept}"):
            Config(kept=kept)


@pytest.mark.parametrize("seed", range(5))
def test_packing_loses_no_more_than_it_says(seed: int) -> None:
    rng = np.random.default_rng(seed)
    n_layers, n_heads, n_queries, n_kept = (int(n) for n in rng.integers(1, [6, 6, 6, 40]))
    shape = n_layers, n_heads, n_queries, n_kept
    weights = rng.dirichlet(np.full(shape[-1], 0.1), shape[:3])
    positions = rng.permuted(np.tile(np.arange(shape[-1]) * 100, (*shape[:3], 1)), axis=-1)
    sums = rng.dirichlet([1, 1, 1], shape[:3])
    data, error = packed(positions, weights, sums)
    back = unpacked(data, shape, 3)
    for at in np.ndindex(shape[:3]):
        was = dict(zip(positions[at].tolist(), weights[at].tolist(), strict=True))
        now = dict(zip(back.positions[at].tolist(), back.weights[at].tolist(), strict=True))
        now.pop(NONE, None)
        assert set(now) <= set(was)
        assert max(abs(was[p] - now.get(p, 0)) for p in was) <= error + 1e-12
    assert error <= 1 / 256 and np.abs(back.sums - sums).max() <= 0.5 / 65_535 + 1e-12


@pytest.mark.parametrize("damage", [b"", b"x", b"\xff" * 40])
def test_bytes_that_are_none_of_ours(damage: bytes) -> None:
    with pytest.raises(ResultsError, match="Make the table again"):
        unpacked(damage, (1, 1, 1, 4), 2)
    one = np.full((1, 1, 1, 4), 0.25)
    good = packed(np.arange(4).reshape(one.shape), one, one[..., :2])[0]
    with pytest.raises(ResultsError, match="expected 32 bytes"):
        unpacked(good, (1, 1, 2, 4), 2)


def test_the_figure_says_what_is_kept(made) -> None:
    lines = attention_map.headline(made)
    assert "24 largest weights" in lines[0] and f"{made['bound'].max():.4f}" in lines[-1]
    assert attention_map.plot(made).axes
    with pytest.raises(ResultsError, match="expected rows"):
        attention_map.plot(made[:0])


@pytest.mark.parametrize(
    "pieces", [[], [""], ["", "a"], ["A", " sir", "en", "", " wails", "."], ["very", " very", "!"]]
)
def test_words_and_their_ranges_are_one(pieces: list[str]) -> None:
    ranges = word_ranges(pieces)
    assert [text for start, end, text in ranges for _ in range(start, end)] == words(pieces)
    assert [i for start, end, _ in ranges for i in range(start, end)] == [*range(len(pieces))]
