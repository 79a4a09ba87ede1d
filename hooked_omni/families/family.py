"""What a model family must say of itself."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from jaxtyping import Bool, Int
from torch import Tensor, nn

from hooked_omni.config import DecoderConfig
from hooked_omni.media import Audio, MediaSettings, Video
from hooked_omni.prompt import Prompt

__all__ = ["Family"]


@dataclass(frozen=True)
class Family:
    """One row of the table of families: everything that is particular to it.

    Attributes:
        name: For people and for results.
        model_types: `config.model_type` of the checkpoints it covers.
        hf_class: Name of the transformers class that loads the part with towers and decoder.
        unwrap: From any model of the family to the part with towers and decoder.
        decoder_config: The decoder's table, from the Hugging Face model.
        tensor_name: From this project's parameter name to the Hugging Face decoder's, where
            `unembed.weight` is the head's.
        media_tokens: Placeholder token of each modality.
        times: Start second of each media token, and the grid step of each video token.
        check_inputs: Refuses inputs that the model would silently misread.
        prepare: From a prompt, its frames and its sound to model inputs.
        hears, sees: Which of a clip's parts the family takes.
        base: Name of the family of the vision-only model that it grew from, if there is one.
        media: How clips are sampled where a prompt does not say.
        markup: Positions between the user's words that the processor wrote.
    """

    name: str
    model_types: tuple[str, ...]
    hf_class: str
    unwrap: Callable[[nn.Module], nn.Module]
    decoder_config: Callable[[Any], DecoderConfig]
    tensor_name: Callable[[str], str]
    media_tokens: Callable[[Any], dict[str, int]]
    times: Callable[
        [Any, Mapping[str, Any], dict[str, int]], tuple[dict[str, Tensor], Tensor | None]
    ]
    check_inputs: Callable[[Any, Mapping[str, Any]], None]
    prepare: Callable[[Any, Prompt, Video | None, Audio | None], dict[str, Any]]
    hears: bool = True
    sees: bool = True
    base: str | None = None
    media: MediaSettings = field(default_factory=MediaSettings)
    markup: Callable[[Any, Int[Tensor, " pos"]], Bool[Tensor, " pos"]] | None = None
