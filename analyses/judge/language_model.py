"""How does a language model judge?

Any model that inspect-ai can run: on an OpenAI-compatible server, in this process, or hosted. Its
caching, retries and limit of connections do the work. Here is what it cannot know: a reply that is
no judgement is requested again and then missing, and a judge that has gone down pauses the run.
"""

import asyncio
import math
from bisect import bisect
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, get_args

from inspect_ai.model import CachePolicy, GenerateConfig, Model, ModelOutput, ResponseSchema
from inspect_ai.util import JSONSchema

from analyses.judge import connection
from analyses.judge.judgement import Item, JudgeDownError, JudgeError, Judgement, OnJudgement, What
from analyses.judge.logs import Logs
from analyses.judge.messages import chat_messages, judge_prompt, n_tokens
from analyses.judge.reply import UnreadableError, read_reply, schema
from hooked_omni.redaction import keep_secret, redacted

_FEWEST_FAILURES = 5  # in a row, before a judge counts as down
_ROOM, _REPLY = 1024, 8192  # tokens: the least for a text, and for a reply without max_tokens


class LanguageModelJudge:
    """A language model that judges, by its name in inspect-ai or on a server."""

    def __init__(
        self, name: str, url: str | None, settings: connection.Settings, logs: Path | None = None
    ) -> None:
        self.name, self.url, self.settings, self._logs = name, url, settings, logs
        keep_secret(url)
        self._schema = settings.structured
        self._failures = self._answers = 0
        self._last_error = ""
        self._most = math.inf  # tokens of a request, where it is known

    @property
    def facts(self) -> dict[str, Any]:
        """What decides the scores; address and key do not."""
        decisive = asdict(self.settings)
        for name in ("connections", "replies", "retries", "timeout", "cache", "context"):
            del decisive[name]
        return {"model": self.name, **decisive}

    def require(self) -> None:
        served = connection.require_server(self.url, self.name) if self.url is not None else None
        context = min(filter(None, (served, self.settings.context)), default=math.inf)
        reply = self.settings.max_tokens or _REPLY
        fixed = reply + max(n_tokens(Item("", "", "", "", what, "")) for what in get_args(What))
        if context < fixed + _ROOM:
            raise JudgeError(
                f"expected a context of {fixed + _ROOM} tokens for {self.name} (instructions "
                f"{fixed - reply}, a text with its references {_ROOM}, the reply {reply}), got "
                f"{context}. Start it with a larger one (vLLM: --max-model-len), or set max_tokens."
            )
        self._most = context - reply

    def fitted(self, item: Item) -> Item:
        if n_tokens(item) <= self._most:
            return item
        tokens = (item.text or "").split("\n")

        def first(n: int) -> Item:
            return replace(item, text="\n".join(tokens[:n]))

        most = bisect(range(1, len(tokens)), self._most, key=lambda n: n_tokens(first(n)))
        return first(most) if most else item  # its references alone are too long

    def key(self, item: Item) -> Sequence[Any]:
        return self.facts, item.what, judge_prompt(item.what).digest, item.text, item.references

    def prompt_version(self, what: What) -> str:
        return judge_prompt(what).version

    def judge_all(self, items: Iterable[tuple[Item, int]], on_judgement: OnJudgement) -> None:
        """Judge items, `settings.connections` at a time, until it goes down."""
        self.require()
        try:
            asyncio.run(self._judge_all(iter(items), on_judgement))
        except BaseExceptionGroup as group:
            raise _first(group) from None

    async def _judge_all(
        self, items: Iterator[tuple[Item, int]], on_judgement: OnJudgement
    ) -> None:
        model = connection.open_model(self.name, self.url, self.settings)
        self._failures = self._answers = 0
        logs = Logs(self._logs, model)

        def keep(item: Item, judgement: Judgement, output: ModelOutput | None) -> None:
            # Waits for the disk; inside a running loop, inspect-ai's logs would stay in memory.
            on_judgement(item, judgement)
            logs.add(item, judgement, output)

        async def work() -> None:
            for item, before in items:
                # A task of its own: inspect-ai keeps replies in the task's context.
                done = await asyncio.create_task(self._judge(model, item, before))
                await asyncio.to_thread(keep, item, *done)

        try:
            async with model, asyncio.TaskGroup() as group:
                for _ in range(self.settings.connections):
                    group.create_task(work())
        finally:
            logs.close()
        if self._failures and not self._answers:
            raise self._down(self._last_error)

    async def _judge(
        self, model: Model, item: Item, before: int
    ) -> tuple[Judgement, ModelOutput | None]:
        complaint, output = "", None
        if (n := n_tokens(item)) > self._most:
            return _too_long(f"about {n} tokens, of which it reads {self._most}", before), None
        for attempt in range(before, before + self.settings.replies):
            try:
                output = await self._reply(model, item, complaint, attempt)
            except Exception as error:
                if isinstance(connection.root_cause(error), connection.MALFORMED):
                    complaint = "it was no chat completion"
                    continue
                if connection.is_too_long(error):
                    return _too_long(connection.error_text(error), attempt + 1), None
                reason = self._failed(error)
                return Judgement(reason=reason, missing=True, tries=attempt + 1), None
            if output.stop_reason == "model_length":  # inspect-ai's for such an error
                return _too_long(redacted(output.completion)[:200], attempt + 1), None
            self._failures, self._answers = 0, self._answers + 1
            try:
                read = await asyncio.to_thread(read_reply, output.completion, item)
                return Judgement(read.score, read.reason, read.words, tries=attempt + 1), output
            except UnreadableError as error:
                complaint = str(error)
        reason = f"no readable reply in {self.settings.replies}: {complaint}"
        return Judgement(reason=reason, missing=True, tries=before + self.settings.replies), output

    async def _reply(self, model: Model, item: Item, complaint: str, attempt: int) -> ModelOutput:
        messages = chat_messages(item, complaint)
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
                if connection.http_status(error) not in connection.REFUSED:
                    raise
        output = await model.generate(messages, cache=cache)
        self._schema = False  # refused with a schema, answered without
        return output

    def _failed(self, error: Exception) -> str:
        """Why there is no reply; or the end of the run."""
        error, code = connection.root_cause(error), connection.http_status(error)
        why = connection.error_text(error)
        if code in connection.NO_ACCESS:
            reads = f"the variable that {self.name.split('/')[0]} reads"
            raise JudgeError(
                f"expected a key that {self.name} accepts, got {code}: {why}. Put a valid one into "
                f"{reads if self.url is None else connection.KEY_VARIABLE}, and give the same "
                "command again: what is judged is kept."
            ) from error
        if code == 404:
            raise JudgeError(f"expected a model {self.name!r}, got 404: {why}. Check its name.")
        if code in connection.REFUSED and not self._answers:
            raise JudgeError(
                f"expected a request that {self.name} accepts, got {code}: {why}. Set what it "
                "does not take to None, such as presence_penalty or top_k."
            ) from error
        self._failures, self._last_error = self._failures + 1, why
        if self._failures >= max(self.settings.connections, _FEWEST_FAILURES):
            raise self._down(why)
        return f"no answer: {why}"

    def _down(self, why: str) -> JudgeDownError:
        return JudgeDownError(
            f"expected answers from {self.name}, got {self._failures} failures in a row, the last "
            f"of them: {why}. Start it again, and give the same command again: what is judged is "
            "kept."
        )


def _too_long(why: str, tries: int) -> Judgement:
    return Judgement(reason=f"too long for the judge: {why}", missing=True, tries=tries)


def _first(group: BaseExceptionGroup) -> BaseException:
    """One task's error: the others' are of the same cause, or of its end."""
    first = group.exceptions[0]
    return _first(first) if isinstance(first, BaseExceptionGroup) else first
