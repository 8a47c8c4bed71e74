"""`regista.view`: a run in a notebook, drawn by ipyniivue."""

from __future__ import annotations

import html
import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from regista.core import GeometryError, Image, LabelImage, PlanError, PointSet
from regista.io import read
from regista.registration import Result
from regista.reporting._colours import EDGE_COLOUR, FIXED_COLOUR, MOVING_COLOUR
from regista.reporting._folder import RunFolder, read_run
from regista.reporting._viewer_run import ViewerRun
from regista.reporting._viewer_volumes import palette

Source = Image | str | os.PathLike[str]
OVER = {
    "Warped": "warped",
    "Checkerboard": "checker",
    "Moving, as stored": "before",
    "Displacement, mm": "displacement",
    "Nothing": "",
}
"""What may lie over the fixed image, by the words of the menu."""
LABELS = {"None": "", "Of the fixed image": "labels-fixed", "Of the moving image, warped": "labels-moved"}
_CROSSHAIR = tuple(channel / 255 for channel in MOVING_COLOUR)


def view(
    run: Result | RunFolder | str | os.PathLike[str],
    fixed: Source | None = None,
    moving: Source | None = None,
    *,
    labels: tuple[LabelImage, LabelImage] | None = None,
    landmarks: tuple[PointSet, PointSet] | None = None,
    height: int = 420,
) -> NotebookViewer:
    """Show a registration in a notebook: the volumes of ``regista view``, crosshairs linked through the map.

    Needs the extra ``notebook`` (ipyniivue), and a notebook that shows Jupyter widgets. Outside of one, use
    ``regista view`` or `regista.reporting.open_viewer`.

    Parameters
    ----------
    run : Result or path
        What `regista.register` returned, or the folder that ``regista register -o`` wrote.
    fixed, moving : Image or path, optional
        The pair, where a result does not carry it (one that `regista.register` returns does); with a folder the files,
        where they have moved since.
    labels : pair of LabelImage, optional
        Of the fixed and of the moving image.
    landmarks : pair of PointSet, optional
        Likewise; they correspond by name where they have names, else by order.
    height : int
        Of the pictures, pixels.

    Returns
    -------
    NotebookViewer
        The last value of a cell is shown; elsewhere give it to ``IPython.display.display``.

    Raises
    ------
    PlanError
        If ipyniivue is not installed, or the pair is not known.
    FormatError
        If the folder cannot be read.
    GeometryError
        If images, labels and landmarks do not fit together.

    Examples
    --------
    >>> result = regista.register(fixed, moving, "affine")  # doctest: +SKIP
    >>> regista.view(result)  # doctest: +SKIP
    """
    _check_extra()
    return NotebookViewer(ViewerRun(_folder(run, fixed, moving), labels, landmarks), height)


def _check_extra() -> None:
    try:
        import ipyniivue  # noqa: F401
    except ModuleNotFoundError as error:
        raise PlanError(
            f"viewing in a notebook needs {error.name}, which is not installed: pip install 'regista[notebook]', or "
            "use `regista view DIR`, which needs nothing"
        ) from None


def _folder(
    run: Result | RunFolder | str | os.PathLike[str], fixed: Source | None, moving: Source | None
) -> RunFolder:
    """Return a run with its pair."""
    known: tuple[Image | None, Image | None] = (None, None)
    if isinstance(run, Result):
        result, known = run, run.pair or known
    elif isinstance(run, RunFolder):
        result, known = run.result, (run.fixed, run.moving)
    else:  # images in memory take the place of those the record names, which are read all the same
        first, second = (None if g is None or isinstance(g, Image) else Path(g) for g in (fixed, moving))
        there = read_run(Path(run), first, second)
        result, known = there.result, (there.fixed, there.moving)
        fixed, moving = (given if isinstance(given, Image) else None for given in (fixed, moving))
    here, away = (_image(given, image) for given, image in zip((fixed, moving), known, strict=True))
    if here is None or away is None:
        raise PlanError(
            "the result does not carry the images it came from: give them, regista.view(result, fixed, moving)"
        )
    if not here.grid.same_as(result.warped.grid, 1e-2):
        raise GeometryError(
            f"the warped image lies on another grid ({result.warped.grid.describe()}) than the fixed image "
            f"({here.grid.describe()}): give the fixed image that was registered"
        )
    return RunFolder(path=Path(), fixed=here, moving=away, result=result)


def _image(given: Source | None, known: Image | None) -> Image | None:
    return known if given is None else given if isinstance(given, Image) else read(given)


