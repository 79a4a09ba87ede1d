"""Can this be a model, a device, a dtype? As far as words and files say, without torch."""

import re
from pathlib import Path

from hooked_omni.errors import UnknownModelError, closest
from hooked_omni.files import read_text
from hooked_omni.organisms import SHIPPED

ADAPTER = "adapter_config.json"
"""The file by which a folder is an adapter's."""

_HUB_NAME = re.compile(r"[\w-][\w.-]*/[\w.-]+")
_DEVICE = re.compile(r"(cpu|cuda|hpu|ipu|maia|meta|mps|mtia|npu|xla|xpu)(:\d+)?")
_DTYPE = re.compile(r"b?float16|half|float(32|64|8_\w+)?|double")


def require_spelled(
    model: str, device: str = "cpu", dtype: str | None = None, adapter: Path | None = None
) -> None:
    """Refuse what `load` would refuse by its arguments alone, before torch is imported.

    Raises:
        UnknownModelError: For no name, device or dtype.
        FileError: For a folder that holds no adapter.
    """
    require_name(model)
    if not _DEVICE.fullmatch(device):
        raise UnknownModelError(f"expected a device, such as cpu or cuda:1, got {device!r}.")
    require_dtype(dtype)
    if adapter is not None:
        read_text(adapter / ADAPTER)


def require_name(name: str | Path) -> None:
    """Refuse, as `unknown`, what is neither shipped, nor a folder of a model, nor a hub's name."""
    if str(name) in SHIPPED:
        return
    if Path(name).exists():
        if not (Path(name) / "config.json").is_file():
            raise unknown(name, "no config.json there")
    elif not _HUB_NAME.fullmatch(str(name)):
        raise unknown(name, "no such folder, and hub names have one slash")


def require_dtype(dtype: str | None) -> None:
    """Refuse, as an `UnknownModelError`, what names no floating-point type of torch."""
    if dtype is not None and not _DTYPE.fullmatch(dtype):
        raise UnknownModelError(f"expected a floating-point dtype, got {dtype!r}. Try 'bfloat16'.")


def unknown(name: str | Path, reason: object) -> UnknownModelError:
    """The error for a model that is not there."""
    return UnknownModelError(
        f"expected a hub name, a folder with a config.json, or one of {sorted(SHIPPED)}, got "
        f"{str(name)!r} ({str(reason).splitlines()[0]}). Check the name.{closest(name, SHIPPED)}"
    )
