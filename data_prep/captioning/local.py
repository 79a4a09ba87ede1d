"""How does a Hugging Face vision-language model in this process describe a clip?"""

import threading
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import AutoModelForImageTextToText, AutoProcessor

from data_prep.captioning.caption_manifest import NoCaptionError
from data_prep.captioning.question import DEFAULT, Question, description
from hooked_omni.cluster.tasks import Made
from hooked_omni.errors import UnknownModelError
from hooked_omni.fingerprint import model_hash


@dataclass(frozen=True)
class Local:
    """A vision-language model in this process."""

    model: str  # name or folder of one that `AutoModelForImageTextToText` loads
    question: Question = DEFAULT
    device: str = "cpu"
    dtype: str = "auto"  # of the weights, such as "bfloat16"; "auto" as saved
    workers: int = field(default=1, init=False)
    _lock: Any = field(default_factory=threading.Lock, init=False, repr=False, compare=False)

    def __reduce__(self) -> tuple[Any, ...]:
        """Without the loaded model."""
        return Local, (self.model, self.question, self.device, self.dtype)

    def worker(self) -> Made:
        """The same in a worker of a cluster, with its one GPU."""
        own = replace(self, device=self.device.partition(":")[0])
        weights = model_hash({"model": own._loaded[0]}, portable=True)
        return lambda clip, paths: own.caption(clip), {"facts": own.facts, "weights": weights}

    @property
    def facts(self) -> dict[str, Any]:
        """What decides the answer."""
        return {"model": Path(self.model).name, **asdict(self.question), "dtype": self.dtype}

    @torch.inference_mode()
    def caption(self, clip: Path) -> str:
        """What the clip shows, decoded greedily.

        Raises:
            NoCaptionError: If the answer is no description, or cut off.
        """
        frames = [{"type": "image", "image": image} for image in self.question.images(clip)]
        words = {"type": "text", "text": f"{self.question.prompt}\n{self.question.form}"}
        with self._lock:
            model, processor = self._loaded
            inputs = processor.apply_chat_template(
                [{"role": "user", "content": [*frames, words]}],
                add_generation_prompt=True,
                tokenize=True,
                return_dict=True,
                return_tensors="pt",
            ).to(model.device)
            most = self.question.max_tokens
            tokens = model.generate(**inputs, max_new_tokens=most, do_sample=False)
            ends = np.ravel(model.generation_config.eos_token_id)
        new = tokens[0, inputs["input_ids"].shape[1] :]
        if len(new) >= most and new[-1].item() not in ends:
            raise NoCaptionError(f"cut off after {most} tokens")
        return description(processor.decode(new, skip_special_tokens=True))

    @cached_property
    def _loaded(self) -> tuple[Any, Any]:
        try:
            processor = AutoProcessor.from_pretrained(self.model)  # before weights are read
            model: Any = AutoModelForImageTextToText.from_pretrained(self.model, dtype=self.dtype)
            return model.to(self.device).eval(), processor
        except Exception as error:  # hub, config and weights raise their own each
            raise UnknownModelError(
                f"expected a vision-language model, got {self.model!r}, which does not load "
                f"({type(error).__name__}: {str(error)[:300]}). Give a folder that holds one, or a "
                f"name on the Hugging Face hub and a network."
            ) from error
