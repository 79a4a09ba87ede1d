"""Which logits does a model in training give to an answer about some clips?

Prompts are embedded once for each question, with a real clip; then the towers' outputs for other
clips, all equally long, take the places of its own.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from data_prep.organism.training.clip_tensors import ClipTensors
from data_prep.organism.training.models import MEDIA
from data_prep.organism.world.captions import QUESTIONS
from hooked_omni.families import Family
from hooked_omni.hf.capture import embedded, find_decoder
from hooked_omni.inputs.audio import read_audio
from hooked_omni.inputs.prompt import EmbeddedPrompt, Prompt
from hooked_omni.inputs.video import read_video

Features = Float[Tensor, "batch pos d_model"]


class TrainingPrompts:
    """A model's embedded prompts, to be filled with clips, by media and question.

    Media are "clip", "sound", "picture", or "words" (none).
    """

    def __init__(self, hf: Any, family: Family, processor: Any, clip: Path) -> None:
        self.hf, self.tokenizer = hf, processor.tokenizer
        has_audio = "audio" in family.media_tokens(hf)
        kinds = ("clip", "sound", "picture", "words") if has_audio else ("picture",)
        # One pixel more or less, and these would not fit: all clips have this one's shape.
        self.prompts = {
            (media, question): _embedded(hf, family, processor, media, question, clip)
            for media in kinds
            for question in QUESTIONS
        }

    def logits(
        self,
        kind: tuple[str, str],
        video: Features | None,
        audio: Features | None,
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

    def answer_tokens(self, answers: Sequence[str]) -> Int[Tensor, "batch n"]:
        """Tokens of answers and the end of the turn, padded with -100."""
        rows = [[*self.tokenizer.encode(text), self.tokenizer.eos_token_id] for text in answers]
        width = max(len(row) for row in rows)
        padded = torch.tensor([row + [-100] * (width - len(row)) for row in rows])
        return padded.to(self.hf.get_input_embeddings().weight.device)


def answer_loss(
    logits: Float[Tensor, "batch pos d_vocab"], answers: Int[Tensor, "batch n"]
) -> Float[Tensor, ""]:
    """Mean cross-entropy of the answers' tokens, in nats."""
    own = logits[:, -answers.shape[1] :]
    return torch.nn.functional.cross_entropy(own.flatten(0, 1), answers.flatten())


def video_features(hf: Any, clips: ClipTensors, rows: Tensor, processor: Any) -> Features:
    """The vision tower's output for some clips."""
    device = hf.get_input_embeddings().weight.device
    side = int((clips.patches.shape[1] // 2) ** 0.5)
    grid = torch.tensor([[2, side, side]]).expand(len(rows), -1)
    out = hf.get_video_features(clips.pixels(rows, processor).to(device), grid.to(device))
    return torch.stack(list(out.pooler_output))


def audio_features(hf: Any, clips: ClipTensors, rows: Tensor) -> Features:
    """The audio tower's output for some clips."""
    mel = clips.mel[rows].to(hf.get_input_embeddings().weight.device)
    whole = torch.ones(mel.shape[0], mel.shape[2], dtype=torch.long, device=mel.device)
    out = hf.get_audio_features(mel, feature_attention_mask=whole).last_hidden_state
    return out.unflatten(0, (len(rows), -1))


def _embedded(
    hf: Any, family: Family, processor: Any, media: str, question: str, clip: Path
) -> EmbeddedPrompt:
    prompt = Prompt(
        QUESTIONS[question],
        video=clip if media in ("clip", "picture") else None,
        audio=clip if media == "sound" else None,
        use_audio_in_video=media == "clip",
    )
    seen = [read_video(clip, MEDIA)] if prompt.video else []
    heard = [read_audio(clip, MEDIA)] if media in ("clip", "sound") else []
    inputs = family.prepare(processor, prompt, (*seen, *heard))
    return embedded(hf, family, processor.tokenizer, inputs, {})
