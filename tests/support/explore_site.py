"""A site as `analyses explore` writes it, small and with planted numbers, for tests of the page."""

import base64
import io
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from analyses.attention_map.packing import NONE, levels, packed
from tests.support.clips import write_clip
from tests.support.places import ROOT

BUILT = ROOT / "analyses" / "explore" / "built"
QUESTIONS = ["hear", "see"]
LAYERS, HEADS, KEPT = 4, 2, 8
FRAMES, ROWS, COLUMNS, SOUNDS = 3, 3, 4, 4
SINK = 1  # the first patch
LOOKED = (1, 1, 3)
"""Frame, row and column that token 2 looks at, with a third of its attention, in layer 3 alone."""
SUMS = {
    ("audio", 0, False): 1 / 6, ("audio", 1, False): 1 / 6, ("text", -1, False): 0.03,
    ("video", 0, False): 0.05, ("video", 0, True): 1 / 3, ("video", 1, False): 0.0,
    ("video", 2, False): 1 - 2 / 3 - 0.08,
}  # fmt: skip
"""Every row's attention but that of token 2 in layer 3, by part."""
PIECES = ["A", " dog", " bark", "s", " loudly", ".", " 犬が", " نباح", "\n", " 🐕"]


def put(root: Path, name: str, value: Any) -> None:
    path = root / "data" / f"{name}.js"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"hookedOmni.put({json.dumps(name)}, {json.dumps(value)});\n", "utf-8")


def _image(pixels: np.ndarray, form: str) -> str:
    data = io.BytesIO()
    Image.fromarray(pixels.astype(np.uint8)).save(data, form)
    return f"data:image/{form.lower()};base64,{base64.b64encode(data.getvalue()).decode()}"


def position(frame: int, row: int, column: int) -> int:
    return 1 + (frame * ROWS + row) * COLUMNS + column


def _attention() -> tuple[dict[str, Any], str]:
    """Every row: a third on the sink, a sixth on each of two sounds; `LOOKED` says the rest.

    Weights of the other frames are too small to be kept; `SUMS` has them.
    """
    cells = np.indices((FRAMES, ROWS, COLUMNS)).reshape(3, -1)
    video = [position(*cell) for cell in cells.T.tolist()]
    audio = list(range(video[-1] + 1, video[-1] + 1 + SOUNDS))
    queries = len(PIECES) - 1
    shape = (LAYERS, HEADS, queries)
    positions, weights = np.full((*shape, KEPT), NONE), np.zeros((*shape, KEPT))
    positions[..., 0], weights[..., 0] = SINK, 1 / 3
    positions[3, :, 1, 1], weights[3, :, 1, 1] = position(*LOOKED), 1 / 3
    for i, sound in enumerate(audio[1:3], start=2):
        positions[..., i], weights[..., i] = sound, 1 / 6
    sums = np.broadcast_to([*SUMS.values()], (*shape, len(SUMS))).copy()
    sums[3, :, 1] = [1 / 6, 1 / 6, 0, 0, 1 / 3, 1 / 3, 0]
    meta = {
        "queries": queries, "layers": LAYERS, "heads": HEADS, "kept": KEPT,
        "predicts": list(range(1, queries + 1)), "segments": ["text", "video", "audio"],
        "parts": [*SUMS], "levels": levels(sums.size), "bound": 0.002, "sinks": [SINK],
        "grid": {
            "position": video, "frame": cells[0].tolist(), "row": cells[1].tolist(),
            "column": cells[2].tolist(), "frames": FRAMES, "rows": ROWS, "columns": COLUMNS,
            "times": [0.0, 0.5, 1.0],
        },
        "why": "",
    }  # fmt: skip
    return meta, base64.b64encode(packed(positions, weights, sums)[0]).decode()


def _tokens() -> list[dict[str, Any]]:
    shifts = ["unshifted", "marginal", "shifted"]
    return [
        {
            "text": text, "shift": shifts[i % 3], "rank": [1, 2, 7][i % 3],
            "logprob": float(np.log(0.5)), "base_logprob": float(np.log(0.25)), "kl": 0.125 * i,
            "base_top": [[" cat", float(np.log(0.25))], [" <b>bold</b>", -2.0], ["鳥", -3.0]],
        }
        for i, text in enumerate(PIECES)
    ]  # fmt: skip


def answer(question: str, key: str | None, center: int, text: str, score: float | None) -> dict:
    first, last = (center - 1, center + 1) if key else (None, None)
    scores = [
        {
            "what": what, "judge": "judge-1", "score": score, "reason": f"because of {what}",
            "status": "ok" if score is not None else "no reply",
        }
        for what in ("audio", "video")
    ]  # fmt: skip
    return {
        "question": question, "condition": f"{key} @ {first}-{last}" if key else "", "key": key,
        "first": first, "last": last, "text": text, "tokens": 10, "ended": True,
        "scores": scores, "heard_found": score, "seen_found": None,
    }  # fmt: skip


def _pieces(layer: int) -> list[str]:
    return [" dog", "犬"] if layer == 2 else ["नमस्ते", "مرحبا"]


