"""Is it still the same tensor, the same model? Hashes of all that makes their numbers.

One changed number anywhere is another hash. All is read each time: a counter of versions does not
see what is written through `.data`.
"""

from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from typing import Any

import torch
import xxhash
from torch import Tensor, nn

_CHUNK = 1 << 22  # words
_MUCH = 1 << 26  # bytes that are worth threads
# Of TransformerLens, about hooks that come and go.
_BOOKKEEPING = ("is_caching", "context_level")


def tensor_hash(tensor: Tensor) -> str:
    """XXH3 of a tensor's dtype, shape and bytes; on an accelerator, of sums that are made there.

    Copying weights from an accelerator takes longer than a caption; `tensor_hash(tensor.cpu())`
    is equal on all devices.
    """
    whole = xxhash.xxh3_128(f"{tensor.dtype} {tuple(tensor.shape)}".encode())
    if not tensor.is_meta:
        raw = tensor.detach().contiguous().reshape(-1).view(torch.uint8)
        sums = raw if raw.device.type == "cpu" else word_sums(raw).view(torch.uint8)
        whole.update(sums.numpy())
    return whole.hexdigest()


def word_sums(raw: Tensor) -> Tensor:
    """Sums modulo 2^64, in the host's memory, of 32-bit words times odd numbers that their places
    choose: one changed word always changes one, several do but for a chance of about 2^-32.
    """
    words = nn.functional.pad(raw, (0, -len(raw) % 4)).view(torch.int32)
    factors = _factors(str(raw.device))
    sums = [(chunk.long() * factors[: len(chunk)]).sum() for chunk in words.split(_CHUNK)]
    return torch.stack(sums).cpu()


def model_hash(modules: Mapping[str, nn.Module], *also: Any, portable: bool = False) -> str:
    """Hash of parameters, buffers, numbers, kernels and kinds of all modules, and of `also`.

    Args:
        modules: By name; tensors that they share are read once.
        also: Whatever else makes the numbers, as text.
        portable: Whether the hash must be equal on all devices, however long that takes.
    """
    places = list(_places(modules))
    tensors = {_key(tensor): tensor for _, tensor in places if tensor is not None}
    much = sum(tensor.nbytes for tensor in tensors.values()) > _MUCH
    one = (lambda tensor: tensor_hash(tensor.cpu())) if portable else tensor_hash
    with ThreadPoolExecutor(torch.get_num_threads()) as pool:
        hashes = dict(zip(tensors, (pool.map if much else map)(one, tensors.values()), strict=True))
    found = [(place, None if t is None else hashes[_key(t)]) for place, t in places]
    return xxhash.xxh3_128(repr((found, also)).encode()).hexdigest()


def _places(modules: Mapping[str, nn.Module]) -> Iterator[tuple[Any, Tensor | None]]:
    """Every module with its own numbers, and every tensor with its name."""
    for prefix, whole in modules.items():
        for name, module in whole.named_modules(prefix=prefix):
            own = {
                key: value
                for key, value in sorted(vars(module).items())
                if type(value) in (int, float, bool) and key[0] != "_" and key not in _BOOKKEEPING
            }
            kernel = getattr(vars(module).get("config"), "_attn_implementation", None)
            yield (name, type(module).__name__, own, kernel), None
            for key, tensor in {**module._parameters, **module._buffers}.items():
                yield f"{name}.{key}", tensor


def _key(tensor: Tensor) -> tuple[Any, ...]:
    """Equal for views of one memory alone."""
    where = id(tensor) if tensor.is_meta else tensor.data_ptr()
    return where, tensor.device, tensor.dtype, tensor.shape, tensor.stride()


@cache
def _factors(device: str) -> Tensor:
    """Odd numbers, the same on every device."""
    generator = torch.Generator().manual_seed(0)
    return (torch.randint(-(2**62), 2**62, (_CHUNK,), generator=generator) * 2 + 1).to(device)
