"""Which patch of the picture is each position? Pixels prove it, and rotary positions agree."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from hooked_omni import EmbeddedPrompt, HookedOmni, Prompt
from hooked_omni.errors import SpanError
from hooked_omni.families import FAMILIES
from hooked_omni.families.checks import cells, square_cells
from hooked_omni.inputs.image import Image
from hooked_omni.inputs.spans import Spans
from hooked_omni.inputs.video import Video
from tests.support.models import CLIP_OF, frames
from tests.support.standins import STANDINS
from tests.support.standins.parts import near_sighted

LOOK = Prompt("What now?", video="clip", use_audio_in_video=False)
SEES = [name for name, kind in CLIP_OF.items() if "video" in kind]
MROPE = [n for n in SEES if n not in ("internvl", "video-llama3", "llava-onevision")]


@pytest.mark.parametrize("name", SEES)
def test_a_changed_patch_is_felt_most_at_its_own_position(models: dict, name: str) -> None:
    """In every family: turn one patch of one step around, and its cell's embedding moves most."""
    felt_most(models[name], frames(8, side=models[name].media.size_factor), lambda part: 255 - part)


STEPS = {"internvl2": 8, "internomni": 8, "videollama2.1-av": 8}


@pytest.mark.parametrize("name", list(STEPS))
def test_so_is_that_of_a_family_that_is_not_in_transformers(name: str) -> None:
    """Stand-ins, whose towers see one cell at a time: what comes before and after is the family's.

    Not of the released towers, in which every patch reads all others.
    """
    hf, processor = STANDINS[name]()
    hf.num_image_token = 9
    hf.tower = lambda pixels: near_sighted(pixels, (STEPS[name], 3, 3))
    clip = frames(16 if name.startswith("video") else 8, side=84)
    omni = HookedOmni.from_hf(hf, processor)
    assert felt_most(omni, clip, torch.zeros_like) == [STEPS[name], 3, 3]


def felt_most(omni: HookedOmni, clip: Video, change: Callable[[Tensor], Tensor]) -> list[int]:
    """Change cells of a clip, one at a time; what moves most is what the grid says. Its size."""
    before = omni.embed_media(LOOK, (clip,))
    grid, at = before.spans.grid["video"], before.spans["video"]
    n_steps, n_rows, n_columns = size = (grid.max(0).values + 1).tolist()
    sizes = [
        n // parts for n, parts in zip(clip.frames.shape[2:], (n_rows, n_columns), strict=True)
    ]
    per_step = len(clip.frames) // n_steps
    rng = torch.Generator().manual_seed(0)
    for cell in cells(*size)[torch.randperm(len(grid) - 1, generator=rng)[:4]]:
        step, row, column = cell.tolist()
        pixels = clip.frames.clone()
        height, width = (
            slice(i * n, (i + 1) * n) for i, n in zip((row, column), sizes, strict=True)
        )
        part = pixels[step * per_step : (step + 1) * per_step, :, height, width]
        part.copy_(change(part))
        after = omni.embed_media(LOOK, (replace(clip, frames=pixels),))
        moved = (after.embeds - before.embeds)[0, at].norm(dim=-1)
        assert grid[moved.argmax()].tolist() == [step, row, column]
        first, second = moved.sort(descending=True).values[:2]
        assert first > 3 * second
    return size


@pytest.mark.parametrize("name", MROPE)
def test_rows_and_columns_are_those_of_the_rotary_positions(models, clips, name) -> None:
    prompt = models[name].embed_inputs(**clips[name, CLIP_OF[name]])
    grid, at = prompt.spans.grid["video"], prompt.spans["video"]
    for axis in (1, 2):
        offset = prompt.position_ids[axis, 0, at] - grid[:, axis]
        for step in grid[:, 0].unique():  # a time in words before each step moves it
            assert len(offset[grid[:, 0] == step].unique()) == 1
    assert torch.equal(prompt.spans.frames["video"], grid[:, 0])


