"""How is a language model asked to judge?

Any model that inspect-ai can ask: behind an OpenAI-compatible server, in this process, or hosted.
Its caching, retries and limit of connections do the work, and its log viewer shows every reply.
Here is what it cannot know: what is a judgement (`reply.py`), that a reply which is none is asked
for again and then missing, and that a judge which has gone down pauses the run.
"""

import asyncio
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from inspect_ai.model import (
    CachePolicy,
    ChatMessage,
    ChatMessageSystem,
    ChatMessageUser,
    GenerateConfig,
    Model,
    ModelOutput,
    ResponseSchema,
)
from inspect_ai.util import JSONSchema

from analyses.judge.connection import (
    KEY_VARIABLE,
    NO_ACCESS,
    REFUSED,
    Settings,
    cause,
    is_strange,
    opened,
    require_server,
    said,
    status,
)
from analyses.judge.judgement import Answered, Item, JudgeDownError, JudgeError, Judgement, What
from analyses.judge.logs import Logs
from analyses.judge.prompts import instruction, question
from analyses.judge.reply import UnreadableError, read_reply, schema

__all__ = ["Served"]

_FEWEST_FAILURES = 5  # in a row, before a judge counts as down


class Served:
    """A language model that judges.

    ```python
    Served("Qwen/Qwen3-32B", "http://localhost:8000/v1", Settings())
    Served("hf/Qwen/Qwen3-4B", None, Settings(connections=1))
    ```

    Attributes:
        name: Of the model, as inspect-ai or the server has it.
        settings: How it is asked.
    """

    def __init__(
        self,
        name: str,
        url: str | None,
        settings: Settings,
        logs: Path | None = None,
    ) -> None:
        self.name, self.url, self.settings = name, url, settings
        self._logs = logs
        self._schema = settings.structured
        self._failures = 0
        self._answers = 0
        self._said = ""

    @property
    def facts(self) -> dict[str, Any]:
        """What decides the scores; address and key do not."""
        decisive = asdict(self.settings)
        for name in ("connections", "replies", "retries", "timeout", "cache"):
            del decisive[name]
        return {"model": self.name, **decisive}

    def require(self) -> None:
        """Ask the server whether it is there, takes the key, and has the model.

        Raises:
            JudgeDownError, JudgeError: If not.
        """
        if self.url is not None:
            require_server(self.url, self.name)

    def key(self, item: Item) -> Sequence[Any]:
        """Judge, prompt, and what the judge is shown."""
        return self.facts, item.what, instruction(item.what).digest, item.text, item.references

    def prompt_version(self, what: What) -> str:
        """Version of the prompt of this point."""
        return instruction(what).version

    def ask(self, asked: Iterable[tuple[Item, int]], answered: Answered) -> None:
        """Judge items, `settings.connections` at a time.

        Raises:
            JudgeDownError: If the server is not there, or stops answering.
            JudgeError: For a key that is not accepted, or a model that is not there.
        """
        self.require()
        try:
            asyncio.run(self._ask_all(iter(asked), answered))
        except BaseExceptionGroup as group:
            raise _first(group) from None

    async def _ask_all(self, asked: Iterator[tuple[Item, int]], answered: Answered) -> None:
        model = opened(self.name, self.url, self.settings)
        self._failures = self._answers = 0
        logs = Logs(self._logs, model)

        def keep(item: Item, judgement: Judgement, output: ModelOutput | None) -> None:
            # Waits for the disk; and inspect-ai's logs, written inside a running loop, stay in
            # memory.
            answered(item, judgement)
            logs.add(item, judgement, output)

        async def work() -> None:
            for item, before in asked:
                # A task of its own: inspect-ai keeps what was said in the task's context.
                judged = asyncio.create_task(self._judge(model, item, before))
                judgement, output = await judged
                await asyncio.to_thread(keep, item, judgement, output)

        try:
            async with model, asyncio.TaskGroup() as group:
                for _ in range(self.settings.connections):
                    group.create_task(work())
        finally:
            logs.close()
        if self._failures and not self._answers:
            raise self._down(self._said)

    async def _judge(
        self, model: Model, item: Item, before: int
    ) -> tuple[Judgement, ModelOutput | None]:
        complaint, output = "", None
        for attempt in range(before, before + self.settings.replies):
            try:
                output = await self._reply(model, _messages(item, complaint), item, attempt)
            except Exception as error:
                if is_strange(error):
                    complaint = "it was no chat completion"
                    continue
                reason = self._failed(error)
                return Judgement(reason=reason, missing=True, tries=attempt + 1), None
            self._failures, self._answers = 0, self._answers + 1
            try:
                read = read_reply(output.completion, item)
                return Judgement(read.score, read.reason, read.words, tries=attempt + 1), output
            except UnreadableError as error:
                complaint = str(error)
        reason = f"no readable reply in {self.settings.replies}: {complaint}"
        return Judgement(reason=reason, missing=True, tries=before + self.settings.replies), output

    async def _reply(
        self, model: Model, messages: list[ChatMessage], item: Item, attempt: int
    ) -> ModelOutput:
        # A reply that could not be read is in the cache too: another attempt is another entry.
        cache = CachePolicy(
            expiry=self.settings.cache, per_epoch=False, scopes={"attempt": str(attempt)}
        )
        if self._schema:
            form = ResponseSchema(name="judgement", json_schema=JSONSchema(**schema(item.what)))
            try:
                config = GenerateConfig(response_schema=form)
                return await model.generate(messages, config=config, cache=cache)
            except Exception as error:
                if status(error) not in REFUSED:
                    raise
        output = await model.generate(messages, cache=cache)
        self._schema = False  # refused with a schema, answered without
        return output

    def _failed(self, error: Exception) -> str:
        """Why there is no reply; or the end of the run."""
        error, code = cause(error), status(error)
        why = said(error)
        if code in NO_ACCESS:
            raise JudgeError(
                f"expected a key that {self.name} accepts, got {code}: {why}. Put a valid one "
                f"into {_key_variable(self.name, self.url)}, and give the same command again: what "
                "is judged is kept."
            ) from error
        if code == 404:
            raise JudgeError(f"expected a model {self.name!r}, got 404: {why}. Check its name.")
        if code in REFUSED and not self._answers:
            raise JudgeError(
                f"expected a request that {self.name} accepts, got {code}: {why}. Set what it "
                "does not take to None, such as presence_penalty or top_k."
            ) from error
        self._failures, self._said = self._failures + 1, why
        if self._failures >= max(self.settings.connections, _FEWEST_FAILURES):
            raise self._down(why)
        return f"no answer: {why}"

    def _down(self, why: str) -> JudgeDownError:
        return JudgeDownError(
            f"expected answers from {self.name}, got {self._failures} failures in a row, the last "
            f"of them: {why}. Start it again, and give the same command again: what is judged is "
            "kept, and the run goes on behind it."
        )


def _messages(item: Item, complaint: str) -> list[ChatMessage]:
    return [
        ChatMessageSystem(content=instruction(item.what).text),
        ChatMessageUser(content=question(item, complaint)),
    ]


def _key_variable(name: str, url: str | None) -> str:
    return KEY_VARIABLE if url is not None else f"the variable that {name.split('/')[0]} reads"


def _first(group: BaseExceptionGroup) -> BaseException:
    """One task's error: the others' are of the same cause, or of its end."""
    first = group.exceptions[0]
    return _first(first) if isinstance(first, BaseExceptionGroup) else first
