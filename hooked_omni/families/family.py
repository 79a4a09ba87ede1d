"""What a model family must say of itself."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from jaxtyping import Bool, Int
from torch import Tensor, nn

from hooked_omni.decoder.config import DecoderConfig
from hooked_omni.inputs.media import Audio, MediaSettings, Video
from hooked_omni.inputs.prompt import Prompt

__all__ = ["Family", "OnDisk", "Recipe", "Remote"]

Words = dict[str, Bool[Tensor, " pos"]]


@dataclass(frozen=True)
class Recipe:
    """What a tensor is made of, where a checkpoint does not hold it as it is.

    Attributes:
        keys: Names of the parts on disk, behind the decoder's prefix.
        make: From the parts, in this order, to the tensor.
    """

    keys: tuple[str, ...]
    make: Callable[[list[Tensor]], Tensor]


@dataclass(frozen=True)
class OnDisk:
    """Where a checkpoint's decoder is, and which class of transformers runs it.

    Attributes:
        homes: Prefix of the decoder's tensors, and name of the head's, for each layout there is.
        recipe: From a tensor's name in the decoder to what it is made of; None where it is stored
            under that name.
        reference: From `config.json` to class and config of a text-only model with the same
            decoder; None for `hf_class` itself.
    """

    homes: tuple[tuple[str, str], ...]
    recipe: Callable[[str, Any], Recipe | None] = lambda name, config: None
    reference: Callable[[Mapping[str, Any]], tuple[Any, Any]] | None = None


@dataclass(frozen=True)
class Remote:
    """A model whose code is not in transformers.

    Attributes:
        load: From a name and the arguments of `from_pretrained` to model and processor; runs code
            that came with the checkpoint, or a package of its own.
        processor: From the model and its processor to what `prepare` asks: such models do part of
            the processing themselves.
        text_model: From the model to one of transformers that computes the same from embeddings to
            logits, on the same tensors where the layout allows.
        needs: What its code needs, and where it is known to break.
    """

    load: Callable[..., tuple[Any, Any]]
    processor: Callable[[Any, Any], Any]
    text_model: Callable[[Any], Any]
    needs: str


@dataclass(frozen=True)
class Family:
    """One row of the table of families: everything that is particular to it.

    Attributes:
        name: For people and for results.
        model_types: `model_type` in `config.json` of the checkpoints it covers.
        hf_class: Name of the transformers class that loads the part with towers and decoder.
        unwrap: From any model of the family to the part with towers and decoder.
        decoder_config: The decoder's table, from the Hugging Face model.
        tensor_name: From this project's parameter name to the Hugging Face decoder's, where
            `unembed.weight` is the head's.
        on_disk: Where a checkpoint's decoder is.
        media_tokens: Placeholder token of each modality.
        times: Start second of each media token, and the grid step of each video token.
        check_inputs: Refuses inputs that the model would silently misread.
        prepare: From a prompt, its frames and its sound to model inputs.
        hears, sees: Which of a clip's parts the family takes.
        base: Name of the family of the vision-only model that it grew from, if there is one.
        media: How clips are sampled where a prompt does not say.
        words: Corrects which positions are the user's words, the system prompt and markup.
        call: Runs the model on inputs, at least as far as its decoder.
        places: Token of each position, and the positions of each modality, where ids alone do not
            tell; gets the model, its inputs and the number of positions.
        frames_a_step: Sampled frames in a step of the video grid.
        remote: How a model is loaded and asked whose code is not in transformers.
        told_by: A key that its `config.json` has and another family of its `model_types` lacks.
    """

    name: str
    model_types: tuple[str, ...]
    hf_class: str
    unwrap: Callable[[nn.Module], nn.Module]
    decoder_config: Callable[[Any], DecoderConfig]
    tensor_name: Callable[[str], str]
    on_disk: OnDisk
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
    words: Callable[[Any, Int[Tensor, " pos"], Words], Words] | None = None
    call: Callable[[nn.Module, Mapping[str, Any]], Any] = lambda model, inputs: model(**inputs)
    places: Callable[[Any, Mapping[str, Any], int], tuple[Int[Tensor, " pos"], Words]] | None = None
    frames_a_step: int = 2
    remote: Remote | None = None
    told_by: str | None = None
