"""What does `config.json` say, before anything is loaded: which family, class, precision?"""

from functools import cache
from pathlib import Path
from typing import Any

import torch
import transformers
from huggingface_hub import constants
from huggingface_hub.utils import get_session

from hooked_omni.errors import CheckpointError, UnknownModelError
from hooked_omni.families import Family, family_of
from hooked_omni.hf.spelling import require_name, unknown
from hooked_omni.organisms import SHIPPED, require_whole


def family_named(name: str | Path, revision: str | None = None) -> Family:
    """The family of a model, quantized or not, from its `config.json` alone; errors as `load`."""
    if str(name) in SHIPPED:
        return _shipped_family(str(name))
    return family_of(read_config(name, file_source(name, revision), allow_quantized=True))


@cache
def _shipped_family(name: str) -> Family:
    return family_of(SHIPPED[name]()[0].config.to_dict())  # small enough to be made for that


def file_source(name: str | Path, revision: str | None) -> dict[str, Any]:
    """Arguments with which `from_pretrained` finds the files of `name`: on the hub or on disk."""
    if not Path(name).exists():
        return {"revision": revision, "local_files_only": not _hub_answers()}
    require_whole(Path(name))
    return {"local_files_only": True}


def _hub_answers() -> bool:
    """Whether the hub can be reached; if not, each of its files would be tried for a minute."""
    try:
        _reach_hub()
    except Exception:  # each transport, proxy and sandbox raises its own
        return False
    return True


@cache  # of what succeeds
def _reach_hub() -> None:
    get_session().head(constants.ENDPOINT, timeout=3)


def read_config(
    name: str | Path, source: dict[str, Any], allow_quantized: bool = False
) -> dict[str, Any]:
    """`config.json` as it is: no class is chosen, and no code is run."""
    require_name(name)
    try:
        config, _ = transformers.PretrainedConfig.get_config_dict(name, **source)
        if not (isinstance(config, dict) and config):
            raise OSError("no config.json there")
    except (OSError, ValueError) as error:
        offline = source.get("local_files_only") and not Path(name).exists()
        raise unknown(name, "the hub cannot be reached" if offline else error) from error
    if is_quantized_by(config) and not allow_quantized:
        raise CheckpointError(
            f"expected floating-point weights in {str(name)!r}, got a config with "
            "`quantization_config`. Load the original checkpoint, with dtype='bfloat16' to take "
            "less memory; or pass allow_quantized=True, for numbers that are not the original's."
        )
    return config


def float_dtype(dtype: str | torch.dtype | None) -> torch.dtype | None:
    """A floating-point type by name."""
    known = getattr(torch, dtype, None) if isinstance(dtype, str) else dtype
    if dtype is not None and not (isinstance(known, torch.dtype) and known.is_floating_point):
        raise UnknownModelError(f"expected a floating-point dtype, got {dtype!r}. Try 'bfloat16'.")
    return known


def model_class(family: Family) -> Any:
    """The class of transformers that loads a family; `CheckpointError` if it is not there."""
    found = getattr(transformers, family.hf_class, None)
    if found is None:
        raise CheckpointError(
            f"expected transformers with {family.hf_class}, got {transformers.__version__}. Update."
        )
    return found


def is_quantized_by(config: dict[str, Any]) -> bool:
    """Whether a `config.json`, or a part of it, has a `quantization_config`."""
    parts = [config, *(part for part in config.values() if isinstance(part, dict))]
    return any(part.get("quantization_config") for part in parts)
