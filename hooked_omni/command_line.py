"""Which options does every command have?"""

import os
from typing import Annotated

import typer

_HELP = "Most memory that reading a clip may take, in GB; default: 1."


def reading(media_gb: Annotated[float | None, typer.Option(help=_HELP)] = None) -> None:
    """How much memory a clip may take, as the callback of a `Typer`."""
    if media_gb is not None:
        from hooked_omni.inputs.media import MEMORY  # a help page need not import it

        os.environ[MEMORY] = str(media_gb)
