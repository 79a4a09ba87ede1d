"""Work on a real Ray cluster of two nodes: nothing is lost or doubled, whatever is killed."""

import os
import re
import signal
import socket
import time
from collections.abc import Iterator
from contextlib import suppress
from multiprocessing import Pipe
from pathlib import Path
from typing import Any

import pytest
import torch

from analyses.running.results import load
from data_prep.__main__ import main as data_prep
from data_prep.captioning import caption_manifest
from data_prep.manifest import Sample, read_manifest, write_manifest
from data_prep.swapping import swap_manifest
from hooked_omni import EmbeddedPrompt
from hooked_omni.__main__ import main as hooked_omni
from hooked_omni.cluster import joining
from hooked_omni.cluster.joining import Cluster
from hooked_omni.cluster.spreading import spread
from hooked_omni.cluster.tasks import Task
from hooked_omni.errors import ClusterError, WorkerLostError
from tests.support import forked, workers
from tests.support.clips import write_clip
from tests.support.places import OWN_ADDRESSES
from tests.support.running import assert_same, command
from tests.support.workers import WEIGHTS

pytestmark = pytest.mark.xdist_group("ray")


@pytest.fixture(scope="module")
def nodes() -> Iterator[tuple[Any, Any, Any]]:
    """Two nodes of one CPU each, and two drivers that wait for what they are to do."""
    pipes = [Pipe() for _ in range(2)]
    targets = (workers.driver, workers.commanded)
    waiting = [
        (forked.start(target, given), ours)
        for target, (given, ours) in zip(targets, pipes, strict=True)
    ]
    os.environ.update(joining.SETTINGS, RAY_AUTH_MODE="disabled")
    from ray.cluster_utils import Cluster as Nodes

    handler = signal.getsignal(signal.SIGTERM)
    options: Any = dict(num_cpus=1, object_store_memory=80_000_000, include_dashboard=False)
    try:
        made: Any = Nodes(initialize_head=True, head_node_args=options)
        second = made.add_node(num_cpus=1, object_store_memory=80_000_000)
        OWN_ADDRESSES.add(made.head_node.node_ip_address)
        yield made, second, waiting
    finally:  # also if no node starts: this process waits for its forks at its end
        for process, _ in waiting:
            process.kill()
    made.shutdown()
    signal.signal(signal.SIGTERM, handler)  # nodes set one of their own


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A manifest of ten clips, one of them deaf."""
    folder = tmp_path_factory.mktemp("data")
    for i in range(10):
        length, sound = 1.5 if i == 8 else 1.0, None if i == 3 else 100.0 * (i + 1)
        write_clip(folder / f"{i}.mp4", seconds=length, fps=4, width=56, height=56, audio_hz=sound)
    return write_manifest(
        folder / "data.jsonl", [Sample(f"{i}", video=f"{i}.mp4") for i in range(10)]
    )


def test_a_case_that_kills_its_workers_is_listed_and_the_rest_goes_on(nodes, data, tmp_path, capfd):
    cluster, seen = Cluster(nodes[0].address, 1, "shared"), list[tuple[str, int, int]]()
    tasks = [Task(str(i), i, outputs=(tmp_path / f"{i}.txt",)) for i in range(5, 16)]
    tasks.append(Task("long", 100, (data.parent / "8.mp4",), (tmp_path / "100.txt",)))
    found = {}
    note = lambda *one: seen.append(one)  # noqa: E731
    for task, future in spread(cluster, workers.doubling, tasks, WEIGHTS, progress=note):
        found[task.given] = future
    assert len(found) == 12 and "long" in [str(n) if n != 100 else "long" for n in list(found)[:2]]
    assert isinstance(found.pop(13).exception(), WorkerLostError)
    assert isinstance(found.pop(7).exception(), ValueError)
    assert {n: future.result() for n, future in found.items()} == {n: 2 * n for n in found}
    assert all((tmp_path / f"{n}.txt").read_text() == str(2 * n) for n in found)
    assert sorted(path.suffix for path in tmp_path.iterdir()) == [".txt"] * 10  # no token is left
    last = {name: done for name, done, _ in seen}
    assert sum(last.values()) == 10 and {total for *_, total in seen} == {12}
    printed = capfd.readouterr()
    assert printed.err.count("lost: ") == 3 and "at 13" in printed.err and not printed.out


def test_captions_and_swaps(nodes, data, tmp_path):
    cluster = Cluster(nodes[0].address, 1)
    missing = caption_manifest.run(
        data, data.parent / "named.jsonl", workers.Named(), cluster=cluster
    )
    assert list(missing) == ["3"] and "died" in missing["3"]
    named = read_manifest(data.parent / "named.jsonl")
    expected = [(f"The clip {i}.mp4.",) if i != 3 else () for i in range(10)]
    assert [sample.video_captions for sample in named] == expected
    swapped = [(f"{i}", "counterfactual", f"{i}.mp4", f"{i + 1}.mp4") for i in range(4)]
    samples = [Sample(name, kind, video=v, audio=a) for name, kind, v, a in swapped]
    pairs = write_manifest(data.parent / "pairs.jsonl", samples)
    here = swap_manifest.run(pairs, data.parent / "here.jsonl")
    with pytest.raises(SystemExit) as end:
        data_prep(["swap", str(pairs), str(data.parent / "there.jsonl"), "--ray", nodes[0].address])
    assert end.value.code == 0 and list(here) == ["2"]
    made = [read_manifest(data.parent / f"{name}.jsonl") for name in ("here", "there")]
    for one, other in zip(*made, strict=True):
        files = [data.parent / str(sample.video) for sample in (one, other)]
        assert files[0].read_bytes() == files[1].read_bytes() and files[0] != files[1]


@pytest.mark.parametrize(
    ("make", "why"), [(workers.other_weights, "others"), (workers.full, "the GPU is full")]
)
def test_workers_that_differ_or_do_not_start_do_nothing(nodes, make, why, tmp_path):
    tasks = [Task("5", 5, outputs=(tmp_path / "5",))]
    with pytest.raises(ClusterError, match=why):
        list(spread(Cluster(nodes[0].address, 1), make, tasks, WEIGHTS))
    assert not list(tmp_path.iterdir())


def test_what_is_not_shared_is_noticed(nodes, tmp_path):
    cluster = Cluster(nodes[0].address, 1, "shared")
    own = Task("5", 5, (Path("/proc/self/cmdline"),))  # each process reads another one
    with pytest.raises(ClusterError, match="as the driver has it"):
        list(spread(cluster, workers.doubling, [own], WEIGHTS))
    folder = os.open(tmp_path, os.O_RDONLY)  # a folder that this process alone has at its path
    there = Task("5", 5, outputs=(Path(f"/proc/self/fd/{folder}/5"),))
    with pytest.raises(ClusterError, match="--storage driver"):
        list(spread(cluster, workers.doubling, [there], WEIGHTS))
    os.close(folder)
    assert not list(tmp_path.iterdir())


def test_room_that_is_not_there(nodes):
    with pytest.raises(ClusterError, match=r"'CPU': 64.*2 nodes"):
        list(spread(Cluster(nodes[0].address, 64), workers.doubling, [Task("5", 5)]))
    with pytest.raises(ClusterError, match=r"'GPU': 1"):
        list(spread(Cluster(nodes[0].address, 1), workers.doubling, [Task("5", 5)], gpus=1))


def test_no_cluster_is_an_error_within_seconds(tmp_path, data, capfd):
    listening = socket.create_server(("127.0.0.1", 0))
    silent = f"127.0.0.1:{listening.getsockname()[1]}"
    for address in ("127.0.0.1:1", silent, "none.invalid:6379", "nonsense", "ray://h:1", ""):
        begun = time.monotonic()
        words = "captions", "--model", "random-omni", "--data", data, "--out", tmp_path / "out"
        assert command(*words, "--ray", address) == 1
        assert time.monotonic() - begun < 20
        assert "expected " in capfd.readouterr().err
    listening.close()
    assert command(*words, "--cpus", "2") == 2
    assert not (tmp_path / "out").exists()


def test_without_ray_there_is_a_clear_error(monkeypatch):
    monkeypatch.setattr(joining.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ClusterError, match=r"hooked-omni\[ray\]"):
        Cluster()


def test_a_prompt_is_embedded_by_a_worker(nodes, data, tmp_path, capsys):
    clip, made = data.parent / "8.mp4", []
    for name, more in (("here", ()), ("there", ("--ray", nodes[0].address, "--cpus", "1"))):
        made.append(tmp_path / f"{name}.safetensors")
        words = "embed", "random-omni", "--clip", clip, "--out", made[-1], *more
        with pytest.raises(SystemExit) as end:
            hooked_omni([str(word) for word in words])
        assert end.value.code == 0 and "positions, " in capsys.readouterr().out
    here, there = map(EmbeddedPrompt.load, made)
    assert torch.equal(here.embeds, there.embeds) and here.facts == there.facts


def test_a_study_that_is_interrupted_leaves_no_worker_and_goes_on(nodes, data, tmp_path):
    """SIGINT; bare `--ray` is the cluster that this machine is a node of."""
    said: Any = dict(audio_captions=("Rain falls.",), video_captions=("A square.",))
    samples = [Sample(f"{i}", video=f"{i}.mp4", **said) for i in range(10) if i != 3]
    write_manifest(data.parent / "study.jsonl", samples)
    (config := tmp_path / "study.toml").write_text(
        f'model = "random-omni"\ndata = "{data.parent}/study.jsonl"\nanalyses = ["captions"]\n'
        "max_new_tokens = 4\n"
    )
    out, whole, (process, ours) = tmp_path / "out", tmp_path / "whole", nodes[2][1]
    start = ["study", "--config", str(config), "--out"]
    ours.send(([*start, str(out), "--ray", "--cpus", "1"], nodes[0].address, tmp_path / "printed"))
    while len(list(out.glob("captions/parts/*.parquet"))) < 2:
        assert process.is_alive(), (tmp_path / "printed").read_text()
        time.sleep(0.01)
    assert _actors(nodes[0])
    os.kill(process.pid, signal.SIGINT)
    process.join(90)
    assert process.exitcode == 130
    said = (tmp_path / "printed").read_text()
    assert said.count("stopped by SIGINT: what is finished is kept; give the same command") == 1
    assert "Traceback" not in said and "lost: " not in said
    end = time.monotonic() + 60
    while _actors(nodes[0]) and time.monotonic() < end:
        time.sleep(0.1)
    assert not _actors(nodes[0])
    assert 2 <= len(list(out.glob("captions/parts/*.parquet"))) < 27 and not _finished(out)
    for folder in (out, whole):
        assert command(*start, folder) == 0 and _finished(folder)
    assert_same(out / "captions", whole / "captions")


def _finished(out: Path) -> bool:
    return (out / "captions" / "run.json").exists() and (out / "report.md").exists()


def _actors(made: Any) -> list[str]:
    """Workers that live on the nodes: Ray's other ones wait, with no model."""
    raylets = [node.all_processes["raylet"][0].process.pid for node in made.list_all_nodes()]
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):  # it has ended
            parent = int((folder / "stat").read_text().rpartition(")")[2].split()[1])
            name = (folder / "cmdline").read_text()
            found += [name] * (parent in raylets and name.startswith("ray::WorkerActor"))
    return found


