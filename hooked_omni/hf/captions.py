"""What does a checkpoint say of captions: which tokens end them, what `generate` would apply?"""

import warnings
from pathlib import Path
from typing import Any

import transformers
from transformers.utils.hub import cached_file

from hooked_omni.errors import CheckpointError

_PROCESSORS = (
    *("repetition_penalty", "no_repeat_ngram_size", "num_beams", "min_length", "min_new_tokens"),
    *("suppress_tokens", "begin_suppress_tokens", "forced_bos_token_id", "forced_eos_token_id"),
    *("bad_words_ids", "sequence_bias", "guidance_scale"),
)


def tokenizer_alone(name: str | Path, source: dict[str, Any]) -> Any:
    """The tokenizer, if it loads without code of the checkpoint's; else None, with a warning."""
    for kind in (transformers.AutoTokenizer, transformers.PreTrainedTokenizerFast):
        try:
            return kind.from_pretrained(name, trust_remote_code=False, **source)
        except Exception:  # tokenizers and their parsers raise their own each
            continue
    warnings.warn(
        f"{str(name)!r} has no tokenizer that loads without its own code: captions will be tokens "
        "without text. Set `omni.model.tokenizer` to one.",
        stacklevel=4,
    )
    return None


def generation_config(name: str | Path, source: dict[str, Any]) -> Any:
    """Which tokens end a caption; None without such a file, where the tokenizer's ends serve."""
    file = "generation_config.json"
    if cached_file(str(name), file, _raise_exceptions_for_missing_entries=False, **source) is None:
        return None
    try:
        return transformers.GenerationConfig.from_pretrained(name, **source)
    except Exception as error:  # a file may hold anything
        raise CheckpointError(
            f"expected {file} of {str(name)!r} as transformers writes it, got one that does not "
            f"load ({error!r:.200}). Download it again: it says where captions end."
        ) from error


def eos_tokens(hf: Any, tokenizer: Any) -> tuple[int, ...]:
    """Tokens that end a caption: the checkpoint's, or else its tokenizer's."""
    configured = getattr(hf.generation_config, "eos_token_id", None)
    if configured is not None:
        ends = tuple(configured) if isinstance(configured, list | tuple) else (configured,)
        if {*map(type, ends)} != {int}:
            raise CheckpointError(
                f"expected token ids as eos_token_id, got {configured!r}: captions would never "
                "end. Mend generation_config.json."
            )
        return ends
    if tokenizer is None:
        return ()
    ends = [tokenizer.convert_tokens_to_ids(t) for t in ("<|im_end|>", "<|endoftext|>")]
    return tuple(end for end in ends if end is not None)


def warn_of_processors(hf: Any) -> None:
    """Warn if `hf.generate` would not choose the likeliest token, as captions here do."""
    plain = transformers.GenerationConfig()
    neutral = {"repetition_penalty": 1.0, "num_beams": 1, "no_repeat_ngram_size": 0}
    applied = {
        name: value
        for name in _PROCESSORS
        if (value := getattr(hf.generation_config, name, None))
        not in (None, getattr(plain, name), neutral.get(name))
    }
    if applied:
        warnings.warn(
            f"this checkpoint's generation_config sets {applied}, which `hf.generate` applies. "
            "Captions here are plain argmax: to compare, turn these off there.",
            stacklevel=5,
        )
