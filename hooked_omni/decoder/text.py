"""Text as tokens, tokens as text, and the loss of predicting it, as TransformerLens names them."""

from typing import Any, overload

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from transformer_lens.utilities.lm_utils import lm_cross_entropy_loss

from hooked_omni.decoder.config import DecoderConfig
from hooked_omni.errors import PromptError
from hooked_omni.inputs.prompt import EmbeddedPrompt
from hooked_omni.inputs.spans import NoSpans, Spans

Tokens = Int[Tensor, "*batch pos"]


class TextTokens(nn.Module):
    """What a decoder with a tokenizer knows about text."""

    cfg: DecoderConfig
    tokenizer: Any
    embed: nn.Embedding

    @overload
    def to_tokens(
        self, input: str | list[str] | Tokens, prepend_bos: bool = False
    ) -> Int[Tensor, "batch pos"]: ...
    @overload
    def to_tokens(self, input: EmbeddedPrompt, prepend_bos: bool = False) -> EmbeddedPrompt: ...
    def to_tokens(
        self, input: str | list[str] | Tokens | EmbeddedPrompt, prepend_bos: bool = False
    ) -> Int[Tensor, "batch pos"] | EmbeddedPrompt:
        """Tokens of plain text of equal lengths; these models have no token to prepend.

        Tokens and prompts come back as they are, so that TransformerLens's helpers run on them.

        Raises:
            PromptError: Without a tokenizer, with `prepend_bos`, for unequal lengths, and for words
                that become the unknown token.
        """
        if prepend_bos:
            raise PromptError("expected prepend_bos=False, got True: these models have no BOS.")
        if isinstance(input, Tensor | EmbeddedPrompt):
            return input
        texts = [input] if isinstance(input, str) else input
        if not all(isinstance(text, str) for text in texts):
            raise PromptError(
                f"expected texts, got a list of {[type(text).__name__ for text in texts]}. Run "
                "prompts one at a time; spans are of one prompt."
            )
        rows = [self._known(text) for text in texts]
        lengths = [len(row) for row in rows]
        if len(set(lengths)) != 1 or not lengths[0]:
            raise PromptError(
                f"expected texts of one length, got {lengths} tokens. Run each alone."
            )
        return torch.tensor(rows, device=self.cfg.device)

    def to_str_tokens(
        self, input: str | list[str] | Tokens | EmbeddedPrompt, prepend_bos: bool = False
    ) -> list[Any]:
        """Every token as a string, of each text of a list; `PromptError` for a batch of tokens."""
        if isinstance(input, list):
            return [self.to_str_tokens(text, prepend_bos) for text in input]
        tokens = self.to_tokens(input, prepend_bos)
        row = tokens.tokens if isinstance(tokens, EmbeddedPrompt) else tokens
        if row.ndim > 1 and len(row) > 1:
            raise PromptError(f"expected one row of tokens, got {len(row)}. Call it for each.")
        return [self._tokenizer().decode([token]) for token in row.flatten().tolist()]

    def to_string(self, tokens: Tokens | list[int] | EmbeddedPrompt) -> str | list[str]:
        """The text of a row of tokens; of a batch, a list of texts."""
        if isinstance(tokens, EmbeddedPrompt):
            tokens = tokens.tokens
        rows = tokens.tolist() if isinstance(tokens, Tensor) else tokens
        if rows and isinstance(rows, list) and isinstance(rows[0], list):
            return [self._tokenizer().decode(row) for row in rows]
        return self._tokenizer().decode(rows)

    def to_single_token(self, text: str) -> int:
        """The one token of `text`; `PromptError` if it is several, or an unknown one."""
        tokens = self._known(text)
        if len(tokens) != 1:
            raise PromptError(f"expected one token, got {len(tokens)} for {text!r}. Split it.")
        return tokens[0]

    def text_prompt(self, input: Any) -> EmbeddedPrompt:
        """Tokens of plain text, `[batch, pos]`, embedded; a `PromptError` for anything else."""
        prompt = self.embedded_tokens(input)
        held = torch.isin(prompt.tokens, prompt.tokens.new_tensor(self.cfg.media_tokens))
        if bool(held.any()):
            raise PromptError(
                f"expected tokens of plain text, got {int(held.sum())} that stand for a clip: "
                "their own embeddings are not what the towers put there. Pass the EmbeddedPrompt."
            )
        return prompt

    def embedded_tokens(self, input: Any) -> EmbeddedPrompt:
        """As `text_prompt`, for any tokens: a model may have written a placeholder itself."""
        if not isinstance(input, Tensor):
            raise PromptError(
                f"expected an EmbeddedPrompt, tokens or text, got {type(input).__name__}. Call "
                "`omni.embed(prompt)` first, or `omni.generate(prompt)`."
            )
        if input.ndim != 2 or input.dtype not in (torch.int32, torch.int64) or not input.numel():
            raise PromptError(
                f"expected an EmbeddedPrompt or tokens [batch, pos], got {input.dtype} of shape "
                f"{tuple(input.shape)}. Use `embed_inputs` for model inputs."
            )
        tokens = input.to(self.cfg.device)
        if int(tokens.min()) < 0 or int(tokens.max()) >= self.cfg.d_vocab:
            raise PromptError(
                f"expected tokens from 0 to {self.cfg.d_vocab - 1}, got {int(tokens.min())} to "
                f"{int(tokens.max())}. They belong to another vocabulary."
            )
        embeds = self.embed(tokens)
        batch, n_pos = tokens.shape
        every = torch.arange(n_pos)
        spans = {"question": every, "text": every, "prompt": every, "last": every[-1:]}
        return EmbeddedPrompt(
            embeds=embeds.detach() if self.cfg.quantized else embeds,
            position_ids=torch.arange(n_pos, device=tokens.device).expand(3, batch, -1),
            mask=None,
            tokens=tokens,
            spans=Spans(spans, n_pos) if batch == 1 else NoSpans({}, n_pos),
            facts={"text_only": True},
        )

    def loss_fn(
        self,
        logits: Float[Tensor, "batch pos d_vocab"],
        tokens: Int[Tensor, "batch pos"] | EmbeddedPrompt,
        per_token: bool = False,
    ) -> Float[Tensor, "*batch_pos"]:
        """Cross entropy of every next token, in nats: the mean, or `[batch, pos - 1]`.

        With a prompt, the mean is over next tokens that are text; audio, video and padding are NaN.

        Raises:
            PromptError: If no next token is text, and for a batch of prompts with clips.
        """
        if not isinstance(tokens, EmbeddedPrompt):
            return lm_cross_entropy_loss(logits, tokens.to(logits.device), None, per_token)
        losses = lm_cross_entropy_loss(logits, tokens.tokens.to(logits.device), None, True)
        text = _is_text(tokens).to(logits.device)[:, 1:]
        if not bool(text.any()):
            raise PromptError(
                f"expected a next token that is text, got none in {tokens.n_pos}. Add words."
            )
        return losses.masked_fill(~text, torch.nan) if per_token else losses[text].mean()

    def _known(self, text: str) -> list[int]:
        """Tokens of a text, none of them unknown but where it says so."""
        tokens = self._tokenizer().encode(text)
        unknown, written = (getattr(self.tokenizer, f"unk_token{end}", None) for end in ("_id", ""))
        if unknown in tokens and str(written) not in text:
            raise PromptError(
                f"expected words of this vocabulary, got {text!r}, of which some become the "
                f"unknown token {written!r}. Choose others."
            )
        return tokens

    def _tokenizer(self) -> Any:
        if self.tokenizer is None:
            raise PromptError("expected a model with a tokenizer, got none. Pass a `processor`.")
        return self.tokenizer


def _is_text(prompt: EmbeddedPrompt) -> Tensor:
    real = torch.ones_like(prompt.tokens, dtype=torch.bool)
    if prompt.mask is not None:
        real = prompt.mask != 0
        real[:, 1:] &= real[:, :-1].clone()  # nothing predicts the first real token
    if prompt.facts.get("text_only"):
        return real
    if isinstance(prompt.spans, NoSpans):
        raise PromptError(
            f"expected one prompt, got a batch of {len(prompt.tokens)}, whose spans of text are "
            "not known. Compute the losses one at a time."
        )
    text = torch.zeros_like(real)
    text[:, prompt.spans["text"].to(text.device)] = True
    return real & text