class NotebookViewer:
    """A run in a notebook; made by `regista.view`.

    Parameters
    ----------
    run : ViewerRun
        What is shown.
    height : int
        Of the pictures, pixels.

    Attributes
    ----------
    box : ipywidgets.VBox
        Everything: controls, pictures, read-out.
    fixed, moving : ipyniivue.NiiVue
        The fixed image with what lies over it, and the moving image on its own grid.
    controls : dict of str to ipywidgets.Widget
        ``over``, ``opacity``, ``hide``, ``grid``, and where given ``labels``, ``outline``, ``landmarks``: set their
        ``value`` to set the view.
    read_out : ipywidgets.HTML
        What the map does at the crosshair.
    """

    def __init__(self, run: ViewerRun, height: int) -> None:
        import ipywidgets

        self.run = run
        self.about = run.details()
        self.fixed, self.moving = (_Pane(self.about, role, height) for role in ("fixed", "moving"))
        self.fixed.show("fixed", run.volume("fixed"), colormap="gray")
        self.moving.show("moving", run.volume("moving"), colormap="gray")
        self.controls = _controls(self.about)
        self.read_out = ipywidgets.HTML("<p>Click in an image.</p>")
        self.box = _box(self)
        self.fixed.when_ready(self._draw)
        for control in self.controls.values():
            control.observe(lambda _: self._draw(), names="value")
        self.fixed.nv.on_location_change(lambda place: self.go_to(place["mm"], "fixed"))
        self.moving.nv.on_location_change(lambda place: self.go_to(place["mm"], "moving"))

    def _repr_mimebundle_(self, **options: Any) -> Any:
        return self.box._repr_mimebundle_(**options)

    def go_to(self, point_mm: Sequence[float], space: str = "fixed") -> None:
        """Move the crosshairs to a place of one image, and to where the map leads in the other.

        Parameters
        ----------
        point_mm : sequence of float
            World position, RAS+ mm.
        space : {'fixed', 'moving'}
            Which image it is of.
        """
        place = [*map(float, point_mm)][:3]
        if (self.fixed if space == "fixed" else self.moving).is_at(place):
            return  # the echo of our own move
        found = self.run.at(place, space)
        self.fixed.move_to(found["fixed_mm"])
        self.moving.move_to(found["moving_mm"])
        self.read_out.value = _table(found, self.about)

    def _draw(self) -> None:
        """Bring the pictures to what the controls say."""
        if not self.fixed.ready:
            return
        chosen = {name: control.value for name, control in self.controls.items()}
        name = OVER[chosen["over"]]
        if name == "checker":
            name = f"checker-{self.about['block_mm']:g}"
        wanted: dict[str, float] = {"fixed": 1.0}
        if name and not chosen["hide"]:
            wanted[name] = 1.0 if name.startswith("checker") else chosen["opacity"] / 100
        for_labels = LABELS[chosen.get("labels", "None")]
        if for_labels:
            wanted[for_labels] = 0.01 if chosen["outline"] else 0.5
        for volume in wanted:
            if volume not in self.fixed.volumes:
                colormap = "viridis" if volume == "displacement" else "opaque"
                table = palette() if volume in LABELS.values() else None
                self.fixed.show(volume, self.run.volume(volume), colormap=colormap, table=table)
        self.fixed.set_opacities(wanted)
        self.fixed.set_outline(chosen.get("outline", False))
        self._mark("grid", chosen["grid"])
        self._mark("landmarks", chosen.get("landmarks", False))

    def _mark(self, name: str, wanted: bool) -> None:
        if wanted and name not in self.fixed.marks:
            about = self.about
            if name == "grid":
                self.fixed.mark(name, "grid.tck", self.run.grid_lines())
            else:
                size = max(1.2 * about["spacing_mm"], about["line_mm"] / 8)
                self.fixed.mark(name, "landmarks.jcon", _connectome(self.run.landmark_pairs(), size))
        if name in self.fixed.marks:
            self.fixed.marks[name].visible = wanted