def test_a_folder_goes_from_laptop_to_cluster_and_back(nodes, data, tmp_path, capfd):
    """A driver, a worker and a node are killed on the way."""
    made, second, ((waiting, ours), _) = nodes
    whole, out, cluster = tmp_path / "whole", tmp_path / "out", Cluster(made.address, 1)
    parts = lambda: len(list(out.glob("parts/*.parquet")))  # noqa: E731

    def until(n: int, done: int) -> None:
        if done == n:
            raise KeyboardInterrupt

    workers.small_run(data, whole)
    with pytest.raises(KeyboardInterrupt):
        workers.small_run(data, out, None, lambda title, done, total: until(2, done))
    assert parts() == 2
    ours.send((data, out, cluster))
    while parts() < 4:  # there it waits: `workers.driver`
        assert waiting.is_alive()
        time.sleep(0.01)
    waiting.kill()
    waiting.join()
    assert parts() == 4 and not (out / "run.json").exists()
    killed, nodes_left = set[str](), [second]

    def disturb(title: str, done: int, total: int) -> None:
        if (process := re.search(r"process (\d+)", title)) and not killed:
            killed.add(title)
            os.kill(int(process[1]), signal.SIGKILL)
        if title == "attention_share" and done > 4:
            while nodes_left:  # each worker has a case in hand
                made.remove_node(nodes_left.pop(), allow_graceful=False)
            until(9, done)

    with pytest.raises(KeyboardInterrupt):
        workers.small_run(data, out, cluster, disturb)
    # The case that a worker has in hand may end, too: it is kept, and the run is not finished.
    assert killed and not nodes_left and parts() >= 9 and "lost: " in capfd.readouterr().err
    assert not (out / "run.json").exists()
    workers.small_run(data, out)
    assert_same(out, whole)
    assert len(load(out).attrs["cases"]) == 10
