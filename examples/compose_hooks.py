# ruff: noqa: D103
"""Compose hook functions in a script: read, edit, and combine them with interventions."""

# %% a model and a prompt
from pathlib import Path
from tempfile import mkdtemp

import torch

from examples._clip import two_seconds
from hooked_omni import Prompt, knockout, load, names

omni = load("random-omni")  # "Qwen/Qwen2.5-Omni-3B" on a GPU
clip = two_seconds(Path(mkdtemp()) / "clip.mp4")
prompt = omni.embed(Prompt("Describe what you hear.", video=clip))

# %% read: how far does the residual stream at audio positions move in each layer?
audio = prompt.spans["audio"]
_, cache = omni.model.run_with_cache(prompt, lambda name: name.endswith("hook_resid_post"))
for layer in range(omni.model.cfg.n_layers):
    print(f"layer {layer}: |resid| at audio {cache[names.resid_post(layer)][0, audio].norm():.1f}")


# %% edit: any TransformerLens hook; return another tensor, or None to have only looked
def halve_audio(resid, hook):  # noqa: ANN001, ANN201
    if hook.window.start > 0:  # a decode step, after the audio
        return None
    factor = torch.ones(resid.shape[1], 1)
    factor[audio] = 0.5
    return resid * factor


# %% combine: hooks and interventions stand in one list
plain = omni.model.generate(prompt, max_new_tokens=12, stop_at_eos=False)
edited = omni.model.generate(
    prompt,
    max_new_tokens=12,
    fwd_hooks=[(names.resid_pre(1), halve_audio), knockout("G !-> V @ 1-3")],
    stop_at_eos=False,
)
print(f"plain : {plain.tokens.tolist()}")
print(f"edited: {edited.tokens.tolist()}")
