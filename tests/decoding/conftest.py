"""A second run to take activations from."""

from typing import Any

import pytest

from hooked_omni import EmbeddedPrompt, HookedOmni, names
from tests.support.runs import noise


@pytest.fixture(scope="session")
def reference(omni: HookedOmni, prompt: EmbeddedPrompt) -> Any:
    """Activations of the same tokens over other sound and picture."""
    delta = noise(*prompt.embeds.shape, seed=9)
    hooks = [(names.EMBED, lambda t, hook: t + delta)]
    wanted = lambda name: name.endswith(("hook_resid_pre", "hook_z"))  # noqa: E731
    return omni.model.run_with_cache(prompt, names_filter=wanted, fwd_hooks=hooks)[1]
