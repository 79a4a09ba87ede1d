"""A judge that speaks OpenAI's chat completions over real HTTP, with faults on demand.

It reads what it is sent as a judge would: the data between the markers. Its score for a caption is
planted in the caption ("caption 7" is worth 0.7), so that a score from anywhere else is noticed.
"""

import json
import re
import socket
import threading
import time
from collections import Counter, defaultdict
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from analyses.judge.judgement import Item

MARKER = "=" * 20
MODEL = "judge-32b"

# Readable as they are.
WELL = {
    "prose": "Let me see. {json} I hope that helps!",
    "code": "```json\n{json}\n```",
    "thinking": '<think>It says {{"score": 0.99}} but no.</think>\n\n{json}',
    "late thinking": "Hm, a dog.</think>{json}",
    "foreign": '{{"reason": "Hund bellt; 雨声 fehlt.", "score": {score}}}',
    "twice": "{json}\nOnce more: {json}",
}
# No judgement: requested again.
ILL = {
    "empty": "",
    "half json": '{{"reason": "The dog barks and",',
    "no json": "I would give it {score}.",
    "of one": '{{"reason": "fine", "score": "{score}/1"}}',
    "seven": '{{"reason": "fine", "score": 7}}',
    "negative": '{{"reason": "fine", "score": -0.5}}',
    "nan": '{{"reason": "fine", "score": NaN}}',
    "true": '{{"reason": "fine", "score": true}}',
    "null score": '{{"reason": "fine", "score": null}}',
    "no reason": '{{"reason": " ", "score": 0.99}}',
    "endless thinking": '<think>{{"reason": "not yet", "score": 0.99}} or rather',
    "two scores": '{json} or {{"reason": "no", "score": 0.99}}',
    "a key twice": '{{"reason": "a", "score": 0.98, "score": 0.99}}',
}
# Failures below the reply: the client library or inspect-ai tries again.
FAILS = ("429", "500", "503", "hang", "cut", "short")
# A whole HTTP answer that is no chat completion.
STRANGE = ("half body", "page", "null")


def planted(caption: str) -> float:
    found = re.search(r"caption (\d+)", caption)
    return int(found[1]) % 11 / 10 if found else 0.5


def captions(n: int) -> list[Item]:
    known: Any = dict(kind="factual", question="hear", condition="", what="audio")
    known["references"] = ("A dog barks",)
    return [Item(sample=f"s{i}", text=f"caption {i}", **known) for i in range(n)]


class JudgeServer:
    """Faults by caption: each is used up once; with "!" in front it stays."""

    def __init__(self) -> None:
        self.faults: dict[str, list[str]] = defaultdict(list)
        self.always: list[str] = []
        self.seen: Counter[str] = Counter()
        self.bodies: list[dict[str, Any]] = []
        self.models = [MODEL]
        self.key: str | None = None
        self.refuses: set[str] = set()
        self.context: int | None = None  # tokens, of three bytes each
        self.says_context = True
        self.too_long: tuple[int, str] = 400, "This model's maximum context length is exceeded"
        self.recalls = False  # the share of the references of which a word of five letters is there
        self.slow = 0.0
        self.answers: int | None = None  # so many, and it keeps all other requests waiting
        self.released = threading.Event()
        self.busy = self.most_busy = 0
        self.lock = threading.Lock()
        here = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                here.list_models(self)

            def do_POST(self) -> None:
                with here.lock:
                    here.busy += 1
                    here.most_busy = max(here.busy, here.most_busy)
                try:
                    here.answer(self)
                finally:
                    with here.lock:
                        here.busy -= 1

            def log_message(self, format: str, *args: Any) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self.server.server_port}/v1"
        threading.Thread(target=self.server.serve_forever, args=(0.02,), daemon=True).start()

    def stop(self) -> None:
        self.released.set()
        self.server.shutdown()
        self.server.server_close()

    def list_models(self, handler: BaseHTTPRequestHandler) -> None:
        if self._no_entry(handler):
            return
        more = {"max_model_len": self.context} if self.context and self.says_context else {}
        listed = {"object": "list", "data": [{"id": name, **more} for name in self.models]}
        send(handler, 200, json.dumps(listed))

    def answer(self, handler: BaseHTTPRequestHandler) -> None:
        body = json.loads(handler.rfile.read(int(handler.headers["Content-Length"])))
        data = json.loads(body["messages"][-1]["content"].split(MARKER)[1])
        caption = data.get("caption", "")
        with self.lock:
            self.seen[caption] += 1
            self.bodies.append(body)
            faults = self.faults[caption] or list(self.always)
            fault = faults[0] if faults else "well"
            if self.faults[caption] and fault[0] != "!":
                self.faults[caption].pop(0)
            kept = self.answers is not None and self.seen.total() > self.answers
        time.sleep(self.slow)
        if kept:
            self.released.wait()
            return
        if self._no_entry(handler):
            return
        for name in self.refuses & body.keys():
            send(handler, 422, json.dumps({"error": {"message": f"{name} is not supported"}}))
            return
        n = sum(len(message["content"].encode()) for message in body["messages"]) // 3
        if self.context and n + body["max_tokens"] > self.context:
            status, text = self.too_long
            send(handler, status, json.dumps({"error": {"message": text, "code": status}}))
            return
        self._say(handler, fault.removeprefix("!"), data)

    def _no_entry(self, handler: BaseHTTPRequestHandler) -> bool:
        shut = self.key is not None and handler.headers["Authorization"] != f"Bearer {self.key}"
        if shut:
            send(handler, 401, '{"error": {"message": "Incorrect API key provided"}}')
        return shut

    def _say(self, handler: BaseHTTPRequestHandler, fault: str, data: dict[str, Any]) -> None:
        if fault.isdigit():
            send(handler, int(fault), '{"error": {"message": "busy"}}')
            return
        if fault == "hang":
            time.sleep(4.0)
        if fault == "cut":
            handler.connection.shutdown(socket.SHUT_RDWR)
            return
        score = planted(data.get("caption", ""))
        if self.recalls and "tokens" in data:
            said = set(re.findall(r"\w{5,}", " ".join(data["tokens"])))
            named = [not said.isdisjoint(one.split()) for one in data["references"]]
            score = sum(named) / len(named)
        well = {"reason": "As planted.", "score": score}
        if "references" not in data:
            well = {"reason": "As planted.", "words": data["caption"].split()[:1]}
        form = (WELL | ILL).get(fault, "{json}")
        whole = json.dumps(completion(form.format(json=json.dumps(well), score=score)))
        text = {"half body": whole[: len(whole) // 2], "page": "<html>", "null": "null"}
        send(handler, 200, text.get(fault, whole), more=100 * (fault == "short"))


def completion(content: str) -> dict[str, Any]:
    message = {"role": "assistant", "content": content}
    usage = dict(prompt_tokens=9, completion_tokens=9, total_tokens=18)
    choices = [dict(index=0, message=message, finish_reason="stop")]
    known = dict(id="c1", object="chat.completion", created=1, model=MODEL)
    return {**known, "choices": choices, "usage": usage}


def send(handler: BaseHTTPRequestHandler, status: int, text: str, more: int = 0) -> None:
    handler.send_response(status)
    handler.send_header("Content-Type", "application/json")
    handler.send_header("Retry-After-Ms", "5")
    handler.send_header("Content-Length", str(len(text.encode()) + more))
    handler.end_headers()
    handler.wfile.write(text.encode())
