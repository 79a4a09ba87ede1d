"""Is it the same model, the same clip, the same prompt?

A name does not say so: a folder may hold another checkpoint today. What is compared are hashes.
"""

import hashlib
import json
from dataclasses import asdict, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
import transformers

from data_prep.manifest import read_manifest
from hooked_omni import EmbeddedPrompt, HookedOmni, Prompt
from hooked_omni.errors import BundleError
from hooked_omni.files import digest, file_hash

_N_SAMPLED = 64


def model_facts(omni: HookedOmni) -> dict[str, Any]:
    """What a result must say of its model: name, weights, frame rate, what computes it, ..."""
    return {
        "name": omni.model.cfg.model_name,
        "revision": getattr(omni.hf.config, "_commit_hash", None),
        "family": omni.family.name,
        "dtype": str(omni.model.cfg.dtype).removeprefix("torch."),
        "device": omni.model.cfg.device.type,
        "weights": _weights_hash(omni),
        "media": asdict(omni.media),
        "torch": str(torch.__version__),
        "transformers": transformers.__version__,
    }


def sizes_digest(manifest: Path) -> str:
    """Digest of the clips' sizes in bytes, by their paths in the manifest.

    A clip that was replaced under the same name is noticed by its size: contents would take long to
    read. Folders on other machines agree. A clip that is not there has no size.
    """
    samples = read_manifest(manifest)
    paths = sorted({p for sample in samples for p in (sample.video, sample.audio) if p})
    files = ((path, manifest.parent / path) for path in paths)
    return digest([[path, file.stat().st_size if file.is_file() else None] for path, file in files])


class KeptPrompts(HookedOmni):
    """A model that embeds each prompt once, and then reads it from a folder.

    Bundles are named by the hash of all that makes them: the model and its weights, the prompt, the
    media settings, the clips' content, and the versions of what computed them.
    """

    def __init__(self, omni: HookedOmni, folder: Path) -> None:
        vars(self).update(vars(omni))
        self.folder = folder
        self.made_by = {**model_facts(omni), "hooked_omni": version("hooked-omni")}

    def embed(self, prompt: Prompt) -> EmbeddedPrompt:
        """The kept prompt, or a new one; see `HookedOmni.embed`."""
        parts = asdict(replace(prompt, media=prompt.media or self.media))
        for name in ("video", "audio"):
            path = parts[name]
            if path is not None and not Path(path).is_file():
                return super().embed(prompt)  # which says what is wrong with it
            parts[name] = None if path is None else file_hash(path)
        key = json.dumps({"prompt": parts, "made_by": self.made_by}, sort_keys=True, default=str)
        path = self.folder / f"{hashlib.sha256(key.encode()).hexdigest()[:32]}.safetensors"
        if path.is_file():
            try:
                return EmbeddedPrompt.load(path, self.model.cfg.device)
            except BundleError:
                path.unlink()  # damaged, or of another format: made again
        self.folder.mkdir(parents=True, exist_ok=True)
        embedded = super().embed(prompt)
        embedded.save(path)
        return embedded


def _weights_hash(omni: HookedOmni) -> str:
    """Of some numbers, evenly spread: training changes them all, and reading all takes long."""
    digest = hashlib.sha256()
    for name, tensor in omni.hf.named_parameters():
        flat = tensor.detach().flatten()
        some = flat[:: max(len(flat) // _N_SAMPLED, 1)][: 2 * _N_SAMPLED].float().cpu().numpy()
        digest.update(f"{name} {tuple(tensor.shape)}".encode() + some.tobytes())
    return digest.hexdigest()[:16]
