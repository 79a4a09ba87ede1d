"""Tiny models of the real classes, a network that is not there, and a judge over HTTP."""

import gc
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jaxtyping
import pytest
import torch
import transformers

import tests.support.checked  # noqa: F401  (checks shapes, by pyproject.toml: before what is checked)
from hooked_omni import EmbeddedPrompt, HookedOmni, load, parity
from tests.support.checkpoints import sharded
from tests.support.judge_server import JudgeServer
from tests.support.models import (
    KINDS,
    KINDS_OF,
    MIXED,
    one_expert_after_the_other,
    processed,
    uneven_gains,
    watched,
)
from tests.support.padding import fill_padding
from tests.support.places import OWN_ADDRESSES

fill_padding()
torch.set_num_threads(1)
transformers.logging.set_verbosity_error()
transformers.logging.disable_progress_bar()


def pytest_collection_finish() -> None:
    """What is imported stays: looking through it for garbage takes a twentieth of the time."""
    gc.collect()
    gc.freeze()


def pytest_unconfigure() -> None:
    gc.unfreeze()  # else extension modules complain at the end


@pytest.fixture(scope="session", autouse=True)
def _no_network() -> Iterator[None]:
    """Nothing here may need the network, so nothing may have it."""
    connect = socket.socket.connect

    def refuse(self: socket.socket, address: Any) -> None:
        local = self.family == socket.AF_UNIX or str(address[0]) in OWN_ADDRESSES
        if not local:
            raise RuntimeError(f"expected a test without network, got a connection to {address}.")
        connect(self, address)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(socket.socket, "connect", refuse)
        patch.setattr(socket.socket, "connect_ex", refuse)
        yield


@pytest.fixture
def as_installed() -> Iterator[None]:
    """No shape checks, as for a user: wrong arguments must meet the project's own refusals."""
    jaxtyping.config.update("jaxtyping_disable", True)
    try:
        yield
    finally:
        jaxtyping.config.update("jaxtyping_disable", False)


@pytest.fixture
def numbers_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """`prove` without its edits at every hook point, most of its time: `test_families` has them."""
    monkeypatch.setattr(parity, "_require_live", lambda model: 0)


@pytest.fixture(scope="session")
def omni() -> HookedOmni:
    omni = load("random-omni")
    uneven_gains(omni.hf)
    return omni


@pytest.fixture(scope="session")
def vl() -> HookedOmni:
    vl = load("random-vl")
    uneven_gains(vl.hf)
    return vl


@pytest.fixture(scope="session")
def models(omni: HookedOmni, vl: HookedOmni) -> dict[str, HookedOmni]:
    models = {"omni": omni, "vl": vl}
    for name in KINDS_OF.keys() - models.keys():
        models[name] = load(f"random-{name}")
        uneven_gains(models[name].hf)
    for name in MIXED:
        one_expert_after_the_other(models[name].hf)
    return models


@pytest.fixture(scope="session")
def clips(models: dict[str, HookedOmni]) -> dict[tuple[str, str], dict[str, Any]]:
    """The processor's whole output, by model and kind of prompt."""
    return {(name, kind): processed(models[name], kind) for name, kind in KINDS}


@pytest.fixture(scope="session")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A checkpoint of each family, in several files."""
    return sharded(tmp_path_factory.mktemp("checkpoints"))


@pytest.fixture(scope="session")
def prompt(omni: HookedOmni, clips: dict[tuple[str, str], dict[str, Any]]) -> EmbeddedPrompt:
    """A question about a film with its sound."""
    return omni.embed_inputs(**clips["omni", "audio in video"])


@pytest.fixture
def passes(omni: HookedOmni) -> Iterator[list[tuple[int, int]]]:
    """Rows and positions of every pass that has entered the blocks."""
    seen: list[tuple[int, int]] = []
    block: Any = omni.model.blocks[0]
    with watched(block, lambda args: seen.append((args[0].shape[0], args[0].shape[1]))):
        yield seen


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[JudgeServer]:
    """A judge over real HTTP, with a cache of its own and no key."""
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setenv("INSPECT_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.delenv("JUDGE_API_KEY", raising=False)
    server = JudgeServer()
    yield server
    server.stop()
