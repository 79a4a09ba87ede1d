"""What does a family of models differ in from the others?"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple

from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from hooked_omni.decoder.config import DecoderConfig
from hooked_omni.errors import PromptError
from hooked_omni.inputs.audio import Audio
from hooked_omni.inputs.image import Image
from hooked_omni.inputs.media import MediaSettings
from hooked_omni.inputs.prompt import Prompt
from hooked_omni.inputs.video import Video

Masks = dict[str, Bool[Tensor, " pos"]]
Read = tuple[Video | Audio | Image, ...]
"""What was read for a prompt: its media in order, and after a video the sound inside it."""


class ItemTimes(NamedTuple):
    """Tokens of one sound, video or image: how many, when each starts, its step, and its cell.

    `grid` is as that of `Spans`.
    """

    n_tokens: int
    seconds: Float[Tensor, " token"] | None = None
    steps: Int[Tensor, " token"] | None = None
    grid: Int[Tensor, "token 3"] | None = None


Times = dict[str, list[ItemTimes]]
"""Of each modality, its items in order."""
Received = dict[str, list[tuple[float | int, ...]]]
"""What the towers get of each item, by modality: (seconds,) of a sound; (number, height, width) of
frames and (height, width) of an image, without the sizes where these are changed. NaN seconds where
the inputs do not tell them: then `prepare` checks that all of the sound is there."""

_NAMES = {
    "embed": "embed_tokens",
    "ln_final": "norm",
    "blocks": "layers",
    "ln1": "input_layernorm",
    "ln2": "post_attention_layernorm",
    "attn": "self_attn",
    "unembed": "lm_head",
}


@dataclass(frozen=True)
class Conversion:
    """From tensors on disk to a tensor of the decoder."""

    keys: tuple[str, ...]  # names on disk, after the decoder's prefix
    make: Callable[[list[Tensor]], Tensor]  # from these tensors, in this order


def unchanged(tensors: list[Tensor]) -> Tensor:
    """The only tensor."""
    return tensors[0]


def as_stored(name: str, config: Any = None) -> Conversion:
    """The tensor that a checkpoint has under this name."""
    return Conversion((name,), unchanged)


@dataclass(frozen=True)
class OnDisk:
    """Where a checkpoint's decoder is, and which class of transformers runs it.

    Attributes:
        homes: Prefix of the decoder's tensors, and name of the head's, for each layout there is.
        conversion: From a decoder tensor's name and config to its parts, where none has that name.
        stored: As `conversion`, where one has that name.
        reference: From `config.json` to class and config of a text-only model with the same
            decoder; None for `hf_class` itself.
    """

    homes: tuple[tuple[str, str], ...]
    conversion: Callable[[str, Any], Conversion] = as_stored
    stored: Callable[[str, Any], Conversion] = as_stored
    reference: Callable[[Mapping[str, Any]], tuple[Any, Any]] | None = None


@dataclass(frozen=True)
class Remote:
    """A model whose code is not in transformers.

    Attributes:
        load: From a name and the arguments of `from_pretrained` to model and processor; runs code
            that came with the checkpoint, or a package of its own.
        processor: From the model and its processor to the first argument of `prepare`.
        text_model: From the model to one of transformers that computes the same from embeddings to
            logits, on the same tensors where the layout allows.
        needs: What its code needs, and where it is known to break.
        packages: What its code imports that comes neither with it nor with this project.
        commands: Programs that its code starts.
        towers: How the names of the towers' tensors begin in a checkpoint.
        elsewhere: Keys of `config.json` that name other checkpoints, of which towers are loaded.
    """

    load: Callable[..., tuple[Any, Any]]
    processor: Callable[[Any, Any], Any]
    text_model: Callable[[Any], Any]
    needs: str
    packages: tuple[str, ...] = ()
    commands: tuple[str, ...] = ()
    towers: tuple[str, ...] = ()
    elsewhere: tuple[str, ...] = ()


def tensor_name(name: str) -> str:
    """`blocks.3.attn.q_proj.weight` -> `layers.3.self_attn.q_proj.weight`."""
    return ".".join(_NAMES.get(part, part) for part in name.split("."))


def media_tokens(hf_model: Any) -> dict[str, int]:
    """Placeholder token of each modality that the model's config names."""
    ids = {name: f"{name}_token_id" for name in ("audio", "video", "image")}
    config = hf_model.config
    return {name: getattr(config, key) for name, key in ids.items() if hasattr(config, key)}


_CLIP_FIRST = (["text"], ["video", "text"], ["audio", "text"], ["video", "audio", "text"])
_CLIP_LAST = (["text", "video"], ["text", "audio"], ["text", "video", "audio"])


