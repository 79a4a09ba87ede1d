"""Sweep a window of knockouts over the layers: figure 6 of the paper, in one batch."""

# %% a model and a prompt
from pathlib import Path
from tempfile import mkdtemp

from examples._clip import two_seconds
from hooked_omni import Prompt, knockout, load, windows

omni = load("random-omni")  # "Qwen/Qwen2.5-Omni-3B" on a GPU: windows(36, edges="paper")
clip = two_seconds(Path(mkdtemp()) / "clip.mp4")
prompt = omni.embed(Prompt("Describe what you hear.", video=clip))

# %% all conditions share one pass over the prompt, and decode as one batch
sweep = [
    (key, layers, knockout(query="generated", key=key, layers=layers))
    for key in ("video", "audio")
    for layers in windows(omni.model.cfg.n_layers, width=3)
]
conditions = [[], *[[cut] for _, _, cut in sweep]]
plain, *captions = omni.model.generate_many(
    prompt, conditions, max_new_tokens=12, stop_at_eos=False
)

# %% how much of the plain caption survives, in words and in log-probability?
_, *scores = omni.model.score(prompt, plain.tokens, conditions)
for (key, layers, _), caption, score in zip(sweep, captions, scores, strict=True):
    same = int((caption.tokens == plain.tokens).sum())
    print(
        f"G !-> {key:5} layers {layers.start}-{layers.stop - 1}: {same:2} of 12 tokens stay, "
        f"log p(plain caption) {float(score.sum()):7.2f} nats"
    )
