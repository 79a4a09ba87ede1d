"""Is it still the same tensor, the same model? Hashes of all that makes their numbers."""

from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

import torch
import xxhash
from torch import Tensor, nn

_CHUNK = 1 << 22  # words
# Of TransformerLens, about hooks that come and go.
_BOOKKEEPING = ("is_caching", "context_level")
_NUMBERS = frozenset((int, float, bool))
_KNOWN: ContextVar[dict[Any, Any] | None] = ContextVar("_KNOWN", default=None)


def tensor_hash(tensor: Tensor) -> str:
    """XXH3 of dtype, shape and bytes; on an accelerator of sums made there: copying is slow."""
    whole = xxhash.xxh3_128(f"{tensor.dtype} {tuple(tensor.shape)}".encode())
    if not tensor.is_meta:
        raw = tensor.detach().contiguous().reshape(-1).view(torch.uint8)
        whole.update((raw if raw.device.type == "cpu" else word_sums(raw)).numpy().data)
    return whole.hexdigest()


def word_sums(raw: Tensor) -> Tensor:
    """Sums modulo 2^64, on the CPU, of 32-bit words times odd numbers that go with their places.

    One changed word changes one of them for certain, several but for a chance of about 2^-32.
    """
    words = nn.functional.pad(raw, (0, -len(raw) % 4)).view(torch.int32)
    rng = torch.Generator(raw.device).manual_seed(0)
    odd = torch.randint(1 << 62, (_CHUNK,), generator=rng, device=raw.device) * 2 + 1
    return torch.stack([(w.long() * odd[: len(w)]).sum() for w in words.split(_CHUNK)]).cpu()


def model_hash(modules: Mapping[str, nn.Module], *also: str, portable: bool = False) -> str:
    """Hash of parameters, buffers, numbers, kernels and kinds of modules, and of `also`.

    Tensors that modules share are read once; `portable` ones on the CPU, to be equal everywhere.
    """
    known = _KNOWN.get()
    key = (portable, *modules.items())
    found = None if known is None else known.get(key)
    if found is None:
        found = _hashed(modules, portable)
        if known is not None:
            known[key] = found
    return xxhash.xxh3_128(repr((found, also)).encode()).hexdigest()


@contextmanager
def unedited() -> Iterator[None]:
    """Within the block, models are read once for all their hashes: nothing there may edit them."""
    known = _KNOWN.get()
    before = _KNOWN.set({} if known is None else known)
    try:
        yield
    finally:
        _KNOWN.reset(before)


def _hashed(modules: Mapping[str, nn.Module], portable: bool) -> list[tuple[Any, str | None]]:
    places = list(_places(modules))
    tensors = {id(tensor): tensor for _, tensor in places if tensor is not None}

    def hashed(part: Sequence[tuple[int, Tensor]]) -> dict[int, str]:
        return {key: tensor_hash(one.cpu() if portable else one) for key, one in part}

    n_threads, every = torch.get_num_threads(), [*tensors.items()]
    parts = [every[i::n_threads] for i in range(n_threads)]  # most are small
    with ThreadPoolExecutor(n_threads) as pool:
        hashes = {key: one for part in pool.map(hashed, parts) for key, one in part.items()}
    return [(place, hashes.get(id(tensor))) for place, tensor in places]


def _places(modules: Mapping[str, nn.Module]) -> Iterator[tuple[Any, Tensor | None]]:
    """Every module with its own numbers, and every tensor with its name."""
    for prefix, whole in modules.items():
        for name, module in whole.named_modules(prefix=prefix):
            own = {
                key: value
                for key, value in vars(module).items()
                if key[0] != "_" and type(value) in _NUMBERS and key not in _BOOKKEEPING
            }
            kernel = getattr(vars(module).get("config"), "_attn_implementation", None)
            yield (name, type(module).__name__, own, kernel), None
            tensors = {**module._parameters, **module._buffers}
            if vars(module).get("rope_type") == "longrope":
                del tensors["inv_freq"]  # written at every call, by the length of that prompt
            if type(module)._save_to_state_dict is not nn.Module._save_to_state_dict:
                module._save_to_state_dict(tensors, "", keep_vars=True)  # scales of quantized ones
            for key, tensor in tensors.items():
                packed = hasattr(tensor, "__tensor_flatten__")
                for part in tensor.__tensor_flatten__()[0] if packed else ():
                    yield f"{name}.{key}.{part}", getattr(tensor, part)
                yield f"{name}.{key}", None if packed else tensor
