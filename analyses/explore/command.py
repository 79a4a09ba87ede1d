"""The command `explore`; nothing heavy is imported until it runs."""

from pathlib import Path
from typing import Annotated

import typer

from analyses.running.options import studies_of
from analyses.running.progress import progress_bars
from hooked_omni.endings import say


def explore(
    studies: Annotated[list[Path], typer.Argument(help="Folders of studies, finished or not.")],
    out: Annotated[Path, typer.Option(help="New folder for the site.")],
    judge: Annotated[str | None, typer.Option(help="Whose scores, where several judged.")] = None,
    data: Annotated[
        Path | None, typer.Option(help="The studies' manifest, if it was moved.")
    ] = None,
    serve: Annotated[bool, typer.Option("--serve", help="Then serve it to this machine.")] = False,
) -> None:
    """A page to look at: samples, answers, attention, knockouts; it opens from disk."""
    from analyses.explore.site import write_site

    with progress_bars() as progress:
        page = write_site(studies_of(studies), out, judge, data, progress)
    say(f"{page}: open it in a browser")
    if serve:
        from analyses.explore.serving import serve_site

        serve_site(out, lambda address: say(f"{address}: until Ctrl-C"))
