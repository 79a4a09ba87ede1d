"""A stand-in for MiniCPM-o 4.5."""

from typing import Any

import torch
import transformers

from tests.support.standins.minicpm_o import MiniCPMO, MiniCPMOProcessor
from tests.support.standins.parts import TEXT, scrambled

_ROPE = {"rope_type": "default", "rope_theta": 1e6}


class MiniCPMO45Config(transformers.Qwen3Config):
    model_type = "minicpmo"
    init_vision = init_audio = init_tts = True


class MiniCPMO45(MiniCPMO):
    """`chat` keeps its processor, and its arguments have other names."""

    config_class = MiniCPMO45Config
    placeholders = ("<image>./</image>", "<audio>./</audio>")
    processor: Any = None

    def decoder(self, vocab: int) -> Any:
        config = transformers.Qwen3Config(
            **TEXT, vocab_size=vocab, rope_parameters=_ROPE, head_dim=16
        )
        return transformers.Qwen3ForCausalLM(config)

    def get_sys_prompt(self, mode: str, language: str) -> dict[str, Any]:
        assert (mode, language) == ("omni", "en")
        return {"role": "system", "content": [""]}

    @torch.inference_mode()
    def chat(  # pyright: ignore[reportIncompatibleMethodOverride]
        self,
        msgs: list[Any],
        do_sample: bool = True,
        max_inp_length: int = 8192,
        enable_thinking: bool = False,
        omni_mode: bool = False,
        num_beams: int = 3,
        **options: Any,
    ) -> str:
        text, images, sounds, parts = self.written(msgs, "" if omni_mode else "\n")
        text += "" if enable_thinking else "<think>\n\n</think>\n\n"
        text += "<|tts_bos|>" if sounds else ""
        own: Any = {"chunk_input": False, "max_length": max_inp_length}
        inputs = self.processor([text], [images], [sounds], [parts], **own, **options)
        inputs.pop("image_sizes")
        greedy: Any = {"do_sample": do_sample, "num_beams": num_beams, "repetition_penalty": 1.02}
        self.generate(**inputs, tokenizer=self.processor.tokenizer, min_new_tokens=0, **greedy)
        return "an answer"


class MiniCPMO45Processor(MiniCPMOProcessor):
    placeholders, pool = MiniCPMO45.placeholders, 5


def random_minicpm_o_4_5(seed: int = 0) -> tuple[Any, Any]:
    processor = MiniCPMO45Processor()
    own: Any = {"version": "4.5", "audio_pool_step": 5, "stream_input": True, "head_dim": 16}
    config = MiniCPMO45Config(
        **TEXT, vocab_size=len(processor.tokenizer), rope_parameters=_ROPE, **own, dtype="float32"
    )
    hf = scrambled(MiniCPMO45(config), seed)
    hf.generation_config.eos_token_id = processor.tokenizer.convert_tokens_to_ids("<|im_end|>")
    return hf, processor
