"""A model whose every hook point is alive, and what went into it."""

from collections.abc import Iterator
from typing import Any

import pytest

from hooked_omni import EmbeddedPrompt, HookedOmni, HookedTransformer
from tests.support.models import CLIP_OF


@pytest.fixture(params=["omni", "vl"])
def subject(request: pytest.FixtureRequest, models: dict, clips: dict) -> Iterator[Any]:
    """A model, with `hook_result` on, and the inputs of a clip."""
    omni = models[request.param]
    omni.model.cfg.use_attn_result = True
    yield omni, clips[request.param, CLIP_OF[request.param]]
    omni.model.cfg.use_attn_result = False


@pytest.fixture
def plain(omni: HookedOmni, prompt: EmbeddedPrompt) -> tuple[HookedTransformer, EmbeddedPrompt]:
    """A model as loaded, and a prompt with sound inside a video."""
    return omni.model, prompt
