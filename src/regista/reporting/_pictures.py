"""The pictures of a pair: as it is, before and after, and laid over each other."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import binary_dilation

from regista.core import Grid, Image, LabelImage, PointSet
from regista.evaluation import match_landmarks
from regista.registration import Result
from regista.reporting._colours import (
    EDGE_COLOUR,
    FIXED_COLOUR,
    MOVING_COLOUR,
    RGB,
    Plane,
    diverging,
    gray,
    is_colour,
    luminance,
    two_colours,
    window,
)
from regista.reporting._comparable import content_of, matching_curve, steepness
from regista.reporting._mosaic import mosaic, sample_tiles
from regista.reporting._outlines import (
    draw_landmarks,
    edges,
    haloed,
    inked,
    label_outlines,
    landmark_reach,
    landmarks_near,
)
from regista.reporting._scene import Content
from regista.reporting._slices import Layout
from regista.transforms import Affine, Transform

_CHECKS = 7
_CLEAR = (0, 0, 0, 0)
_STRIPE = 3
"""Width of stripes, pixels."""
_DARK_STRIPES, _LIGHT_STRIPES = (0, 58), (240, 205)
_BORDERS = "borders (gradient magnitude), since the contrasts differ"
_INTENSITIES = "intensities, the moving image's matched to the fixed one's"
_LONGEST_LINES = 16.0
"""Length of all edges of a slice, in lengths of its longer side, at most."""


@dataclass(frozen=True, kw_only=True)
class Pictures:
    """Pictures by name, each of all slices.

    Parameters
    ----------
    plain : dict of str to (H, W, 3) uint8 ndarray
        ``fixed``, ``before``, ``after``, ``checker``, ``blend_before``, ``blend_after``, ``difference_before``,
        ``difference_after``.
    overlays : dict of str to (H, W, 4) uint8 ndarray
        ``edges`` of the fixed image; ``labels`` and ``landmarks`` where given.
    colour : bool
        Whether the images are shown in their own colours.
    notes : list of str
        What a reader must know of them.
    blend : str
        What the two colours show.
    """

    plain: dict[str, RGB]
    overlays: dict[str, RGB] = field(default_factory=dict)
    colour: bool = False
    notes: list[str] = field(default_factory=list)
    blend: str = ""


def shown_channel(image: Image, colour: bool) -> Image:
    """Return what is shown of an image: its colours (without opacity), or the first channel."""
    if image.kind == "scalar":
        return image
    if colour and len(image.data) >= 3:
        return Image(image.data[:3], image.grid, "channels")
    return Image(image.data[0], image.grid)


def draw_pair(
    fixed: Image,
    moving: Image,
    result: Result,
    layout: Layout,
    *,
    start: Transform | None = None,
    labels: tuple[LabelImage, LabelImage] | None = None,
    landmarks: tuple[PointSet, PointSet] | None = None,
    contrasts: bool = False,
) -> Pictures:
    """Draw a pair before and after registration.

    Parameters
    ----------
    fixed, moving : Image
        The pair.
    result : Result
        Its registration; `result.warped` is what is shown as the registered image.
    layout : Layout
        Slices of the fixed image.
    start : Transform, optional
        Where the moving image lies before, if not where its header says: see `aligned_centres`.
    labels, landmarks : tuple of two, optional
        Of the fixed and of the moving image.
    contrasts : bool
        The two show the same by different intensities (see `contrasts_differ`): in two colours only their borders compare.
    """
    colour = is_colour(fixed) and is_colour(moving)
    tiles = {
        "fixed": sample_tiles(shown_channel(fixed, is_colour(fixed)), layout),
        "before": sample_tiles(shown_channel(moving, is_colour(moving)), layout, start),
        # whose type may be another than the moving image's
        "after": sample_tiles(shown_channel(result.warped, is_colour(moving)), layout),
    }
    beyond = {
        "before": _beyond(moving.grid, layout, start),
        "after": _beyond(moving.grid, layout, result.transform),
    }
    planes = _windowed(tiles, beyond)
    shown = tiles if colour else planes
    drawn = {
        name: [_colours(t) if colour else gray(luminance(t)) for t in shown[name]]
        for name in ("fixed", "before", "after")
    }
    for name, masks in beyond.items():
        for picture, mask in zip(drawn[name], masks, strict=True):
            _stripe(picture, mask, _DARK_STRIPES)
    plain = {name: mosaic(layout, pictures) for name, pictures in drawn.items()}
    lines = [_outlines(p) for p in planes["fixed"]]
    contents = {"fixed": content_of(fixed), "moving": content_of(moving)}
    inverted = all(content.dark for content in contents.values())
    if inverted:
        planes = _inverted(planes, beyond)
    if contrasts:
        compared = {"fixed": steepness(planes["fixed"])}
        compared |= {name: steepness(planes[name], beyond[name]) for name in beyond}
    else:
        compared = _matched(planes, tiles, beyond, contents)
    plain |= _combined(planes, compared, beyond, layout, plain, _check_side(lines))
    overlays = {"edges": _over(layout, [haloed(_thick(line), EDGE_COLOUR) for line in lines])}
    notes: list[str] = []
    if inverted:
        notes.append(
            "Two colours and difference: both images are inverted, since their background is bright."
        )
    if any(mask.any() for masks in beyond.values() for mask in masks):
        notes.append("Striped: beyond the moving image's field of view.")
    if labels is not None:
        overlays["labels"] = _draw_labels(labels, result.transform, layout)
    if landmarks is not None:
        overlays["landmarks"], told = _draw_landmarks(landmarks, result.inverse, layout)
        notes += told
    return Pictures(
        plain=plain,
        overlays=overlays,
        colour=colour,
        notes=notes,
        blend=_BORDERS if contrasts else _INTENSITIES,
    )


def _beyond(moving: Grid, layout: Layout, transform: Transform | None) -> list[NDArray[np.bool_]]:
    """Return which pixels of each slice the map leads out of the moving image."""
    found = []
    for tile in layout.tiles:
        places = np.moveaxis(tile.grid.coordinates_mm(), 0, -1).reshape(-1, tile.grid.ndim)
        there = places if transform is None else transform.map_points(places)
        found.append(~np.asarray(tile.plane(moving.contains(there).reshape(tile.grid.shape)), bool))
    return found


def _stripe(picture: RGB, where: NDArray[np.bool_], colours: tuple[int, int]) -> None:
    """Draw oblique stripes where nothing is known: no image looks like that."""
    rows, columns = np.nonzero(where)
    picture[where] = np.where((rows + columns) // _STRIPE % 2 == 0, *colours)[:, None]


def _outlines(plane: Plane) -> NDArray[np.bool_]:
    """Return a picture's edges, so coarse that they are outlines and not a carpet of texture."""
    longest = float(max(plane.shape))
    sigma = max(1.2, longest / 240)
    lines = edges(plane, sigma)
    while lines.sum() > _LONGEST_LINES * longest and sigma < longest / 50:
        sigma *= 1.5
        lines = edges(plane, sigma)
    return lines


