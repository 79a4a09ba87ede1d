"""What did the judge reply, word for word?

Replies go into inspect-ai's own log files, a few hundred to a file, for `inspect view --log-dir
FOLDER`. The scores themselves are kept in the journal; a log may be deleted.
"""

import threading
from datetime import UTC, datetime
from pathlib import Path

from inspect_ai import log
from inspect_ai.model import Model, ModelOutput
from inspect_ai.scorer import Score

from analyses.judge.judgement import Item, Judgement
from analyses.judge.messages import chat_messages
from hooked_omni.files import whole_file

_PER_FILE = 500


class Logs:
    """Log files of one run; none without a folder. Safe to share between threads."""

    def __init__(self, folder: Path | None, model: Model) -> None:
        self._folder, self._model = folder, str(model)
        self._samples: list[log.EvalSample] = []
        self._started = datetime.now(UTC)
        self._files = 0
        self._lock = threading.Lock()

    def add(self, item: Item, judgement: Judgement, output: ModelOutput | None) -> None:
        """Keep one judgement, until the file is full."""
        if self._folder is None:
            return
        replied = [output.message] if output is not None and output.choices else []
        value = "missing" if judgement.missing else judgement.score
        words = ", ".join(judgement.words)
        score = Score(value=words if value is None else value, explanation=judgement.reason)
        sample = log.EvalSample(
            id=f"{item.sample}/{item.kind}/{item.question}/{item.condition}/{item.what}",
            epoch=1,
            input=item.text or "",
            target=list(item.references),
            messages=[*chat_messages(item), *replied],
            output=output or ModelOutput(model=self._model),
            scores={item.what: score},
            metadata={"tries": judgement.tries},
        )
        with self._lock:
            self._samples.append(sample)
            if len(self._samples) == _PER_FILE:
                self._write()

    def close(self) -> None:
        """Write what is left."""
        with self._lock:
            self._write()

    def _write(self) -> None:
        if self._folder is None or not self._samples:
            return
        self._files += 1
        n = len(self._samples)
        name = f"{self._started:%Y-%m-%dT%H-%M-%S}_judge_{self._files:04d}"
        spec = log.EvalSpec(
            eval_id=name,
            run_id=name,
            created=datetime.now(UTC).isoformat(timespec="seconds"),
            task="judge",
            dataset=log.EvalDataset(name="captions", samples=n),
            model=self._model,
            config=log.EvalConfig(),
        )
        done = log.EvalResults(total_samples=n, completed_samples=n)
        whole = log.EvalLog(
            status="success", eval=spec, results=done, stats=log.EvalStats(), samples=self._samples
        )
        self._samples = []
        with whole_file(self._folder / f"{name}.eval") as partial:
            log.write_eval_log(whole, partial)
