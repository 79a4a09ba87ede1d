"""How fast does a served judge go, and does its memory stay flat?

    python -m benchmarks.judge [--n 10000] [--connections 64] [--seconds 0.05]

A server in a process of its own answers each request after a fixed time. Its own rate is
connections / seconds: what a client without any cost would get. Printed as a Markdown row: that
rate, ours, their ratio, CPU time for one judgement, and how far memory grew from a tenth of the
judgements on to the end.
"""

import argparse
import asyncio
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from analyses.judge.judgement import Item
from analyses.judge.lookup import load_judge
from analyses.judge.record import judge_items

_MODEL = "judge-32b"


def main() -> None:
    """Measure, and print a row."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--n", type=int, default=10_000)
    parser.add_argument("--connections", type=int, default=64)
    parser.add_argument("--seconds", type=float, default=0.05)
    parser.add_argument("--serve", action="store_true", help="be the server")
    asked = parser.parse_args()
    if asked.serve:
        asyncio.run(_serve(asked.seconds))
        return
    command = [sys.executable, "-m", "benchmarks.judge", "--serve", "--seconds", str(asked.seconds)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as server:
        assert server.stdout is not None
        try:
            measure(asked.n, asked.connections, asked.seconds, server.stdout.readline().strip())
        finally:
            server.terminate()


def measure(n: int, connections: int, seconds: float, url: str) -> None:
    """Judge `n` captions, and print the row."""
    items = [
        Item(f"s{i}", "factual", "hear", "", "audio", f"A dog barks {i} times.", ("A dog barks",))
        for i in range(n)
    ]
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
