"""Which settings and options does every command line have?"""

import os
from typing import Annotated, Any

import typer

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
