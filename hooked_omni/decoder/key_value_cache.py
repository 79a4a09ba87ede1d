"""Keys and values of earlier positions, kept for the passes that follow."""

import torch
from jaxtyping import Float

from hooked_omni.decoder.config import DecoderConfig

NewKeys = Float[torch.Tensor, "batch kv_head pos d_head"]
Keys = Float[torch.Tensor, "batch kv_head key d_head"]


class KeyValueCache:
    """Keys and values of the `length` positions so far, in one buffer a layer that never moves."""

    def __init__(self, cfg: DecoderConfig, batch: int, capacity: int) -> None:
        shape = (batch, cfg.n_key_value_heads, capacity, cfg.d_head)
        self.length = 0
        places = [cfg.device_of(layer) for layer in range(cfg.n_layers)]
        self.keys, self.values = (
            [torch.empty(shape, dtype=cfg.dtype, device=place) for place in places]
            for _ in range(2)
        )

    def append(self, layer: int, k: NewKeys, v: NewKeys) -> tuple[Keys, Keys]:
        """Store new keys and values of one layer; return all of them so far."""
        stop = self.length + k.shape[2]
        self.keys[layer][:, :, self.length : stop] = k
        self.values[layer][:, :, self.length : stop] = v
        return self.keys[layer][:, :, :stop], self.values[layer][:, :, :stop]
