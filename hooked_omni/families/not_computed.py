"""Which decoders cannot be hooked exactly, and why?

A pattern is what this library reads, edits and cuts; where a layer has none, or the residual stream
is not one sum, the hook points would not mean what their names say.
"""

_LINEAR = "layers of linear attention, which keep a state and have no pattern"
_MAMBA = "Mamba layers, which keep a state and have no pattern"
_CONVOLUTIONS = "short convolutions between positions, which a cut of the pattern would leave open"
_LATENT = "latent attention over keys that an indexer picks"

NOT_COMPUTED = {
    **dict.fromkeys(
        (
            *("qwen3_5", "qwen3_5_moe", "qwen3_next", "qwen4_exp", "minicpmv4_6", "minicpmv4_7"),
            *("minicpm_ocr", "jev", "kimi_linear", "glm5_next", "olmo_hybrid", "minimax"),
            "bailing_hybrid",
        ),
        _LINEAR,
    ),
    **dict.fromkeys(
        (
            *("nemotron_h", "nemotron_h_omni", "nemo_speechlm", "mamba", "mamba2", "falcon_mamba"),
            *("falcon_h1", "bamba", "jamba", "zamba", "zamba2", "granitemoehybrid"),
        ),
        _MAMBA,
    ),
    **dict.fromkeys(
        ("recurrent_gemma", "rwkv", "xlstm"), "recurrent layers, which have no pattern"
    ),
    **dict.fromkeys(
        ("lfm2", "lfm2_moe", "lfm2_vl", "lfm3", "lfm3_vl", "inkling_mm_model", "inkling2"),
        _CONVOLUTIONS,
    ),
    **dict.fromkeys(("dots3_note", "deepseek_v3", "deepseek_v32"), _LATENT),
    "gemma3n": "AltUp, which keeps several residual streams side by side",
    "gemma4": "layers that share other layers' keys and values, and inputs of their own",
    "muse_spark": "gates on the residual stream, which then is not one sum",
}
"""From the `model_type` of a checkpoint, or of its text model, to what it has."""


def why_not_computed(model_type: object) -> str | None:
    """What a decoder has that is not computed here, by its `model_type`; None if nothing known."""
    return NOT_COMPUTED.get(str(model_type).removesuffix("_text"))
