"""Which settings and options does every command line have?"""

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from hooked_omni.errors import UnknownModelError
from hooked_omni.files import parse_json
from hooked_omni.names import DEVICE_MAPS

Storage = Literal["driver", "shared"]
Ray = Annotated[
    str | None,
    typer.Option(metavar="[auto|local|HOST:PORT]", help="On a Ray cluster; alone: auto."),
]
Cpus = Annotated[int | None, typer.Option(min=1, help="With --ray: CPUs and threads of a worker.")]
Stored = Annotated[
    Storage, typer.Option("--storage", help="With --ray: who writes; shared: the workers.")
]
DeviceMap = Annotated[
    str | None,
    typer.Option(metavar="auto|JSON", help="Over several devices: auto, or {module: device}."),
]
Quantized = Annotated[
    bool,
    typer.Option("--allow-quantized", help="Take a quantized model: not the original's numbers."),
]

_HELP = "Most memory that reading a clip may take, in GB; default: 1."


def new_app(**settings: Any) -> typer.Typer:
    """A `Typer` whose errors are left to `run_command`, with the option `--media-gb`."""
    app = typer.Typer(pretty_exceptions_enable=False, add_completion=False, **settings)

    @app.callback()
    def reading(media_gb: Annotated[float | None, typer.Option(help=_HELP)] = None) -> None:
        if media_gb is not None:
            from hooked_omni.inputs.media import (  # not needed for a help page
                MEMORY,
                require_memory,
            )

            os.environ[MEMORY] = str(media_gb)
            require_memory(0, Path())

    return app


def read_device_map(given: Any, device: str) -> Any:
    """A `device_map` of `load` from a command or a study; JSON becomes a mapping.

    Raises:
        FileError: For JSON that is none.
        UnknownModelError: For neither a way to make a map nor modules with devices, or beside a
            `device` of its own.
    """
    text = isinstance(given, str) and given.lstrip().startswith("{")
    found = parse_json(given, "--device-map") if text else given
    listed = isinstance(found, Mapping) and all(type(v) in (str, int) for v in found.values())
    if found is not None and not (found in DEVICE_MAPS if isinstance(found, str) else listed):
        raise UnknownModelError(
            f"expected a device_map among {DEVICE_MAPS}, or {{module: device}}, got {given!r}. For "
            "one device, give it as the device."
        )
    if found is not None and device != "cpu":
        raise UnknownModelError(
            f"expected a device or a device_map, got {device!r} and {given!r}. Leave one out."
        )
    return found


def placed(device_map: str | None, allow_quantized: bool) -> dict[str, Any]:
    """What the options say in place of a study's file, whose device a map replaces."""
    found = {"device_map": read_device_map(device_map, "cpu"), "device": "cpu"}
    return (found if device_map else {}) | ({"allow_quantized": True} if allow_quantized else {})


@contextmanager
def joined(ray: str | None, cpus: int | None, storage: Storage = "driver") -> Iterator[Any]:
    """The `Cluster` that the options name, connected to while the block runs; None without one.

    `ClusterError` as `Cluster` and `Cluster.joined`.
    """
    if ray is not None:
        from hooked_omni.cluster.joining import Cluster  # a help page need not import it

        cluster = Cluster(ray, cpus, storage)
        with cluster.joined():
            yield cluster
        return
    if cpus is not None or storage != "driver":
        raise typer.BadParameter("expected --ray with --cpus and --storage")
    yield None
