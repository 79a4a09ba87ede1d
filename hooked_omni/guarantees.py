"""What is guaranteed for this model on this machine, as `prove` measured it, and what is not?"""

from rich.table import Table

from hooked_omni.inputs.prompt import EmbeddedPrompt
from hooked_omni.omni import HookedOmni
from hooked_omni.parity import ParityReport


def guaranteed(omni: HookedOmni, prompt: EmbeddedPrompt, report: ParityReport) -> Table:
    """What was compared with Hugging Face, and how far it was off."""
    cfg = omni.model.cfg
    dtype = str(cfg.dtype).removeprefix("torch.")
    title = f"{cfg.model_name} ({omni.family.name}), {dtype} on {cfg.device}"
    table = Table("guaranteed", "measured", title=title, title_justify="left")
    if (own := omni.adapter) is not None:
        table.add_row(f"adapter {own['name']}", "beside the weights, as in peft")
    kernel, steps = cfg.attn_implementation, f"logits of {report.decode_steps} decode steps"
    differences = {
        f"logits of the prompt, {kernel}, against {type(omni.hf).__name__}": report.prefill,
        f"{steps}, {kernel}": report.decode,
        "logits of the prompt, every layer opened, against eager": report.prefill_opened,
        f"{steps}, every layer opened": report.decode_opened,
    }
    for what, number in differences.items():
        table.add_row(what, "equal to the bit" if number == 0 else f"{number:.3g} at most")
    table.add_row("positions and tokens of decode steps", f"equal in {report.decode_steps}")
    table.add_row("rows of every pattern sum to one", f"within {report.pattern_rows:.3g}")
    table.add_row("an edit moves the logits", f"at all {report.live_hooks} hook points")
    parts = [name for name in ("audio", "video", "text") if name in prompt.spans]
    spans = ", ".join(f"{len(prompt.spans[name])} {name}" for name in parts)
    table.add_row("prompt that was compared", f"{prompt.n_pos} positions: {spans}")
    return table


def not_guaranteed(omni: HookedOmni, prompt: EmbeddedPrompt, report: ParityReport) -> Table:
    """What this proof does not cover."""
    table = Table("not guaranteed", "why")
    if omni.model.cfg.device.type != "cpu":
        table.add_row(
            "bits on this device",
            f"its kernels may depend on memory layout; accepted within {report.tolerance:.3g}",
        )
    if omni.model.cfg.dtype.itemsize < 4:
        table.add_row(
            "equal tokens in sweeps in this precision",
            "a batch rounds otherwise; where two tokens are close it may choose the other",
        )
    if how := omni.model.cfg.quantized:
        table.add_row(
            "the original's numbers", f"quantized by {how}: compared with Hugging Face's, so loaded"
        )
    if omni.model.cfg.experts is not None:
        table.add_row(
            "Hugging Face's grouped experts",
            "its default kernel adds in another order; eager experts were compared",
        )
    if not ({"audio", "video"} & set(prompt.spans)):
        table.add_row("prompts with a clip", "words alone were compared: pass --clip or --prompt")
    if omni.towers is None:
        table.add_row(
            "the towers",
            "they were left out; a bundle records the versions that made it in its facts",
        )
    if omni.family.remote is not None:
        table.add_row(
            "the released model's own code",
            f"compared with {type(omni.hf).__name__} on the same tensors; the code that comes with "
            "the checkpoint was not run",
        )
    if (limit := omni.model.cfg.rope_limit) is not None:
        longer = "captions across" if len(omni.model.cfg.inv_freqs) > 1 else "prompts of over"
        table.add_row(f"{longer} {limit} positions", "refused")
    table.add_row(
        "other prompts, versions and machines", "this is one measurement: repeat it there"
    )
    return table
