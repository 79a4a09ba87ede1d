"""A case that was made ready is embedded and passed over once, whatever is asked of it."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from clips import write_clip

from analyses.cases import Case, Skip, door, ready
from hooked_omni import HookedOmni, MediaSettings, Prompt, load
from hooked_omni.prefill import PrefilledPrompt

SMALL = MediaSettings(min_pixels=2 * 2 * 28 * 28, max_pixels=3 * 3 * 28 * 28)


@pytest.fixture(scope="module")
def film(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_clip(tmp_path_factory.mktemp("clips") / "film.mp4")


@pytest.fixture
def case(film: Path) -> Case:
    return Case(Prompt("Describe what you hear.", video=film, media=SMALL), "film")


@pytest.fixture
def positions(omni: HookedOmni) -> Iterator[list[int]]:
    """How many positions each pass has covered, once for each row."""
    seen: list[int] = []
    block: Any = omni.model.blocks[0]
    handle = block.register_forward_pre_hook(lambda _m, args: seen.append(args[0].shape[1]))
    yield seen
    handle.remove()


def test_a_ready_case_is_the_same_case_at_the_door(omni: HookedOmni, case: Case) -> None:
    made = ready(omni, case)
    assert made.prompt is case.prompt and made.keys == case.keys
    at_door = door(omni, made, "audio", "video")
    assert isinstance(at_door, PrefilledPrompt) and at_door.passed is not None
    plain = door(omni, case)
    assert at_door.tokens.tolist() == plain.tokens.tolist()
    assert at_door.passed.kept.tolist() == plain.spans["audio"].tolist()
    again = ready(omni, made)
    assert again.at_door is made.at_door


def test_another_model_embeds_the_prompt_anew(omni: HookedOmni, case: Case) -> None:
    made, other = ready(omni, case), load("random-omni")
    assert door(other, made) is not made.at_door
    assert (door(other, made).embeds == door(other, case).embeds).all()


def test_a_clip_that_cannot_be_read_is_skipped(omni: HookedOmni) -> None:
    with pytest.raises(Skip, match="got no file"):
        ready(omni, Case(Prompt("What?", video="nowhere.mp4"), "nowhere"))
