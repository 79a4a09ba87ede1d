"""A mixture of experts in place of a block's MLP, in Hugging Face's order of operations.

Source: `Qwen3OmniMoeThinkerTextSparseMoeBlock` of transformers. Hook names of the weights and
indices are TransformerLens's.
"""

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from hooked_omni.decoder.config import DecoderConfig, Experts
from hooked_omni.errors import HookError
from hooked_omni.hooks.hook_point import HookPoint

Resid = Float[Tensor, "batch pos d_model"]


class ExpertWeights(nn.Module):
    """All experts' weights in two tensors, as Hugging Face holds them: the gate's rows first."""

    def __init__(self, d_model: int, experts: Experts) -> None:
        super().__init__()
        n, width = experts.n_experts, experts.d_mlp
        self.gate_up_proj = nn.Parameter(torch.empty(n, 2 * width, d_model))
        self.down_proj = nn.Parameter(torch.empty(n, d_model, width))

    def forward(
        self, expert: int, x: Float[Tensor, "token d_model"]
    ) -> Float[Tensor, "token d_model"]:
        """What one expert makes of some positions."""
        pre, linear = nn.functional.linear(x, self.gate_up_proj[expert]).chunk(2, dim=-1)
        return nn.functional.linear(nn.functional.silu(pre) * linear, self.down_proj[expert])


class MixtureOfExperts(nn.Module):
    """Router and experts.

    An edit of `hook_router_logits` or `hook_expert_weights` changes which experts are chosen; an
    edit of `hook_expert_indices` chooses others, with the weights that the router gave them.
    """

    def __init__(self, cfg: DecoderConfig) -> None:
        super().__init__()
        assert cfg.experts is not None
        self.chosen_of = cfg.experts
        self.gate = nn.Linear(cfg.d_model, cfg.experts.n_experts, bias=False)
        self.experts = ExpertWeights(cfg.d_model, cfg.experts)
        self.hook_router_logits = HookPoint()  # [batch, pos, expert]
        self.hook_expert_weights = HookPoint()  # [batch, pos, expert], float32, sum to one
        self.hook_expert_indices = HookPoint()  # [batch, pos, active], best first
        self.hook_expert_out = HookPoint()  # [batch, pos, active, d_model], before weighting

    def forward(self, x: Resid) -> Resid:
        logits = self.hook_router_logits(self.gate(x))
        self.hook_router_logits.current.watch(logits)  # an expert at -inf is never chosen
        weights = nn.functional.softmax(logits, dim=-1, dtype=torch.float32)
        weights = self.hook_expert_weights(weights)
        kept, best = weights.topk(self.chosen_of.n_active, dim=-1)
        chosen = self.hook_expert_indices(best)
        if chosen is not best:
            self._require_experts(chosen)
            kept = weights.gather(-1, chosen)
        if self.chosen_of.normalized:
            kept = kept / kept.sum(dim=-1, keepdim=True)
        return self._mixed(x, chosen, kept.to(logits.dtype))

    def _mixed(
        self,
        x: Resid,
        chosen: Int[Tensor, "batch pos active"],
        kept: Float[Tensor, "batch pos active"],
    ) -> Resid:
        tokens, chosen, kept = x.flatten(0, 1), chosen.flatten(0, 1), kept.flatten(0, 1)
        used = [(expert, *torch.where(chosen.T.eq(expert))) for expert in chosen.unique().tolist()]
        edited = None
        if self.hook_expert_out.hooked:
            out = x.new_zeros(*x.shape[:2], chosen.shape[-1], x.shape[-1])
            for expert, slot, token in used:
                out.flatten(0, 1)[token, slot] = self.experts(expert, tokens[token])
            edited = self.hook_expert_out(out).flatten(0, 1)
        mixed = torch.zeros_like(tokens)
        for expert, slot, token in used:
            out = self.experts(expert, tokens[token]) if edited is None else edited[token, slot]
            mixed.index_add_(0, token, out * kept[token, slot, None])
        return mixed.view_as(x)

    def _require_experts(self, chosen: Int[Tensor, "batch pos active"]) -> None:
        n_experts = self.chosen_of.n_experts
        if int(chosen.min()) < 0 or int(chosen.max()) >= n_experts:
            raise HookError(
                f"expected experts from 0 to {n_experts - 1} at {self.hook_expert_indices.name!r}, "
                f"got {int(chosen.min())} to {int(chosen.max())}. Experts count from 0."
            )

    @property
    def W_gate(self) -> Float[Tensor, "expert d_model d_mlp"]:
        return self.experts.gate_up_proj[:, : self.chosen_of.d_mlp].transpose(1, 2)

    @property
    def W_in(self) -> Float[Tensor, "expert d_model d_mlp"]:
        return self.experts.gate_up_proj[:, self.chosen_of.d_mlp :].transpose(1, 2)

    @property
    def W_out(self) -> Float[Tensor, "expert d_mlp d_model"]:
        return self.experts.down_proj.transpose(1, 2)

    @property
    def b_out(self) -> Float[Tensor, " d_model"]:
        """Output bias: zero, these decoders have none."""
        return self.experts.down_proj.new_zeros(self.experts.down_proj.shape[1])
