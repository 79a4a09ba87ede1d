"""How are hooks, and what they find, written down?

Types alone: whatever is annotated with them need not import TransformerLens, which takes seconds.
"""

from collections.abc import Callable, Iterable, Sequence

from jaxtyping import Float
from torch import Tensor

from hooked_omni.inputs.spans import Spans

HookFunction = Callable[..., Tensor | None]
"""A TransformerLens hook, `fn(activation, hook=hook_point)`."""
HookName = str | Callable[[str], bool]
Hook = tuple[HookName, HookFunction]
Intervention = Callable[[Spans], list[Hook]]
Condition = Iterable[Hook | Intervention]
NamesFilter = str | Sequence[str] | Callable[[str], bool] | None
TowerCache = dict[str, Float[Tensor, "*position d_tower"]]
"""What passed each hook point of the towers; several calls of one module follow each other."""
