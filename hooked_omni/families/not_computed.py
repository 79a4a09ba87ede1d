"""Which decoders cannot be hooked exactly, and why?

A pattern is what this library reads, edits and cuts; where a layer has none, or the residual stream
is not one sum, the hook points would not mean what their names say.
"""

_TYPES = {
    "layers of linear attention, which keep a state and have no pattern": (
        "qwen3_5 qwen3_5_moe qwen3_next qwen4_exp minicpmv4_6 minicpmv4_7 minicpm_ocr jev "
        "kimi_linear glm5_next olmo_hybrid minimax bailing_hybrid"
    ),
    "Mamba layers, which keep a state and have no pattern": (
        "nemotron_h nemotron_h_omni nemo_speechlm mamba mamba2 falcon_mamba falcon_h1 bamba jamba "
        "zamba zamba2 granitemoehybrid"
    ),
    "recurrent layers, which have no pattern": "recurrent_gemma rwkv xlstm",
    "short convolutions between positions, which a cut of the pattern would leave open": (
        "lfm2 lfm2_moe lfm2_vl lfm3 lfm3_vl inkling_mm_model inkling2"
    ),
    "latent attention over keys that an indexer picks": "dots3_note deepseek_v32",
    "AltUp, which keeps several residual streams side by side": "gemma3n",
    "layers that share other layers' keys and values, and inputs of their own": "gemma4",
    "layers of two head widths, keys that are values, patches that read later ones": (
        "gemma4_unified"
    ),
    "gates on the residual stream, which then is not one sum": "muse_spark",
}
OTHER_LAYOUTS = {
    "phi4mm": (
        "Phi-4-multimodal with code of its own. Load the same model as transformers has it, "
        "model_type 'phi4_multimodal': revision 'refs/pr/70' of the same name on the hub, or what "
        "convert_phi4_multimodal_weights_to_hf.py of transformers' repository makes of this one. "
        "Its adapters are merged into the weights before: docs/add-a-model.md"
    )
}
"""From the `model_type` of a checkpoint whose model is known in another layout to what to load."""
NOT_COMPUTED = {kind: reason for reason, kinds in _TYPES.items() for kind in kinds.split()}
"""From the `model_type` of a checkpoint, or of its text model, to what it has."""
