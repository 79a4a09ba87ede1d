"""Models whose every hook point is alive, prompts, and what was computed of them."""

from collections.abc import Iterator
from typing import Any

import pytest

from hooked_omni import EmbeddedPrompt, HookedOmni, HookedTransformer
from tests.support.edits import cached, clip
from tests.support.models import CLIP_OF, frames, sound


@pytest.fixture(params=["omni", "vl"])
def subject(request: pytest.FixtureRequest, models: dict, clips: dict) -> Iterator[Any]:
    """A model, with every hook point on, the inputs of a clip, its decoder and its prompt."""
    omni, inputs = models[request.param], clips[request.param, CLIP_OF[request.param]]
    with omni.model.every_hook_point():
        yield omni, inputs, omni.model, omni.embed_inputs(**inputs)


@pytest.fixture
def plain(omni: HookedOmni, prompt: EmbeddedPrompt) -> tuple[HookedTransformer, EmbeddedPrompt]:
    """A model as loaded, and a prompt with sound inside a video."""
    return omni.model, prompt


@pytest.fixture(scope="module")
def model(omni: HookedOmni) -> Iterator[HookedTransformer]:
    """A model with every hook point on."""
    with omni.model.every_hook_point():
        yield omni.model


@pytest.fixture(scope="module")
def clean(model: HookedTransformer, prompt: EmbeddedPrompt) -> Any:
    """Activations of the run that every edit is compared with."""
    return cached(model, prompt)


@pytest.fixture(scope="module")
def source(model: HookedTransformer, omni: HookedOmni) -> dict[str, Any]:
    """A run to take activations from: the same words about another clip of the same length."""
    other = clip(omni, frames(seed=11), sound(seed=12))
    return {"cache": cached(model, other), "prompt": other}