@pytest.mark.parametrize("name", ["omni", "vl3"])
def test_an_image_is_one_frame_and_parts_have_grids_of_their_own(models, name) -> None:
    omni = models[name]
    side = omni.media.size_factor
    wide = Image(torch.rand(3, 2 * side, 5 * side) * 255, ())
    asked = Prompt(items=[("image", "a"), ("video", "b"), ("image", "c"), ("text", "What now?")],
                   use_audio_in_video=False)  # fmt: skip
    prompt = omni.embed_media(asked, (wide, frames(4, side=side), wide))
    assert set(prompt.spans.grid) == {"image.1", "image.2", "video"}
    for kind in ("image.1", "image.2"):
        assert torch.equal(prompt.spans.grid[kind], cells(1, 2, 5))
    position_ids = prompt.position_ids[1:, 0, prompt.spans["image.2"]]
    offset = position_ids - prompt.spans.grid["image.2"][:, 1:].T
    assert [len(row.unique()) for row in offset] == [1, 1]


def test_a_new_line_is_in_no_cell_and_dropped_tokens_leave_holes(models) -> None:
    onevision = models["llava-onevision"]
    spans = onevision.embed_media(LOOK, (frames(8, side=onevision.media.size_factor),)).spans
    assert spans.grid["video"][-1].tolist() == [7, -1, -1]
    omni = models["video-llama3"]
    clip = frames(4, side=omni.media.size_factor)
    pixels = clip.frames.clone()
    pixels[2] = pixels[1]
    grid = omni.embed_media(LOOK, (replace(clip, frames=pixels),)).spans.grid["video"]
    assert torch.equal(grid[grid[:, 0] != 2], cells(4, 2, 3)[[*range(12), *range(18, 24)]])
    assert len(grid) < 24


def test_where_rows_are_not_known_there_is_no_grid_but_a_reason() -> None:
    without = {family.name for family in FAMILIES if family.no_grid}
    assert without == {"phi-4-multimodal", "minicpm-o-2.6", "minicpm-o-4.5"}
    assert square_cells(12, 6).tolist() == [0] * 6 + [1] * 6  # six tokens make no square
    assert torch.equal(square_cells(8, 4), cells(2, 2, 2))


def test_a_saved_prompt_keeps_its_grid(models, clips, tmp_path) -> None:
    omni = models["omni3"]
    prompt = omni.embed_inputs(**clips["omni3", "audio in video"])
    loaded = EmbeddedPrompt.load(prompt.save(tmp_path / "prompt.safetensors"))
    assert torch.equal(loaded.spans.grid["video"], prompt.spans.grid["video"])
    assert len(prompt.spans.grid["video"]) == len(prompt.spans["video"])
    assert "no_grid" in loaded.facts


GRID = cells(2, 1, 2)
WRONG: dict[str, tuple[Any, str]] = {
    "a cell twice": (GRID[[0, 0, 2, 3]], "a cell twice"),
    "half of a cell": (torch.tensor([[0, -1, 0], [0, 0, 1], [1, 0, 0], [1, 0, 1]]), "half"),
    "other steps": (GRID[[2, 3, 0, 1]], "other steps"),
    "a position too few": (GRID[:3], r"torch.Size\(\[3, 3\]\)"),
    "one axis": (GRID[:, 0], "grid of 'video'"),
    "two columns": (GRID[:, :2], "grid of 'video'"),
    "floats": (GRID.float(), "torch.float32"),
    "int32": (GRID.int(), "torch.int32"),
    "below -1": (GRID - 2, "not from -1"),
    "too large": (GRID + 100, "not from -1 to below 4"),
    "no tensor": ([[0, 0, 0]] * 4, "list"),
}


@pytest.mark.usefixtures("as_installed")
@pytest.mark.parametrize("wrong", list(WRONG))
def test_a_grid_that_is_wrong_is_refused(wrong: str) -> None:
    positions, steps = (
        {"video": torch.arange(4), "audio": torch.arange(4, 8)},
        torch.tensor([0, 0, 1, 1]),
    )
    Spans(positions, 9, {}, {"video": steps}, {"video": GRID})
    given, value = WRONG[wrong]
    with pytest.raises(SpanError, match=value):
        Spans(positions, 9, {}, {"video": steps}, {"video": given})
    with pytest.raises(SpanError, match="grid of 'audio'"):  # a sound has none
        Spans(positions, 9, {}, {"audio": steps}, {"audio": GRID})
    with pytest.raises(SpanError, match="grid of 'image'"):
        Spans(positions, 9, {}, {}, {"image": GRID})
