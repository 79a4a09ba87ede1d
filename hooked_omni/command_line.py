"""Which settings and options does every command line have?"""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Annotated, Any, Literal

import typer

Storage = Literal["driver", "shared"]
Ray = Annotated[
    str | None,
    typer.Option(metavar="[auto|local|HOST:PORT]", help="On a Ray cluster; alone: auto."),
]
Cpus = Annotated[int | None, typer.Option(min=1, help="With --ray: CPUs and threads of a worker.")]
Stored = Annotated[
    Storage, typer.Option("--storage", help="With --ray: who writes; shared: the workers.")
]

_HELP = "Most memory that reading a clip may take, in GB; default: 1."


def new_app(**settings: Any) -> typer.Typer:
    """A `Typer` whose errors are left to `run_command`, with the option `--media-gb`."""
    app = typer.Typer(pretty_exceptions_enable=False, add_completion=False, **settings)

    @app.callback()
    def reading(media_gb: Annotated[float | None, typer.Option(help=_HELP)] = None) -> None:
        if media_gb is not None:
            from hooked_omni.inputs.media import MEMORY  # a help page need not import it

            os.environ[MEMORY] = str(media_gb)

    return app


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
