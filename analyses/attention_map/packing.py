"""How are the largest weights of many rows of attention, and their sums, kept in few bytes?

Three blocks one after the other, deflated without a header:

* positions, uint16, little endian `[layer, head, query, kept]`, ascending; `NONE` where a row has
  fewer.
* weights, uint8 `[layer, head, kept, query]`: `(code / 255) ** 2`, finest where weights are small.
* sums of parts, uint8 `[byte, layer, head, part, query]`: the change of each code from the query
  before, zigzag, in three bytes, low ones first. `code / levels`.

A code is the step of a sum that is rounded last: of the parts up to this one, and of the heads, in
reading order, up to this one. So what rounding adds does not add up: the sum over any run of parts
and any run of heads is off by at most `2 / levels`, and a mean over n heads by n times less.
Queries of one head look alike, so they stand together. No torch: pages are written without a model.
"""

import zlib
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Integer

from hooked_omni.errors import ResultsError

NONE = 65_535
"""No position."""

_CODES = 255
LEAST = 1 / 256
"""Smaller weights are left out: no more than rounding a large one may be off by."""

_FEW, _FINE, _COARSE = 2**17, 2**18 - 1, 2**10 - 1


class KeptWeights(NamedTuple):
    """What is read back: a position of `NONE` has weight 0; a sum of 0 may be just below it."""

    positions: Integer[np.ndarray, "layer head query kept"]
    weights: Float[np.ndarray, "layer head query kept"]
    sums: Float[np.ndarray, "layer head query part"]


def levels(n_sums: int) -> int:
    """Steps from 0 to 1 in which so many sums are kept: fine ones where that takes few bytes."""
    return _FINE if n_sums <= _FEW else _COARSE


def packed(
    positions: Integer[np.ndarray, "layer head query kept"],
    weights: Float[np.ndarray, "layer head query kept"],
    sums: Float[np.ndarray, "layer head query part"],
) -> tuple[bytes, float]:
    """The bytes, and by how much any of these weights is off in them."""
    codes = np.rint(np.sqrt(weights) * _CODES).astype(np.uint8)
    codes[weights < LEAST] = 0
    places = np.where(codes > 0, positions, NONE).astype("<u2")
    order = np.argsort(places, axis=-1, kind="stable")
    error = np.abs(weights - _weights(codes)).max(initial=0.0)
    places, codes = (np.take_along_axis(one, order, -1) for one in (places, codes))
    made = zlib.compressobj(9, wbits=-15)
    blocks = (places, np.swapaxes(codes, 2, 3), _steps(sums))
    data = b"".join(made.compress(block.tobytes()) for block in blocks)
    return data + made.flush(), float(error)


def unpacked(data: bytes, shape: tuple[int, int, int, int], n_parts: int) -> KeptWeights:
    """What was packed, of this shape; a `ResultsError` for other bytes."""
    n_layers, n_heads, n_queries, n_kept = shape
    n, n_sums = int(np.prod(shape)), int(np.prod(shape[:3])) * n_parts
    due = 3 * n + 3 * n_sums
    try:
        raw = zlib.decompress(data, wbits=-15)
    except zlib.error as error:
        raise ResultsError(
            f"expected packed attention, got {error}. Make the table again."
        ) from error
    if len(raw) != due:
        raise ResultsError(
            f"expected {due} bytes of attention for {shape} and {n_parts} parts, got "
            f"{len(raw)}. Make the table again."
        )
    places, codes = np.frombuffer(raw, "<u2", n), np.frombuffer(raw, np.uint8, n, 2 * n)
    codes = np.swapaxes(codes.reshape(n_layers, n_heads, n_kept, n_queries), 2, 3)
    folded = 256 ** np.arange(3) @ np.frombuffer(raw, np.uint8, offset=3 * n).reshape(3, -1)
    changes = np.where(folded % 2, -(folded + 1) // 2, folded // 2)
    sums = np.cumsum(changes.reshape(n_layers, n_heads, n_parts, n_queries), -1) / levels(n_sums)
    return KeptWeights(places.reshape(shape), _weights(codes), np.swapaxes(sums, 2, 3))


def _steps(
    sums: Float[np.ndarray, "layer head query part"],
) -> Integer[np.ndarray, "3 layer head part query"]:
    upto = np.cumsum(sums.astype(float), -1).reshape(-1, *sums.shape[2:])
    whole = np.rint(np.cumsum(upto, 0) * levels(sums.size)).astype(np.int64)
    codes = np.diff(np.diff(whole, axis=0, prepend=0), axis=-1, prepend=0).reshape(sums.shape)
    changes = np.diff(np.swapaxes(codes, 2, 3), axis=-1, prepend=0)
    folded = np.where(changes < 0, -2 * changes - 1, 2 * changes)
    return np.stack([folded >> shift & 255 for shift in (0, 8, 16)]).astype(np.uint8)


def _weights(codes: Integer[np.ndarray, " *_"]) -> Float[np.ndarray, " *_"]:
    return (codes / _CODES) ** 2
