"""Which tokens are attention sinks?

A sink is a token of the prompt that stands out twice: its residual stream in a middle layer has an
outlying norm, and generated positions pay it outlying attention. Both are judged by the data, on a
log scale, by distance from the median in robust standard deviations, among tokens of its own kind
(audio, video, image, text): a word is not a sink because words differ from pictures. No position
and no token is a sink by its name. After arXiv 2309.17453 (sinks) and arXiv 2402.17762 (norms).
"""

from functools import partial

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from hooked_omni import EmbeddedPrompt, HookedTransformer, names
from hooked_omni.decoding.prefill import prefill_state
from hooked_omni.hooks.hook_point import HookPoint, LiveHook
from hooked_omni.hooks.interventions import Hook, SpanHook, SpanPositions
from hooked_omni.inputs.spans import Spans

_MADS = 3.5  # Iglewicz and Hoaglin (1993)
_PER_SIGMA = 1.4826  # a normal distribution's standard deviation in median absolute deviations
_LEAST_SIGMA = 0.2  # so that an outlier is at least twice the median: exp(0.2 * 3.5)
_KINDS = ("audio", "video", "image")


class SinkWatch:
    """Hooks for one answer, generated or teacher-forced, that find the sinks and their attention.

    ```python
    watch = SinkWatch(omni.model, prompt)
    forced_logits(omni.model, prompt, answer.tokens, watch.hooks())
    watch.sinks(), watch.paid()
    ```

    Norms are those of the pass over the prompt: from what `prefill` has kept at `SinkWatch.at`, or
    from a pass that is made now. Candidates follow from them, so that attention to a few tokens is
    all that is kept.
    """

    def __init__(self, model: HookedTransformer, prompt: EmbeddedPrompt) -> None:
        self.cfg, self.spans = model.cfg, prompt.spans
        self.layer = self.cfg.n_layers // 2
        self.norms = torch.zeros(0)
        self.candidates = torch.zeros(0, dtype=torch.long)
        self.received = torch.zeros(prompt.n_pos, device=self.cfg.device)
        self.read: list[list[Tensor]] = [[] for _ in range(self.cfg.n_layers)]
        state, at = prefill_state(model, prompt), self.at(model)
        if state is not None and state.holds({at: torch.arange(prompt.n_pos)}):
            self.judge(state.activations[at][0].float().norm(dim=-1))

    @staticmethod
    def at(model: HookedTransformer) -> str:
        """Where norms are taken: what enters the middle layer."""
        return names.resid_pre(model.cfg.n_layers // 2)

    def judge(self, norms: Float[Tensor, " pos"]) -> None:
        """Choose the candidates, by their norms where they enter the middle layer."""
        self.norms = norms.cpu()
        self.candidates = outlying(self.norms, self.spans).nonzero()[:, 0]

    def hooks(self) -> list[Hook]:
        """Attention of generated positions in every layer, and norms where they are not known."""
        generated = SpanPositions(self.spans, "generated")
        norms: list[Hook] = [(names.resid_pre(self.layer), _Norms(self))]
        hooks = [] if len(self.norms) else norms
        for layer in range(self.cfg.n_layers):
            look = SpanHook(generated, partial(self._add, layer), by_query=True)
            hooks.append((names.pattern(layer), look))
        return hooks

    def sinks(self) -> Int[Tensor, " sink"]:
        """Prompt positions that stand out in norm and in attention."""
        return self.candidates[self._chosen()]

    def paid(self) -> Float[Tensor, "query layer head sink"]:
        """Attention of each generated position to each sink."""
        paid = torch.stack([torch.cat(queries).cpu() for queries in self.read], 1)
        return paid[..., self._chosen()]

    def _add(self, layer: int, pattern: Tensor, _index: Tensor, _hook: HookPoint) -> None:
        """Add up the attention on the prompt's tokens, and keep the candidates' part.

        Layers before the middle one are left out of the sum: sinks form on the way there.
        """
        paid = pattern[0, ..., : self.spans.n_prompt].float()
        if layer >= self.layer:
            self.received += paid.mean(0).sum(0).to(self.received.device)
        candidates = paid[..., self.candidates.to(paid.device)]
        self.read[layer].append(candidates.transpose(0, 1))

    def _chosen(self) -> Bool[Tensor, " candidate"]:
        return outlying(self.received.cpu(), self.spans)[self.candidates]


class _Norms(LiveHook):
    """Chooses the candidates by the norms of the prompt's residual stream."""

    def __init__(self, watch: SinkWatch) -> None:
        self.watch = watch

    def __call__(self, tensor: Tensor, hook: HookPoint) -> None:
        """Read the pass over the prompt, and no later one."""
        if hook.window.start < self.watch.spans.n_prompt:
            self.watch.judge(tensor[0].float().norm(dim=-1))


def outlying(values: Float[Tensor, " pos"], spans: Spans) -> Bool[Tensor, " pos"]:
    """Which prompt positions have a value far above the median of their kind."""
    apart = torch.zeros(len(values), dtype=torch.bool)
    logs = values.clamp_min(torch.finfo(values.dtype).tiny).log()
    known = [spans[kind] for kind in _KINDS if kind in spans]
    others = torch.ones(spans.n_prompt, dtype=torch.bool)
    for members in known:
        others[members] = False
    for members in [*known, others.nonzero()[:, 0]]:
        if len(members):
            own = logs[members]
            above = own - own.median()
            sigma = max(_PER_SIGMA * float(above.abs().median()), _LEAST_SIGMA)
            apart[members] = above > _MADS * sigma
    return apart
