"""``regista view``: runs in a browser on this machine."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path

from regista.core import FormatError, LabelImage, PointSet
from regista.reporting._cohort import find_runs
from regista.reporting._folder import read_run, short_names
from regista.reporting._viewer_run import ViewerRun
from regista.reporting._viewer_server import ViewerServer

Pair = tuple[Path | None, Path | None]


def open_viewer(
    paths: Iterable[str | Path],
    *,
    images: Pair = (None, None),
    labels: tuple[LabelImage, LabelImage] | None = None,
    landmarks: tuple[PointSet, PointSet] | None = None,
    port: int = 0,
) -> ViewerServer:
    """Make the server of the viewer; the first run is read at once, the others when they are chosen.

    Of several runs a first one that cannot be read does not stop the others: the page says what is wrong with it.

    Parameters
    ----------
    paths : iterable of Path
        Folders of runs, folders of such folders, or tables that name them.
    images : pair of Path, optional
        Fixed and moving image of a single run, where they are no longer where its record says.
    labels : pair of LabelImage, optional
        Of the fixed and the moving image of all runs.
    landmarks : pair of PointSet, optional
        Likewise.
    port : int
        Port to listen on, on this machine only; 0 takes a free one.

    Returns
    -------
    ViewerServer
        With its address in ``url``; ``serve()`` answers until it is interrupted.

    Raises
    ------
    FormatError
        If there is no run, the only one cannot be read, or the port is taken.
    GeometryError
        If labels or landmarks do not belong to the images.
    """
    folders = find_runs(Path(path) for path in paths)
    if not folders:
        raise FormatError("the tables name no run: expected folders that regista register wrote")
    if any(images) and len(folders) > 1:
        raise FormatError(
            f"--fixed and --moving belong to a single run, got {len(folders)} (in Python images=): view them one by one"
        )

    def opener(folder: Path) -> Callable[[], ViewerRun]:
        return lambda: ViewerRun(read_run(folder, *images), labels, landmarks)

    loads = {name: opener(folder) for name, folder in zip(short_names(folders), folders, strict=True)}
    try:  # what is wrong with it is told before anything is served
        first = next(iter(loads.values()))()
    except FormatError:
        if len(loads) == 1:
            raise
        first = None
    return ViewerServer(loads, port, opened=first)
