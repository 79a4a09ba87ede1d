"""Devices that are not there: `pretend:0`, `pretend:1`, ... compute on the CPU, each apart.

As with GPUs, an operation on tensors of two of them, or of one and the CPU, is an error; only
`to`, `copy_`, numbers without a shape, and indices on the CPU cross over.
"""

from typing import Any

import torch
from torch import Tensor
from torch.utils import backend_registration
from torch.utils._pytree import tree_flatten, tree_map, tree_unflatten

aten = torch.ops.aten
_CROSS = {aten.copy_.default, aten._to_copy.default}
_INDEXED = {aten.index.Tensor, aten.index_put.default, aten.index_put_.default}
_INDEXED |= {aten._index_put_impl_.default}


class Pretend(Tensor):
    """A tensor of such a device, which holds its numbers on the CPU."""

    raw: Tensor

    @staticmethod
    def __new__(
        cls, raw: Tensor, device: torch.device | None = None, requires_grad: bool = False
    ) -> "Pretend":
        device, raw = device or raw.device, getattr(raw, "raw", raw)  # accelerate makes copies
        if device.type == "pretend" and (device.index or 0) >= _Module.device_count():
            raise RuntimeError(f"expected a device below {_Module.device_count()}, got {device}")
        if device.type == "pretend" and raw.nbytes > _Module.free:
            raise torch.OutOfMemoryError(f"{device} is out of memory: {raw.nbytes} bytes wanted")
        made = Tensor._make_wrapper_subclass(
            cls,
            raw.size(),
            raw.stride(),
            raw.storage_offset(),
            dtype=raw.dtype,
            device=device,
        )
        made.raw = raw
        return made

    def __repr__(self, *, tensor_contents: Any = None) -> str:
        return f"{self.device}: {self.raw!r}"

    def data_ptr(self) -> int:
        return self.raw.data_ptr()

    def tolist(self) -> Any:
        return self.raw.tolist()

    __torch_function__: Any = torch._C._disabled_torch_function_impl

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        flat, form = tree_flatten((args, kwargs))
        tensors = [one for one in flat if isinstance(one, Tensor)]
        if func in _INDEXED:  # their indices may be on the CPU
            at = tree_flatten(args[1])[0]
            tensors = [t for t in tensors if all(t is not one for one in at) or _pretends(t)]
        own = {t.device for t in tensors if t.dim()}
        if len(own) > 1 and func not in _CROSS:
            raise RuntimeError(f"Expected all tensors on one device, got {own} for {func}")
        device = kwargs.get("device") or next(t.device for t in tensors if _pretends(t))
        device = args[0].device if func is aten.copy_.default else torch.device(device)
        plain = [one.raw if isinstance(one, Pretend) else one for one in flat]
        plain = ["cpu" if _is_pretend(one) else one for one in plain]
        plain_args, plain_kwargs = tree_unflatten(plain, form)
        out = func(*plain_args, **plain_kwargs)
        known = {id(one.raw): one for one in flat if isinstance(one, Pretend)}

        def wrapped(one: Any) -> Any:
            if not isinstance(one, Tensor) or not _is_pretend(device):
                return one
            return known[id(one)] if id(one) in known else Pretend(one, device)

        return tree_map(wrapped, out)


def _is_pretend(device: Any) -> bool:
    return isinstance(device, torch.device) and device.type == "pretend"


def _pretends(tensor: Tensor) -> bool:
    return _is_pretend(tensor.device)


def _empty(size: Any, *args: Any, dtype: Any = None, device: Any = None, **_: Any) -> Tensor:
    return Pretend(torch.empty(size, dtype=dtype), torch.device(device))


def _empty_strided(
    size: Any, stride: Any, *, dtype: Any = None, device: Any = None, **_: Any
) -> Tensor:
    return Pretend(torch.empty_strided(size, stride, dtype=dtype), torch.device(device))


def _copy_from(source: Tensor, into: Any, non_blocking: bool = False) -> Tensor:
    """`torch.tensor(..., device=...)` copies without `__torch_dispatch__`."""
    into.raw.copy_(getattr(source, "raw", source))
    return into


def _arange(*numbers: Any, device: Any = None, dtype: Any = None, **_: Any) -> Tensor:
    return Pretend(torch.arange(*numbers, dtype=dtype), torch.device(device))


class _Module:
    """What torch wants to know of a kind of device."""

    free = 10**12  # bytes of the largest tensor that can be made

    @staticmethod
    def is_available() -> bool:
        return True

    @staticmethod
    def is_initialized() -> bool:
        return True

    @staticmethod
    def _lazy_init() -> None: ...

    @staticmethod
    def _is_in_bad_fork() -> bool:
        return False

    @staticmethod
    def manual_seed_all(seed: int) -> None: ...

    @staticmethod
    def device_count() -> int:
        return 2

    @staticmethod
    def current_device() -> int:
        return 0

    @staticmethod
    def get_amp_supported_dtype() -> list[torch.dtype]:
        return [torch.bfloat16]


def full(patch: Any, n_bytes: int) -> None:
    """Let another process have taken all memory but this, for any one tensor."""
    patch.setattr(_Module, "free", n_bytes)


def two_devices() -> tuple[torch.device, torch.device]:
    """`pretend:0` and `pretend:1`, which every process has from the first call on."""
    if not hasattr(torch, "pretend"):
        backend_registration._setup_privateuseone_for_python_backend("pretend", _Module())
        library = torch.library.Library("aten", "IMPL")
        library.impl("empty.memory_format", _empty, "PrivateUse1")
        library.impl("empty_strided", _empty_strided, "PrivateUse1")
        library.impl("_copy_from", _copy_from, "PrivateUse1")
        library.impl("_local_scalar_dense", lambda one: one.raw.item(), "PrivateUse1")
        for overload in ("arange", "arange.start", "arange.start_step"):
            library.impl(overload, _arange, "PrivateUse1")
        _Module.library = library  # pyright: ignore[reportAttributeAccessIssue]  # must live on
    return torch.device("pretend:0"), torch.device("pretend:1")
