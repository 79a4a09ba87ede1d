"""Which cluster is work spread over, and how is it reached?

Ray keeps its lines, its handlers of signals and its reports home to itself.
"""

import importlib.util
import logging
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal

from hooked_omni.errors import ClusterError

_STORAGES = ("driver", "shared")
SETTINGS = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_worker_niceness": "0",
    "RAY_DEDUP_LOGS_SKIP_REGEX": ".",
    "RAY_DISABLE_FAILURE_SIGNAL_HANDLER": "1",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    "RAY_py_gcs_connect_timeout_s": "3",
    "RAY_gcs_rpc_server_connect_timeout_s": "2",
}
"""Read when ray is imported: no reports home, no lines among ours, answers within seconds."""


@dataclass(frozen=True)
class Cluster:
    """Which cluster, and what a worker of it is.

    Attributes:
        address: "auto" for the one that this machine is a node of, "local" for one of this machine
            alone, or HOST:PORT of its head; this machine must be a node of it.
        cpus: Of each worker, and its threads; None for as many threads as torch has here, by which
            sums on a CPU are the same to the bit.
        storage: Who writes results: the workers, to a folder that is "shared", or the "driver".

    Raises:
        ClusterError: For values other than these, and without Ray.
    """

    address: str = "auto"
    cpus: int | None = None
    storage: Literal["driver", "shared"] = "driver"

    def __post_init__(self) -> None:
        host, _, port = self.address.rpartition(":")
        known = self.address in ("auto", "local") or (host.strip("/") == host and port.isdecimal())
        if not known or (not host and port.isdecimal()):
            raise ClusterError(
                f"expected auto, local or HOST:PORT as the address, got {self.address!r}. "
                "`ray status` prints that of a cluster."
            )
        if (self.cpus or 1) < 1 or self.storage not in _STORAGES:
            raise ClusterError(
                f"expected at least 1 CPU and storage among {_STORAGES}, got {self.cpus} "
                f"and {self.storage!r}."
            )
        if importlib.util.find_spec("ray") is None:
            raise ClusterError(
                "expected the package ray for work on a cluster, got an environment without it. "
                "Install it: pip install 'hooked-omni[ray]'."
            )

    @contextmanager
    def joined(self, **local: Any) -> Iterator[Any]:
        """Ray, connected to the cluster; a connection that is there already is used, and stays.

        `local` are options of `ray.init` for a cluster of this machine alone.

        Raises:
            ClusterError: If there is no cluster of this version, within seconds.
        """
        for name, value in SETTINGS.items():
            os.environ.setdefault(name, value)
        import ray
        import ray._private.utils

        if ray.is_initialized():
            yield ray
            return
        ray._private.utils.set_sigterm_handler = lambda handler: None  # it has one: `StopSignals`
        logging.getLogger("ray").setLevel(logging.ERROR)
        quiet: dict[str, Any] = dict(log_to_driver=False, configure_logging=False)
        try:
            if self.address == "local":
                ray.init("local", include_dashboard=False, **quiet, **local)
            else:
                ray.init(_reached(self.address), **quiet)
        except Exception as error:  # Ray's, gRPC's and the system's
            raise ClusterError(
                f"expected a Ray cluster at {self.address!r} that this machine is a node of, got: "
                f"{error}. `ray start --head` begins one, `ray start --address=HOST:PORT` joins it."
            ) from error
        try:
            yield ray
        finally:
            ray.shutdown()


def _reached(address: str) -> str:
    """The address as HOST:PORT, after an answer from there."""
    from ray._private.services import canonicalize_bootstrap_address

    raylet: Any = importlib.import_module("ray._raylet")
    found = canonicalize_bootstrap_address(address) or address
    host, _, port = found.rpartition(":")
    socket.create_connection((host.strip("[]"), int(port)), timeout=3).close()
    raylet.GcsClient(address=found)  # anything may listen at a port
    return found
