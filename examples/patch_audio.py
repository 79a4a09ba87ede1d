"""Patch the audio of a factual run into a counterfactual one: which layer carries the sound?"""

# %% one clip, asked with its own sound and with another's
from pathlib import Path
from tempfile import mkdtemp

import numpy as np

from data_prep.clips import write_clip
from examples._clip import two_seconds
from hooked_omni import Prompt, load, names, patch

omni = load("random-omni")  # "Qwen/Qwen2.5-Omni-3B" on a GPU
folder = Path(mkdtemp())
clip = two_seconds(folder / "clip.mp4")
noise = np.random.default_rng(0).uniform(-0.3, 0.3, 2 * 16_000)
other = write_clip(folder / "noise.mp4", np.zeros((20, 64, 64, 3), np.uint8), 10, noise)
factual = omni.embed(Prompt("Describe what you hear.", video=clip))
counterfactual = omni.embed(Prompt("Describe what you hear.", video=clip, audio=other))

# %% what the factual run has at its audio positions
RESID = "hook_resid_pre"
logits, cache = omni.model.run_with_cache(factual, lambda name: name.endswith(RESID))
word = int(logits[0, -1].argmax())

# %% put it into the counterfactual run, one layer at a time
n_layers = omni.model.cfg.n_layers
conditions = [
    [],
    *[
        [patch(RESID, span="audio", cache=cache, prompt=factual, layers=[layer], align="time")]
        for layer in range(n_layers)
    ],
]
for layer, condition in zip([None, *range(n_layers)], conditions, strict=True):
    patched = omni.model.run_with_hooks(counterfactual, condition)[0, -1].log_softmax(-1)
    where = "not patched" if layer is None else f"at {names.resid_pre(layer)}"
    print(f"audio {where}: log p(the factual run's first token) {float(patched[word]):.3f}")