class _Pane:
    """One canvas: a base volume, what lies over it, and marks, each sent when it is first wanted."""

    def __init__(self, about: dict[str, Any], role: str, height: int) -> None:
        from ipyniivue import NiiVue, ShowRender, SliceType

        flat = about["ndim"] == 2
        self.nv = NiiVue(
            height=height,
            back_color=(0.0, 0.0, 0.0, 1.0),
            crosshair_color=(*_CROSSHAIR, 1.0),
            font_color=(0.85, 0.85, 0.85, 1.0),
            crosshair_width=0.7,  # lines thinner than a pixel fall between pixels
            crosshair_width_unit="percent",
            crosshair_gap=4.0,
            is_radiological_convention=True,
            is_orientation_text_visible=about["letters"][role],
            multiplanar_show_render=ShowRender.NEVER,
            multiplanar_pad_pixels=4,
            slice_type=SliceType.AXIAL if flat else SliceType.MULTIPLANAR,
            mesh_thickness_on_2d=1e9 if flat else max(about["line_mm"] / 2, about["spacing_mm"]),
            drag_and_drop_enabled=False,
            show_legend=False,
            log_level="error",
            loading_text="",
        )
        self.volumes: dict[str, Any] = {}
        self.marks: dict[str, Any] = {}
        self._at: list[float] | None = None

    @property
    def ready(self) -> bool:
        """Tell whether the browser has loaded the base volume."""
        return bool(self.volumes) and next(iter(self.volumes.values())).frac2mm is not None

    def when_ready(self, act: Any) -> None:
        """Call once the browser has loaded the base volume: before it, colours of our own would get lost."""

        def loaded(_: Any) -> None:
            for name, table in _colormaps().items():
                self.nv.add_colormap(name, table)
            if self._at is not None:
                self.move_to(self._at)
            act()

        next(iter(self.volumes.values())).observe(loaded, names="frac2mm")

    def show(self, name: str, data: bytes, *, colormap: str, table: list[list[int]] | None = None) -> None:
        """Add a volume over those that are there; labels stay on top."""
        from ipyniivue import Volume

        volume = Volume(data=data, name=f"{name}.nii", colormap=colormap, colorbar_visible=False)
        if table is not None:
            red, green, blue = ([colour[n] for colour in table] for n in range(3))
            index = list(range(len(table)))
            volume.set_colormap_label(
                {"R": red, "G": green, "B": blue, "A": [0] + [255] * (len(table) - 1), "I": index}
            )
        self.volumes[name] = volume
        self.nv.volumes = [
            self.volumes[key] for key in sorted(self.volumes, key=lambda key: key in LABELS.values())
        ]

    def set_opacities(self, wanted: dict[str, float]) -> None:
        """Show volumes by their opacity, and hide all others."""
        for name, volume in self.volumes.items():
            volume.opacity = float(wanted.get(name, 0.0))

    def set_outline(self, wanted: bool) -> None:
        """Draw labels as outlines, or filled; ipyniivue has those of the volume alone, not of the slice."""
        if self.nv.opts.atlas_outline != float(wanted):
            self.nv.opts.atlas_outline = float(wanted)

    def mark(self, name: str, file: str, data: bytes) -> None:
        """Add lines or dots in world mm."""
        from ipyniivue import Mesh

        mesh = Mesh(data=data, name=file, rgba255=[*EDGE_COLOUR, 255])
        mesh.fiber_color = "Fixed"
        self.marks[name] = mesh
        self.nv.meshes = [*self.nv.meshes, mesh]

    def is_at(self, point_mm: Sequence[float]) -> bool:
        """Tell whether the crosshair was moved to a place by `move_to`."""
        return self._at is not None and bool(np.allclose(point_mm, self._at, atol=1e-2))

    def move_to(self, point_mm: Sequence[float]) -> None:
        """Move the crosshair to a place in world mm, once there is something to move it in."""
        self._at = [*map(float, point_mm)]
        if self.ready:
            matrix = np.asarray(next(iter(self.volumes.values())).frac2mm, np.float64).T
            self.nv.scene.crosshair_pos = np.linalg.solve(matrix, [*self._at, 1.0])[:3].tolist()


def _colormaps() -> dict[str, dict[str, list[int]]]:
    """Return colours that NiiVue does not have: grays through which nothing shines, and those of landmarks."""

    def flat(colour: Sequence[int]) -> dict[str, list[int]]:
        red, green, blue = colour
        return {"R": [red] * 2, "G": [green] * 2, "B": [blue] * 2, "A": [255] * 2, "I": [0, 255]}

    ramp = [0, 255]
    opaque = {"R": ramp, "G": ramp, "B": ramp, "A": [255, 255], "I": ramp}
    return {"opaque": opaque, "landmarks": flat(MOVING_COLOUR), "landmarks-fixed": flat(FIXED_COLOUR)}