@dataclass(frozen=True)
class Family:
    """One row of the table of families: everything that is particular to it.

    Attributes:
        name: For people and for results.
        checkpoints: What people call the models that it covers.
        decoder: What is particular to their decoder.
        model_types: `model_type` in `config.json` of the checkpoints it covers.
        hf_class: Name of the transformers class that loads the part with towers and decoder.
        decoder_config: The decoder's table, from the Hugging Face model.
        tensor_name: From this project's parameter name to the Hugging Face decoder's, where
            `unembed.weight` is the head's.
        on_disk: Where a checkpoint's decoder is.
        times: From the model, its inputs and the number of tokens of each modality to the times of
            its items.
        check_inputs: Refuses inputs that the model would silently misread.
        received: From the model and its inputs to what the towers get, which must be what was read.
        prepare: From a prompt and what was read for it to model inputs.
        media_tokens: Placeholder token of each modality.
        unwrap: From any model of the family to the part with towers and decoder.
        hears, sees: Which of a clip's parts the family takes.
        base: Name of the family of the vision-only model that it was trained from, if there is one.
        media: How clips are sampled for a prompt without settings.
        correct_words: Corrects which positions are the question, the system prompt and markup.
        call: Runs the model on inputs, at least as far as its decoder.
        find_media: From the model, its inputs and the number of positions to the token of each
            position and the positions of each modality, where `media_tokens` do not suffice.
        frames_per_step: Sampled frames in a step of the video grid.
        remote: How a model is loaded and called whose code is not in transformers.
        config_key: A key that its `config.json` has and another family of its `model_types` lacks.
        inner_towers: Names of towers that are parts of the Hugging Face decoder.
        towers: By "audio" and "vision", paths inside the model, from any depth on: of its tower's
            list of blocks, and of the modules of which one runs, whose output enters the decoder.
        own_reading: What the model's own code does to every clip; every bundle's facts say so.
        no_grid: Why its pictures' tokens have no row and column; every bundle's facts say so.
        one_clip: Where its one clip stands beside its one question, if it takes no more than these:
            "first", as its own code writes them, or "anywhere".
        proved: Largest difference of logits from which model, as in the README's table.
    """

    name: str
    checkpoints: str
    decoder: str
    model_types: tuple[str, ...]
    decoder_config: Callable[[Any], DecoderConfig]
    on_disk: OnDisk
    times: Callable[[Any, Mapping[str, Any], dict[str, int]], Times]
    check_inputs: Callable[[Any, Mapping[str, Any]], None]
    received: Callable[[Any, Mapping[str, Any]], Received]
    prepare: Callable[[Any, Prompt, Read], dict[str, Any]]
    hf_class: str = ""
    tensor_name: Callable[[str], str] = tensor_name
    media_tokens: Callable[[Any], dict[str, int]] = media_tokens
    unwrap: Callable[[nn.Module], nn.Module] = lambda model: model
    hears: bool = True
    sees: bool = True
    base: str | None = None
    media: MediaSettings = field(default_factory=MediaSettings)
    correct_words: Callable[[Any, Int[Tensor, " pos"], Masks], Masks] | None = None
    call: Callable[[nn.Module, Mapping[str, Any]], Any] = lambda model, inputs: model(**inputs)
    find_media: (
        Callable[[Any, Mapping[str, Any], int], tuple[Int[Tensor, " pos"], Masks]] | None
    ) = None
    frames_per_step: int = 2
    remote: Remote | None = None
    config_key: str | None = None
    inner_towers: tuple[str, ...] = ()
    towers: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    own_reading: str | None = None
    no_grid: str | None = None
    one_clip: Literal["first", "anywhere"] | None = None
    proved: str = "0, tiny random weights of its class"

    def require(self, prompt: Prompt) -> None:
        """Refuse, with a `PromptError` and before anything is read, items it does not take."""
        kinds, sources = [item.kind for item in prompt.content], prompt.sources(self.hears)
        orders = _CLIP_FIRST + (_CLIP_LAST if self.one_clip == "anywhere" else ())
        twice = [source.kind for source in sources].count("audio") > 1
        others = prompt.items and kinds not in orders
        place = " before it" if self.one_clip == "first" else ""
        if self.one_clip and (prompt.turns or others or twice):
            raise PromptError(
                f"expected one question and at most one clip{place} for {self.name}, got "
                f"{kinds} after {len(prompt.turns)} turns. Write Prompt(question, video=file) "
                "or Prompt(question, audio=file)."
            )
        if prompt.rope != "model" and (self.one_clip or not (self.hears and self.sees)):
            raise PromptError(
                f"expected rope='model' for {self.name}, whose sound inside video has no positions "
                f"of its own, got {prompt.rope!r}. Leave it out."
            )
        for source in sources:
            if source.kind in ("video", "image") and not self.sees:
                raise PromptError(
                    f"expected a prompt without a picture for {self.name}, got "
                    f"{source.kind}={source.path}. This family does not see: pass a clip as "
                    "`audio`."
                )
            if source.kind == "audio" and not self.hears:
                raise PromptError(
                    f"expected a prompt without sound for {self.name}, got audio={source.path}. "
                    "This family does not hear: leave it out."
                )
