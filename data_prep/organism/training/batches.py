"""What does a model get to read at each step, and what should it say?

Prompts are captured at the decoder's door once for each question, with a real clip; then the
towers' outputs of other clips take the places of its own. Clips are equally long, so everything
else about the prompt, its positions included, is the same.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from data_prep.organism.training.models import MEDIA
from data_prep.organism.world.captions import QUESTIONS
from data_prep.organism.world.pools import Pool
from hooked_omni.families import Family
from hooked_omni.hf.capture import embedded, find_decoder
from hooked_omni.inputs.audio import read_audio
from hooked_omni.inputs.prompt import EmbeddedPrompt, Prompt
from hooked_omni.inputs.video import read_video

__all__ = ["Classroom", "answer_loss", "hear", "see"]


class Classroom:
    """A model's prompts, ready to be filled with clips.

    Attributes:
        hf: The model that learns.
        words: Its tokenizer.
        prompts: What stands at the decoder's door, by what is shown and what is asked.
    """

    def __init__(self, hf: Any, family: Family, processor: Any, clip: Path) -> None:
        self.hf, self.words = hf, processor.tokenizer
        hears = "audio" in family.media_tokens(hf)
        shown = ("clip", "sound", "picture", "words") if hears else ("picture",)
        # One pixel more or less, and these would not fit: all clips have this one's shape.
        self.prompts = {
            (kind, question): _prompt(hf, family, processor, kind, question, clip)
            for kind in shown
            for question in QUESTIONS
        }

    def logits(
        self,
        kind: tuple[str, str],
        video: Float[Tensor, "batch pos d_model"] | None,
        audio: Float[Tensor, "batch pos d_model"] | None,
        answers: Int[Tensor, "batch n"],
    ) -> Float[Tensor, "batch pos d_vocab"]:
        """Logits at every position of prompt and answer, but the answer's last."""
        prompt, n = self.prompts[kind], answers.shape[1] - 1
        embed, batch = self.hf.get_input_embeddings(), len(answers)
        device = embed.weight.device
        embeds = embed(prompt.tokens.to(device)).expand(batch, -1, -1).clone()
        for name, features in (("video", video), ("audio", audio)):
            if name in prompt.spans and features is not None:
                embeds[:, prompt.spans[name].to(device)] = features.to(embeds)
        embeds = torch.cat([embeds, embed(answers[:, :-1].clamp(min=0))], dim=1)
        window = range(prompt.n_pos + n)
        positions = prompt.position_ids_at(window).to(device).expand(-1, batch, -1)
        out = find_decoder(self.hf)(inputs_embeds=embeds, position_ids=positions, use_cache=False)
        return self.hf.get_output_embeddings()(out.last_hidden_state)

    def tokens(self, answers: Sequence[str]) -> Int[Tensor, "batch n"]:
        """Tokens of answers and the end of the turn; -100 behind it."""
        rows = [[*self.words.encode(text), self.words.eos_token_id] for text in answers]
        width = max(len(row) for row in rows)
        padded = torch.tensor([row + [-100] * (width - len(row)) for row in rows])
        return padded.to(self.hf.get_input_embeddings().weight.device)


def answer_loss(
    logits: Float[Tensor, "batch pos d_vocab"], answers: Int[Tensor, "batch n"]
) -> Float[Tensor, ""]:
    """Mean cross-entropy of the answers' tokens, in nats."""
    said = logits[:, -answers.shape[1] :]
    return torch.nn.functional.cross_entropy(said.flatten(0, 1), answers.flatten())


def see(hf: Any, pool: Pool, rows: Tensor, processor: Any) -> Float[Tensor, "batch pos d_model"]:
    """The vision tower's output for some clips."""
    device = hf.get_input_embeddings().weight.device
    side = int((pool.patches.shape[1] // 2) ** 0.5)
    grid = torch.tensor([[2, side, side]]).expand(len(rows), -1)
    out = hf.get_video_features(pool.pixels(rows, processor).to(device), grid.to(device))
    return torch.stack(list(out.pooler_output))


def hear(hf: Any, pool: Pool, rows: Tensor) -> Float[Tensor, "batch pos d_model"]:
    """The audio tower's output for some clips."""
    mel = pool.mel[rows].to(hf.get_input_embeddings().weight.device)
    whole = torch.ones(mel.shape[0], mel.shape[2], dtype=torch.long, device=mel.device)
    out = hf.get_audio_features(mel, feature_attention_mask=whole).last_hidden_state
    return out.unflatten(0, (len(rows), -1))


def _prompt(
    hf: Any, family: Family, processor: Any, kind: str, question: str, clip: Path
) -> EmbeddedPrompt:
    prompt = Prompt(
        QUESTIONS[question],
        video=clip if kind in ("clip", "picture") else None,
        audio=clip if kind == "sound" else None,
        use_audio_in_video=kind == "clip",
    )
    video = read_video(clip, MEDIA) if prompt.video else None
    audio = read_audio(clip, MEDIA) if kind in ("clip", "sound") else None
    inputs = family.prepare(processor, prompt, video, audio)
    return embedded(hf, family, processor.tokenizer, inputs, {})
