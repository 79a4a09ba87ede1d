"""The kept weights are those of the pattern, to the bound that is written beside them."""

from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from torch import Tensor

from analyses import attention_map
from analyses.attention_map import Config, table
from analyses.attention_map.packing import NONE, KeptWeights, levels, packed, unpacked
from analyses.attention_map.table import COLUMNS
from analyses.attention_share.shares import forced_shares
from analyses.cases import Case, prefilled
from analyses.text.pieces import word_ranges, words
from hooked_omni import HookedOmni, Prompt, names
from hooked_omni.decoding.score import forced_logits
from hooked_omni.errors import ResultsError
from tests.support.models import sound
from tests.support.planted import HEARD_HEAD, SEEN_HEAD, asked, planted


@pytest.fixture(scope="module")
def known() -> HookedOmni:
    return planted(heard_at=2, seen_at=5)


@pytest.fixture(scope="module")
def made(known: HookedOmni) -> pd.DataFrame:
    return attention_map.run(known, [asked(known, heard="dog", seen="bus")], Config(kept=24))


def weights_of(row: Any) -> KeptWeights:
    sizes = [int(row[name]) for name in ("n_layers", "n_heads", "n_queries", "n_kept")]
    return unpacked(row["packed"], (sizes[0], sizes[1], sizes[2], sizes[3]), len(row["part_of"]))


def parts_of(row: Any) -> list[tuple[str, int, bool]]:
    return [*zip(row["part_of"], row["part_at"], row["part_sink"], strict=True)]


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
        for segment in segments:
            theirs = shares[segment][:, layer].T.numpy()
            mine = [i for i, one in enumerate(row["part_of"]) if one.partition(".")[0] == segment]
            assert np.abs(own.sums[layer][..., mine].sum(-1) - theirs).max() < 1e-5
        for i, part in enumerate(parts_of(row)):
            if part[0] != "generated":
                theirs = paid[..., members(row, prompt, *part)].sum(-1)
                assert np.abs(own.sums[layer, ..., i] - theirs).max() < 1e-5
    assert 0 < row["bound"] < 0.5 and np.allclose(own.sums.sum(-1), 1, atol=1e-4)
    assert (np.diff(own.positions.astype(int), axis=-1) >= 0).all()
    assert row["sum_bound"] < 1e-5 and len(row["frame_seconds"]) < len(parts_of(row))


def members(row: Any, prompt: Any, of: str, at: int, sink: bool) -> list[int]:
    """Positions of a part, by the prompt's own spans."""
    inside = set(prompt.spans[of].tolist())
    cells = dict(zip(row["video_position"], row["video_frame"], strict=True))
    times = dict(zip(row["audio_position"], map(int, row["audio_second"]), strict=True))
    when = {position: {**cells, **times}.get(position, -1) for position in inside}
    sinks = {position for position in row["sinks"] if when.get(position, -1) >= 0}
    return [p for p in sorted(inside) if when[p] == at and (p in sinks) == sink]


def test_sinks_of_a_frame_are_a_part_of_their_own(known) -> None:
    prompt, rng = asked(known, heard="dog", seen="bus"), torch.Generator().manual_seed(0)
    parts = table._parts(prompt, table._grid(prompt))
    kept = table._Kept(known.model, prompt, 5, parts, 9)
    paid = torch.rand(6, 4, 5, prompt.n_pos + 1, generator=rng).softmax(-1)
    kept.sums = torch.stack([paid[..., kept.part == i].sum(-1) for i in range(len(kept.parts))], -1)
    first = prompt.spans["video"][0]
    sinks = torch.stack([first - first, first, first + 1, prompt.spans["audio"][-1]])
    found, sums = kept.without(sinks, paid[..., sinks].permute(2, 0, 1, 3))
    assert [one for one in found if one[2]] == [("audio", 2, True), ("video", 0, True)]
    at = {one: sums[..., i] for i, one in enumerate(found)}
    apart = at["video", 0, True], at["audio", 2, True]
    torch.testing.assert_close(apart[0], paid[..., sinks[1:3]].sum(-1))
    torch.testing.assert_close(apart[1], paid[..., sinks[3]])
    torch.testing.assert_close(sums.sum(-1), torch.ones(6, 4, 5))
    others = paid[..., kept.part == kept.parts.index(("video", 0, False))].sum(-1)
    torch.testing.assert_close(at["video", 0, False] + apart[0], others)


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
    on_prompt = read.sums[..., np.array(row["part_of"]) != "generated"].sum((1, 2, 3))
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
    omni = models["omni"]
    items = [("audio", "a"), ("text", "What now?"), ("audio", "b")]
    two = omni.embed_media(Prompt(items=items), (sound(2.0), sound(1.0)))
    (row,) = attention_map.run(omni, [two], Config(4)).to_dict("records")
    heard = [one for one in parts_of(row) if one[0].startswith("audio")]
    assert heard == [("audio.1", 0, False), ("audio.1", 1, False), ("audio.2", 0, False)]
    assert len(row["audio_position"]) == len(two.spans["audio"])
    with pytest.raises(ResultsError, match="got 1 and 9"):
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
    back = unpacked(data, shape, sums.shape[-1])
    for at in np.ndindex(shape[:3]):
        was = dict(zip(positions[at].tolist(), weights[at].tolist(), strict=True))
        now = dict(zip(back.positions[at].tolist(), back.weights[at].tolist(), strict=True))
        now.pop(NONE, None)
        assert set(now) <= set(was)
        assert max(abs(was[p] - now.get(p, 0)) for p in was) <= error + 1e-12
    assert error <= 1 / 256


@pytest.mark.parametrize("n_parts", [1, 22, 400])
def test_rounding_does_not_add_up(n_parts: int) -> None:
    """Of any run of parts and any run of heads the sum is off by two steps at most."""
    rng = np.random.default_rng(n_parts)
    shape = 6, 8, 12
    sums = rng.dirichlet(np.full(n_parts, 0.3), shape)
    sums[0, 0, :, 1:] = 0
    sums[0, 0, :, 0] = 1
    none = np.zeros((*shape, 1), int)
    back = unpacked(packed(none, none.astype(float), sums)[0], (*shape, 1), n_parts).sums
    apart = np.cumsum((back - sums).reshape(48, 12, n_parts), 0)
    apart = np.pad(np.cumsum(apart, -1), ((1, 0), (0, 0), (1, 0)))
    off = max(float(np.ptp(apart[i:] - apart[i], axis=-1).max()) for i in range(48))
    assert off <= 2 / levels(sums.size) + 1e-9
    assert levels(sums.size) == (2**18 - 1 if n_parts < 400 else 1023)
    assert np.allclose(back.sum(-1), 1, atol=1e-9)  # exact, as parts are a whole


@pytest.mark.parametrize("damage", [b"", b"x", b"\xff" * 40])
def test_bytes_that_are_none_of_ours(damage: bytes) -> None:
    with pytest.raises(ResultsError, match="Make the table again"):
        unpacked(damage, (1, 1, 1, 4), 2)
    one = np.full((1, 1, 1, 4), 0.25)
    good = packed(np.arange(4).reshape(one.shape), one, one[..., :2])[0]
    with pytest.raises(ResultsError, match="expected 36 bytes"):
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
