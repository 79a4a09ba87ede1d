"""Rotary embedding of positions in one dimension or three, to the bit as in Hugging Face."""

import torch
from jaxtyping import Float, Num
from torch import Tensor

from hooked_omni.decoder.config import DecoderConfig

Heads = Float[Tensor, "batch pos head d_head"]
Angles = Float[Tensor, "batch pos d_head"]


class Rotary:
    """Angles of M-RoPE: frequency `i` turns with the time, height or width row of the positions."""

    def __init__(self, cfg: DecoderConfig) -> None:
        # On the CPU first, as Hugging Face does: a GPU rounds powers otherwise.
        half = torch.arange(0, cfg.d_head, 2, dtype=torch.float32, device="cpu") / cfg.d_head
        given = [torch.tensor(one, device="cpu") for one in cfg.inv_freqs]
        every = given or [1.0 / (cfg.rope_theta**half)]
        self.inv_freqs, self.scaling = [one.to(cfg.device) for one in every], cfg.rope_scaling
        self.section, self.interleaved = list(cfg.mrope_section), cfg.mrope_interleaved
        self.dtype = cfg.dtype

    def __call__(
        self, positions: Num[Tensor, "3 batch pos"], which: int = 0
    ) -> tuple[Angles, Angles]:
        freqs = positions[..., None].float() * self.inv_freqs[which].to(positions.device)
        return self._select(freqs.cos()), self._select(freqs.sin())

    def _select(self, rows: Float[Tensor, "3 batch pos half"]) -> Angles:
        if self.interleaved:
            half = rows[0].clone()
            for row in (1, 2):
                turns = slice(row, 3 * self.section[row], 3)
                half[..., turns] = rows[row][..., turns]
        else:
            parts = [part[i] for i, part in enumerate(rows.split(self.section, dim=-1))]
            half = torch.cat(parts, dim=-1)
        half = half if self.scaling == 1 else half * self.scaling
        return torch.cat((half, half), dim=-1).to(self.dtype)


def rotate(
    x: Heads, cos: Float[Tensor, "#batch pos angle"], sin: Float[Tensor, "#batch pos angle"]
) -> Heads:
    """Turn the first half of each head against the second; what has no angle stays as it is."""
    if (width := cos.shape[-1]) < x.shape[-1]:
        return torch.cat((rotate(x[..., :width], cos, sin), x[..., width:]), dim=-1)
    cos, sin = cos.unsqueeze(2), sin.unsqueeze(2)
    first, second = x.chunk(2, dim=-1)
    return (x * cos) + (torch.cat((-second, first), dim=-1) * sin)