def sample(row: dict[str, Any], media: str | None, n: int) -> tuple[dict[str, Any], str]:
    meta, packed = _attention()
    plain = [answer(q, None, 0, row["answers"][q], 0.25) for q in QUESTIONS]
    cut = [
        answer("hear", key, center, f"Without {key} around {center}", center / 10)
        for key in ("audio", "video")
        for center in (1, 2)
    ]
    x = np.linspace(0, 255, FRAMES * 64)
    return {
        "id": row["id"], "kind": row["kind"], "twin": row["twin"],
        "references": {"audio": row["heard"], "video": row["seen"]},
        "clip": {
            "src": media, "problem": None if media else "The file clips/gone.mp4 is not there.",
            "seconds": 2.0,
            "frames": {"src": _image(np.tile(x, (48, 1)), "JPEG"), "width": 64, "height": 48,
                       "times": [0.0, 0.5, 1.0]},
            "peaks": [[-abs(np.sin(i / 7)), abs(np.sin(i / 7))] for i in range(200)],
            "mel": {"src": _image(np.indices((32, 100)).sum(0) * 1.9, "PNG"), "bands": 32},
        },
        "answers": [*plain, *cut],
        "tokens": {"hear": _tokens()},
        "words": {"hear": [{"text": "barks", "from": 2, "to": 4}]},
        "lens": [
            {
                "question": "hear", "lens": lens, "layers": list(range(LAYERS)), "seconds": [0, 1],
                "cells": [
                    [{"text": text, "logprob": -0.5, "others": ["鳥", " bird"],
                      "hit": text == " dog"} for text in _pieces(layer)]
                    for layer in range(LAYERS)
                ],
            }
            for lens in ("norm", "raw")
        ],
        "knockout": [
            {"question": "hear", "key": a["key"], "center": a["first"] + 1, "first": a["first"],
             "last": a["last"], "scores": {"audio": a["scores"][0]["score"], "video": None}}
            for a in cut
        ],
        "attention": {"hear": {"file": f"attention/{row['file']}.hear", **meta}},
    }, packed  # fmt: skip


def rows(n: int, shift: float = 0.0) -> list[dict[str, Any]]:
    return [
        {
            "id": f"clip {i}", "file": f"clip-{i}", "kind": ("factual", "counterfactual")[i % 2],
            "heard": ["a dog barks" if i % 3 else "rain falls"], "seen": ["a man walks"],
            "twin": f"clip {i - 1}" if i % 2 else None,
            "fidelity": {"hear/audio": round(i / n + shift, 3), "see/video": [0.5, None][i == 1]},
            "drop": i / 100 if i % 2 else None, "shift": (i * 7 % n) / n, "disagreement": 0.1,
            "answers": {"hear": "".join(PIECES), "see": f"A man number {i}."},
        }
        for i in range(n)
    ]  # fmt: skip


def figures() -> list[dict[str, Any]]:
    def series(name: str, lift: float) -> dict[str, Any]:
        points = [{"x": x, "y": x / 10 + lift, "low": x / 10 + lift - 0.05,
                   "high": x / 10 + lift + 0.05, "n": 40 + x} for x in range(4)]  # fmt: skip
        return {"name": name, "points": points, "published": [{"x": 1, "y": 0.42}]}

    kinds = [{"x": k, "y": y, "low": y - 0.1, "high": y + 0.1, "n": 3}
             for k, y in (("factual", 0.6), ("counterfactual", 0.23))]  # fmt: skip
    panel = {"title": "Counterfactual", "x": "layer", "y": "share of attention"}
    return [
        {"id": "attention-share", "title": "Where the answer looks", "form": "line",
         "caption": ["Video gets the most."],
         "panels": [{**panel, "series": [series("audio", 0), series("video", 0.2)]},
                    {**panel, "title": "Factual", "series": [series("text", 0.1)]}]},
        {"id": "fidelity", "title": "Fidelity", "form": "bar", "caption": [],
         "panels": [{"title": "hear", "x": "kind", "y": "fidelity",
                     "series": [{"name": "audio", "points": kinds, "published": []}]}]},
    ]  # fmt: skip


def study(name: str, samples: list[dict[str, Any]], others: list[dict[str, Any]]) -> dict[str, Any]:
    claim = {
        "claim": "Sound is heard less when it contradicts the picture",
        "published": "60 % to 23 %",
        "ours": "58 % to 21 %",
        "direction": "yes",
        "size": "within the band",
    }
    return {
        "schema": 1, "name": name, "title": f"What {name} sees and hears", "model": name,
        "base": "organism-base", "judge": "judge-1", "summary": ["Audio fidelity falls by half."],
        "settings": [["max_new_tokens", "10"]], "versions": [["torch", "2.11"]],
        "warnings": ["One clip is missing."],
        "missing": [{"stage": "judge", "reason": "no judge was named in the study's file"}],
        "claims": [claim], "figures": figures(), "samples": samples, "questions": QUESTIONS,
        "others": others,
    }  # fmt: skip


def write_site(root: Path, names: tuple[str, ...] = ("organism-biased",), n: int = 6) -> Path:
    """A site of one study for each name, all of the same samples; the last sample has no clip."""
    root.mkdir(parents=True)
    for file in BUILT.iterdir():
        shutil.copy(file, root / file.name)
    (root / "media").mkdir()
    write_clip(root / "media" / "clip.mp4")
    ids = [row["id"] for row in rows(n)]
    others = [{"name": name, "samples": ids} for name in names]
    for i, name in enumerate(names):
        table = rows(n, shift=i / 10)
        put(root, f"{i}/study", study(name, table, others))
        for row in table:
            value, packed = sample(row, None if row is table[-1] else "media/clip.mp4", n)
            put(root, f"{i}/samples/{row['file']}", value)
            put(root, f"{i}/attention/{row['file']}.hear", packed)
    return root
