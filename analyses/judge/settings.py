"""What can a language model that judges be set to?"""

from dataclasses import dataclass

from analyses.judge.judgement import JudgeError


@dataclass(frozen=True)
class Settings:
    """Settings of every request. The defaults are the paper's for Qwen3-32B; None is not sent.

    Attributes:
        temperature, top_p, top_k, presence_penalty, max_tokens: Of the reply, thinking included.
        connections: Requests at a time.
        replies: Requests in one run until a reply can be read.
        retries: inspect-ai's retries of a failed request, with waits of 3, 6, 12, ... s.
        timeout: Seconds for one request.
        context: Tokens that the model can read and write at once, where the server does not say;
            where it does, the smaller number holds. None: not known.
        cache: How long inspect-ai keeps replies, as it writes it ("4W").
        structured: Whether to request a JSON schema; not from a server that refuses it.
        seed: Of the server's sampling.
    """

    temperature: float | None = 0.7
    top_p: float | None = 0.8
    top_k: int | None = 20
    presence_penalty: float | None = 1.5
    max_tokens: int | None = 8192
    connections: int = 16
    replies: int = 3
    retries: int = 5
    timeout: float = 600.0
    context: int | None = None
    cache: str = "4W"
    structured: bool = True
    seed: int | None = None

    def __post_init__(self) -> None:
        for name in ("connections", "replies", "timeout", "context"):
            if (value := getattr(self, name)) is not None and not value > 0:
                raise JudgeError(f"expected {name} > 0, got {value}.")
