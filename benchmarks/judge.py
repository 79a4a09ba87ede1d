"""How fast does a served judge go, and does its memory stay flat?

    python -m benchmarks.judge [--n 10000] [--connections 64] [--seconds 0.05] [--layers]

A server in a process of its own answers each request after a fixed time. Its own rate is
connections / seconds: what a client without any cost would get. Printed as a Markdown row: that
rate, ours, their ratio, CPU time for one judgement, and how far memory grew from a tenth of the
judgements on to the end. `--layers` prints in its place what each layer costs below a judgement:
HTTP requests alone, the OpenAI client on top of them, inspect-ai on top of both, without
and with its cache, alternately in one process.
"""

import argparse
import asyncio
import itertools
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import openai
from inspect_ai.model import CachePolicy

from analyses.judge.connection import open_model
from analyses.judge.judgement import Item, Settings
from analyses.judge.lookup import load_judge
from analyses.judge.messages import chat_messages
from analyses.judge.record import judge_items

_MODEL = "judge-32b"


def main() -> None:
    """Measure, and print a row."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--n", type=int, default=10_000)
    parser.add_argument("--connections", type=int, default=64)
    parser.add_argument("--seconds", type=float, default=0.05)
    parser.add_argument("--layers", action="store_true", help="what each layer costs")
    parser.add_argument("--serve", action="store_true", help="be the server")
    given = parser.parse_args()
    if given.serve:
        asyncio.run(_serve(given.seconds))
        return
    command = [sys.executable, "-m", "benchmarks.judge", "--serve", "--seconds", str(given.seconds)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as server:
        assert server.stdout is not None
        try:
            url = server.stdout.readline().strip()
            if given.layers:
                layers(given.n, given.connections, url)
            else:
                measure(given.n, given.connections, given.seconds, url)
        finally:
            server.terminate()


def measure(n: int, connections: int, seconds: float, url: str) -> None:
    """Judge `n` captions, and print the row."""
    items = _items(n)
    memory: list[int] = []

    def progress(_: str, done: int, of: int) -> None:
        if done in (of // 10, of):
            memory.append(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)

    with tempfile.TemporaryDirectory() as folder:
        os.environ["INSPECT_CACHE_DIR"] = f"{folder}/cache"
        judge = load_judge(_MODEL, url, Path(folder) / "logs", connections=connections)
        judge_items(items[:connections], judge, Path(folder) / "warm.jsonl")
        os.environ["INSPECT_CACHE_DIR"] = f"{folder}/cold"
        start, cpu = time.perf_counter(), time.process_time()
        table = judge_items(items, judge, Path(folder) / "judged.jsonl", progress)
        wall, cpu = time.perf_counter() - start, time.process_time() - cpu
    assert set(table["status"]) == {"judged"}
    own, ours = connections / seconds, n / wall
    grown = (memory[-1] - memory[0]) / 1024
    print("| judgements | at a time | server answers in | its rate | ours | ratio | CPU | memory |")
    print("|---|---|---|---|---|---|---|---|")
    print(
        f"| {n} | {connections} | {seconds * 1000:.0f} ms | {own:.0f}/s | {ours:.0f}/s | "
        f"{ours / own:.0%} | {cpu / n * 1000:.1f} ms | +{grown:.0f} MiB |"
    )


def layers(n: int, connections: int, url: str) -> None:
    """CPU time of one request through each layer: medians of seven rounds; print a table."""
    item, settings = _items(1)[0], Settings(connections=connections)
    words = chat_messages(item)
    body = {
        "model": _MODEL,
        "messages": [{"role": one.role, "content": one.text} for one in words],
        **{name: getattr(settings, name) for name in ("temperature", "top_p", "max_tokens")},
    }
    spent: dict[str, list[float]] = {}

    async def one_round() -> None:
        plain, where = openai.DefaultAsyncHttpxClient(), f"{url}/chat/completions"
        client = openai.AsyncOpenAI(base_url=url, api_key="none")
        model = open_model(_MODEL, url, settings)

        def cached() -> CachePolicy:
            return CachePolicy(expiry="4W", per_epoch=False, scopes={"n": str(next(numbers))})

        asks: dict[str, Callable[[], Awaitable[Any]]] = {
            "HTTP, as the OpenAI client sends it": lambda: plain.post(where, json=body),
            "OpenAI's client": lambda: client.chat.completions.create(**body),
            "inspect-ai": lambda: model.generate(words),
            "inspect-ai, with its cache": lambda: model.generate(words, cache=cached()),
        }
        for name, ask in asks.items():
            left = iter(range(n))

            async def work(ask: Any = ask, left: Any = left) -> None:
                for _ in left:
                    await asyncio.create_task(ask())  # inspect-ai keeps replies in the context

            start = time.process_time()
            await asyncio.gather(*(work() for _ in range(connections)))
            spent.setdefault(name, []).append((time.process_time() - start) / n)
        for one in (plain.aclose, client.close, model.api.aclose):
            await one()  # before its loop ends

    with tempfile.TemporaryDirectory() as folder:
        os.environ["INSPECT_CACHE_DIR"], numbers = folder, itertools.count()
        for _ in range(8):  # the first warms up
            asyncio.run(one_round())
        start = time.process_time()
        judge = load_judge(_MODEL, url, Path(folder) / "logs", connections=connections)
        judge_items(_items(n), judge, Path(folder) / "judged.jsonl")
        spent["a judgement: reading, journal, logs"] = [0, (time.process_time() - start) / n]
    print("| CPU for one request | ms |\n|---|---|")
    for name, each in spent.items():
        print(f"| {name} | {statistics.median(each[1:]) * 1000:.2f} |")


def _items(n: int) -> list[Item]:
    text = "A dog barks {} times.".format
    return [
        Item(f"s{i}", "factual", "hear", "", "audio", text(i), ("A dog barks",)) for i in range(n)
    ]


async def _serve(seconds: float) -> None:
    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                fields = dict(line.lower().split(b":", 1) for line in head.split(b"\r\n")[1:-2])
                await reader.readexactly(int(fields.get(b"content-length", b"0")))
                listed = head.startswith(b"GET")
                await asyncio.sleep(0 if listed else seconds)
                body = json.dumps({"data": [{"id": _MODEL}]} if listed else _completion()).encode()
                kind = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n"
                writer.write(kind + b"Content-Length: %d\r\n\r\n" % len(body) + body)
                await writer.drain()
        except (asyncio.IncompleteReadError, ConnectionError):
            writer.close()

    server = await asyncio.start_server(talk, "127.0.0.1", 0)
    print(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/v1", flush=True)
    await server.serve_forever()


def _completion() -> dict[str, object]:
    said = json.dumps({"reason": "Barking is there.", "score": 0.5})
    choice = {"index": 0, "message": {"role": "assistant", "content": said}}
    return {
        "id": "c",
        "object": "chat.completion",
        "created": 1,
        "model": _MODEL,
        "choices": [{**choice, "finish_reason": "stop"}],
        "usage": {"prompt_tokens": 1, "completion_tokens": 1, "total_tokens": 2},
    }


if __name__ == "__main__":
    main()