def _connectome(pairs: list[dict[str, Any]], size: float) -> bytes:
    """Return landmarks as a NiiVue connectome: fixed ones orange, moving ones brought over blue, a line between."""
    nodes = [
        {"name": "", **dict(zip("xyz", pair[key], strict=True)), "colorValue": colour, "sizeValue": 1}
        for pair in pairs
        for key, colour in (("fixed_mm", -1), ("moved_mm", 1))
    ]
    tree = {
        "name": "landmarks",
        "nodeColormap": "landmarks",
        "nodeColormapNegative": "landmarks-fixed",
        "nodeMinColor": 0.1,
        "nodeMaxColor": 1,
        "nodeScale": size,
        "edgeColormap": "landmarks",
        "edgeColormapNegative": "landmarks",
        "edgeMin": 0.1,
        "edgeMax": 1,
        "edgeScale": size / 4,
        "legendLineThickness": 0,
        "showLegend": False,
        "nodes": nodes,
        "edges": [{"first": 2 * n, "second": 2 * n + 1, "colorValue": 1} for n in range(len(pairs))],
    }
    return json.dumps(tree).encode("utf-8")


def _controls(about: dict[str, Any]) -> dict[str, Any]:
    import ipywidgets

    found = {
        "over": ipywidgets.Dropdown(options=list(OVER), value="Warped", description="Over fixed"),
        "opacity": ipywidgets.IntSlider(50, 0, 100, 5, description="Opacity, %"),
        "hide": ipywidgets.ToggleButton(False, description="Hide overlay"),
        "grid": ipywidgets.Checkbox(False, description="Deformation grid", indent=False),
    }
    if about["labels"]:
        found["labels"] = ipywidgets.Dropdown(options=list(LABELS), value="None", description="Labels")
        found["outline"] = ipywidgets.Checkbox(False, description="Outlines only", indent=False)
    if about["landmarks"]:
        found["landmarks"] = ipywidgets.Checkbox(False, description="Landmarks", indent=False)
    return found


def _box(viewer: NotebookViewer) -> Any:
    """Lay everything out."""
    import ipywidgets

    about = viewer.about
    names = f"{html.escape(about['moving'])} → {html.escape(about['fixed'])}"
    heading = f"<b>{names}</b>: {html.escape(about['outcome'] or about['status'])}"
    notes = "".join(f"<li>{html.escape(text)}</li>" for text in (*about["reasons"], *about["notes"]))

    def figure(pane: _Pane, words: str, share: str) -> Any:
        return ipywidgets.VBox(
            [ipywidgets.HTML(words), pane.nv], layout=ipywidgets.Layout(flex=share, min_width="0")
        )

    row = ipywidgets.Layout(flex_flow="row wrap", align_items="center")
    return ipywidgets.VBox(
        [
            ipywidgets.HTML(heading + (f"<ul>{notes}</ul>" if notes else "")),
            ipywidgets.Box(list(viewer.controls.values()), layout=row),
            ipywidgets.HBox(
                [
                    figure(viewer.fixed, "Fixed, and what lies over it", "2 1 0"),
                    figure(viewer.moving, "Moving, on its own grid", "1 1 0"),
                ]
            ),
            viewer.read_out,
        ]
    )


def _table(found: dict[str, Any], about: dict[str, Any]) -> str:
    """Return the read-out of a place as HTML."""

    def few(value: Any, digits: int = 2) -> str:
        if isinstance(value, list):
            return ", ".join(few(each, digits) for each in value)
        return "–" if value is None else f"{value:.{digits}f}"

    ndim, unit, world = about["ndim"], about["unit"], about["world"]
    rows = [
        (f"Displacement, {unit}", few(found["length_mm"])),
        ("along x, y, z" if ndim == 3 else "along x, y", few(found["displacement_mm"])),
        (f"Fixed, {world}", few(found["fixed_mm"][:ndim])),
        (f"Moving, {world}", few(found["moving_mm"][:ndim])),
        ("Volume change", f"× {few(found['jacobian'], 3)}"),
        (f"Inverse misses, {unit}", few(found["inverse_error_mm"], 3)),
        ("Value, fixed", few(found["fixed_value"], 1)),
        ("Value, moving", few(found["moving_value"], 1)),
    ]
    if about["labels"]:
        for role in ("fixed", "moving"):
            label = found[f"{role}_label"]
            rows.append((f"Label, {role}", f"{label['value']} {label['name']}".strip() if label else "–"))
    cells = "".join(
        f'<tr><th scope="row" style="text-align: left; padding-right: 1em">{name}</th><td>{html.escape(value)}</td></tr>'
        for name, value in rows
    )
    return f"<table>{cells}</table>"
