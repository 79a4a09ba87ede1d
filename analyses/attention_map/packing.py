"""How are the largest weights of many rows of attention kept in few bytes?

Little endian, three blocks one after the other, deflated without a header:

* positions, uint16 `[layer, head, query, kept]`, ascending; `NONE` where a row has fewer.
* weights, uint8 of the same shape: `(code / 255) ** 2`, finest where weights are small.
* sums, uint16 `[layer, head, query, segment]`: `code / 65535`.

Queries of one head look at much the same, so that they stand together: a third less than otherwise.
No torch: the page's writer unpacks without a model.
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


class KeptWeights(NamedTuple):
    """Positions, weights and sums as they are read back; a position of `NONE` has weight 0."""

    positions: Integer[np.ndarray, "layer head query kept"]
    weights: Float[np.ndarray, "layer head query kept"]
    sums: Float[np.ndarray, "layer head query segment"]


def packed(
    positions: Integer[np.ndarray, "layer head query kept"],
    weights: Float[np.ndarray, "layer head query kept"],
    sums: Float[np.ndarray, "layer head query segment"],
) -> tuple[bytes, float]:
    """The bytes, and by how much any of these weights is off in them."""
    codes = np.rint(np.sqrt(weights) * _CODES).astype(np.uint8)
    codes[weights < LEAST] = 0
    places = np.where(codes > 0, positions, NONE).astype("<u2")
    order = np.argsort(places, axis=-1, kind="stable")
    error = np.abs(weights - _weights(codes)).max(initial=0.0)
    shares = np.rint(np.clip(sums, 0, 1) * 65_535).astype("<u2")
    rows = (np.take_along_axis(one, order, -1) for one in (places, codes))
    made = zlib.compressobj(9, wbits=-15)
    data = b"".join(made.compress(block.tobytes()) for block in (*rows, shares))
    return data + made.flush(), float(error)


def unpacked(data: bytes, shape: tuple[int, int, int, int], n_segments: int) -> KeptWeights:
    """What was packed, of this shape; a `ResultsError` for other bytes."""
    n, n_rows = int(np.prod(shape)), int(np.prod(shape[:3]))
    due = 3 * n + 2 * n_rows * n_segments
    try:
        raw = zlib.decompress(data, wbits=-15)
    except zlib.error as error:
        raise ResultsError(
            f"expected packed attention, got {error}. Make the table again."
        ) from error
    if len(raw) != due:
        raise ResultsError(
            f"expected {due} bytes of attention for {shape} and {n_segments} segments, got "
            f"{len(raw)}. Make the table again."
        )
    places, codes = np.frombuffer(raw, "<u2", n), np.frombuffer(raw, np.uint8, n, 2 * n)
    sums = np.frombuffer(raw, "<u2", offset=3 * n).reshape(*shape[:3], n_segments)
    return KeptWeights(places.reshape(shape), _weights(codes).reshape(shape), sums / 65_535)


def _weights(codes: Integer[np.ndarray, " *_"]) -> Float[np.ndarray, " *_"]:
    return (codes / _CODES) ** 2