def _thick(line: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Return lines that are still seen where a large picture is shown small."""
    wider = max(line.shape) // 450
    return np.asarray(binary_dilation(line, iterations=wider)) if wider else line


def aligned_centres(fixed: Image, moving: Image) -> Transform:
    """Return the shift between the centres of two fields of view, for images whose headers put them far apart."""
    matrix = np.eye(fixed.ndim + 1)
    matrix[:-1, -1] = moving.grid.center_mm - fixed.grid.center_mm
    return Affine(matrix)


def _colours(planes: NDArray[np.generic]) -> RGB:
    if planes.ndim == 2:
        return gray(window(np.asarray(planes, np.float32), 0, 255))
    return np.asarray(np.clip(np.moveaxis(planes, 0, -1), 0, 255).astype(np.uint8))


def _windowed(
    tiles: dict[str, list[NDArray[np.generic]]], beyond: dict[str, list[NDArray[np.bool_]]]
) -> dict[str, list[Plane]]:
    """Return gray planes, 0 … 1: the fixed image by its own range, the moving one by that of before and after."""
    found: dict[str, list[Plane]] = {}
    for group in (("fixed",), ("before", "after")):
        planes = {name: [luminance(t) for t in tiles[name]] for name in group}
        for name in beyond.keys() & planes.keys():  # what is put there is no intensity
            masks = beyond[name]
            planes[name] = [
                np.where(m, np.float32(np.nan), p) for m, p in zip(masks, planes[name], strict=True)
            ]
        values = np.concatenate([p.ravel()[::5] for name in group for p in planes[name]])
        values = values[np.isfinite(values)]
        low, high = np.percentile(values, [0.5, 99.5]) if values.size else (0.0, 1.0)
        found |= {n: [window(p, float(low), float(high)) for p in planes[n]] for n in group}
    return found


def _check_side(lines: Sequence[NDArray[np.bool_]]) -> int:
    """Return the side of a checkerboard's fields, pixels: a part of what is seen, which may be less than the picture."""
    ends = [np.percentile(np.argwhere(line), [1, 99], axis=0) for line in lines if line.any()]
    spans = [int((high - low).max()) + 1 for low, high in ends] or [max(line.shape) for line in lines]
    return max(8, max(spans) // _CHECKS)


def _inverted(
    planes: dict[str, list[Plane]], beyond: dict[str, list[NDArray[np.bool_]]]
) -> dict[str, list[Plane]]:
    """Return negatives: bright things on black, as elsewhere."""
    negatives = {name: [1 - plane for plane in group] for name, group in planes.items()}
    for name, masks in beyond.items():
        for plane, mask in zip(negatives[name], masks, strict=True):
            plane[mask] = 0
    return negatives


def _matched(
    planes: dict[str, list[Plane]],
    tiles: dict[str, list[NDArray[np.generic]]],
    beyond: dict[str, list[NDArray[np.bool_]]],
    contents: dict[str, Content],
) -> dict[str, list[Plane]]:
    """Return the planes, those of the moving image with the histogram of the fixed one where both show something."""
    common = [
        contents["fixed"].of(luminance(f)) & contents["moving"].of(luminance(m)) & ~mask
        for f, m, mask in zip(tiles["fixed"], tiles["after"], beyond["after"], strict=True)
    ]
    curve = matching_curve(planes["fixed"], planes["after"], common)
    return {
        name: group
        if name == "fixed"
        else [np.asarray(np.interp(plane, *curve), np.float32) for plane in group]
        for name, group in planes.items()
    }


def _combined(
    planes: dict[str, list[Plane]],
    compared: dict[str, list[Plane]],
    beyond: dict[str, list[NDArray[np.bool_]]],
    layout: Layout,
    plain: dict[str, RGB],
    side: int,
) -> dict[str, RGB]:
    """Return checkerboard, two-colour overlays and differences."""
    out = {}
    for name, masks in beyond.items():
        pairs = zip(compared["fixed"], compared[name], strict=True)
        out[f"blend_{name}"] = mosaic(layout, [two_colours(f, m) for f, m in pairs])
        # fixed less moving: what is of the fixed image alone is orange, as in two colours
        differences = [diverging(f - m) for f, m in zip(planes["fixed"], planes[name], strict=True)]
        for picture, mask in zip(differences, masks, strict=True):
            _stripe(picture, mask, _LIGHT_STRIPES)
        out[f"difference_{name}"] = mosaic(layout, differences, background=(255,) * 3)
    height, width = plain["fixed"].shape[:2]
    rows, columns = np.indices((height, width))
    even = ((rows // side + columns // side) % 2 == 0)[..., None]
    out["checker"] = np.where(even, plain["fixed"], plain["after"])
    return out


def _over(layout: Layout, pictures: Sequence[RGB]) -> RGB:
    return mosaic(layout, pictures, background=_CLEAR)


def _draw_labels(labels: tuple[LabelImage, LabelImage], transform: Transform, layout: Layout) -> RGB:
    here, there = label_outlines(labels[0], layout), label_outlines(labels[1], layout, transform)
    drawn = []
    for one, other in zip(here, there, strict=True):
        picture = inked(one, FIXED_COLOUR)
        picture[other] = (*MOVING_COLOUR, 255)
        picture[one & other] = (255, 255, 255, 255)
        drawn.append(picture)
    return _over(layout, drawn)


def _draw_landmarks(
    landmarks: tuple[PointSet, PointSet], inverse: Transform, layout: Layout
) -> tuple[RGB, list[str]]:
    one, other = match_landmarks(*landmarks)
    here = PointSet(landmarks[0].points_mm[one])
    found = PointSet(inverse.map_points(landmarks[1].points_mm[other]))
    drawn = []
    near = landmarks_near(here, layout)
    for tile, (which, pixels) in zip(layout.tiles, near, strict=True):
        came = tile.grid.world2index(found.points_mm[which])[:, :2]
        drawn.append(draw_landmarks(tile, pixels, came, (FIXED_COLOUR, MOVING_COLOUR)))
    shown = len(np.unique(np.concatenate([which for which, _ in near])))
    notes = []
    if shown < len(one):
        notes.append(
            f"{shown} of {len(one)} landmarks are shown: those within {landmark_reach(layout):.1f} mm of a slice."
        )
    return _over(layout, drawn), notes
