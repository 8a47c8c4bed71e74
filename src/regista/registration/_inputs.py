"""From images to scans: checks at the public edge, intensity scaling, memory foresight."""

from __future__ import annotations

from dataclasses import replace
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from regista.core import GeometryError, Grid, Image, PlanError, RegistrationError
from regista.core.memory import available_bytes
from regista.kernels.cpu.warp import warp
from regista.kernels.cpu.widening import widened
from regista.preprocessing import Reorient, unit_range
from regista.registration._channels import metric_volumes
from regista.registration._levels import Scan, content_box
from regista.registration._plan import Plan
from regista.registration._stages import ConvexStage, DenseStage, IterativeStage
from regista.regularization import DeformationPrior, LocalRigidity, load_deformation_model
from regista.transforms import DisplacementField, VelocityField

_ROUNDING = 1e-5
"""How far weights may lie outside 0 … 1, where files hold them as scaled whole numbers."""
_BYTES_PER_VOXEL = 4 * 17  # field, two work fields, metric buffers and images at full resolution
_OUTPUT_BYTES_PER_VOXEL = 4 * 18  # fields both ways, in mm and in voxels, on the whole fixed grid


def check_pair(fixed: Image, moving: Image, non_finite: str) -> None:
    """Refuse what cannot be registered, saying why."""
    if non_finite not in ("error", "mask"):
        raise PlanError(f"non_finite is 'error' or 'mask', got {non_finite!r}")
    for role, image in (("fixed", fixed), ("moving", moving)):
        if not isinstance(image, Image):
            raise GeometryError(
                f"the {role} image must be a regista.Image (see regista.read), got {type(image)}"
            )
        if image.kind == "series":
            raise GeometryError(
                f"the {role} image is a series of {len(image.data)} frames; register one of them "
                "(in Python image.frames()[n])"
            )
    if fixed.ndim != moving.ndim:
        raise GeometryError(
            f"the fixed image is {fixed.ndim}-D and the moving image is {moving.ndim}-D; both must have the "
            "same number of spatial axes (take a slice of the volume, or stack the slices)"
        )


def check_mask(mask: Image, image: Image, role: str, owner: str = "its image", graded: bool = True) -> Image:
    """Return a mask on the grid of its image; with `graded`, fractions in it must be weights (see `weights_of`)."""
    if mask.ndim != image.ndim or mask.kind != "scalar":
        raise GeometryError(
            f"the {role} mask must be a {image.ndim}-D image of one value per voxel, as {owner} is, got a "
            f"{mask.ndim}-D {mask.kind} image"
        )
    if not mask.grid.same_as(image.grid):
        raise GeometryError(
            f"the {role} mask lies on another grid ({mask.grid.describe()}) than {owner} "
            f"({image.grid.describe()}); resample it first: regista apply MASK --like IMAGE -o OUT --labels"
        )
    if not np.any(mask.as_float32() > 0):
        raise GeometryError(
            f"the {role} mask{f' {mask.space!r}' if mask.space else ''} is empty: no voxel is above 0; give one that is above 0 "
            "where images shall be compared, or leave it out"
        )
    if graded:
        weights_of(mask, role)  # says what is wrong, before anything runs
    return mask


def check_region(region: Image | None, fixed: Image, plan: Plan) -> Image | None:
    """Return where regional penalties hold, on the grid of the fixed image; refuse a plan that lacks it."""
    wanting = [
        f"{stage.model}: {one.name}"
        for stage in plan.stages
        if isinstance(stage, IterativeStage)
        for one in stage.penalties
        if isinstance(one, LocalRigidity)
    ]
    if region is None and wanting:
        raise PlanError(
            f"the plan's {wanting[0]} needs to know what is rigid: give --penalty-mask FILE (in Python region=), an "
            "image on the fixed grid that is above 0 there"
        )
    return None if region is None else check_mask(region, fixed, "penalty", "the fixed image", graded=False)


def check_priors(plan: Plan, ndim: int) -> None:
    """Refuse a plan whose learned deformations cannot be read, or are not of the images' dimension."""
    for number, stage in enumerate(plan.stages):
        for one in stage.penalties if isinstance(stage, IterativeStage) else ():
            if not isinstance(one, DeformationPrior):
                continue
            model = load_deformation_model(one.model) if isinstance(one.model, str) else one.model
            if model.grid.ndim != ndim:
                raise PlanError(
                    f"stages.{number}: the {one.name} was learned from {model.grid.ndim}-D fields and the images are "
                    f"{ndim}-D; give one learned from {ndim}-D fields, or leave the penalty out"
                )


def canonical(image: Image, mask: Image | None) -> tuple[Image, Image | None]:
    """Return image and mask with their array axes as near to R, A, S as they can be.

    How a scan happens to be stored must not change what is found: not even in the last bits, from which a
    long optimization would drift apart.
    """
    done = Reorient(orientation="RAS"[: image.ndim]).apply(image, mask)
    return done.image, done.mask


Dense = TypeVar("Dense", DisplacementField, VelocityField)


def reordered(field: Dense, like: Grid) -> Dense:
    """Return a field with its array axes ordered as those of another grid, or on that grid if it is the same."""
    vectors = Image(field.vectors_mm, field.grid, "channels")
    turned = Reorient(orientation=like.orientation).apply(vectors).image
    grid = like if turned.grid.same_as(like) else turned.grid
    return replace(field, vectors_mm=turned.as_float32(), grid=grid)


def embedded(grid: Grid) -> Grid:
    """Return the 3-D grid a grid is worked on: a 2-D one as ``(I, 1, J)``, so that kernels have rows to walk along."""
    if grid.ndim == 3:
        return grid
    return Grid((grid.shape[0], 1, grid.shape[1]), grid.as_3d().grid2world[:, [0, 2, 1, 3]])


def plane(grid: Grid) -> Grid:
    """Return the 2-D grid that was `embedded`."""
    return Grid((grid.shape[0], grid.shape[2]), grid.grid2world[np.ix_([0, 1, 3], [0, 2, 3])])


def masks_warning(plan: Plan, fixed_mask: Image | None, moving_mask: Image | None) -> list[str]:
    """Return what to say where a plan wants masks and they are not all there."""
    absent = [role for role, mask in (("fixed", fixed_mask), ("moving", moving_mask)) if mask is None]
    if not plan.wants_masks or not absent:
        return []
    missing = "neither image has one" if len(absent) == 2 else f"the {absent[0]} image has none"
    options = " and ".join(f"--{role}-mask" for role in absent)
    names = ", ".join(f"{role}_mask=" for role in absent)
    return [
        f"the plan {plan.name!r} wants masks of both images, and {missing}: give {options} (in Python {names})"
    ]


def unused_warnings(plan: Plan) -> list[str]:
    """Return what to say where a plan sets what has no effect in the stage it is set for, or a stage has no effect."""
    still = [
        f"stages.{number} ({stage.model}) does nothing: it has no step on any level (steps = {list(stage.steps)})"
        for number, stage in enumerate(plan.stages)
        if not any(stage.steps)
    ]
    return still + [
        f"stages.{number} ({stage.model}): {name} has no effect, as {why}"
        for number, stage in enumerate(plan.stages)
        if isinstance(stage, IterativeStage)
        for name, why in stage.unused().items()
    ]


def guides_warning(plan: Plan) -> list[str]:
    """Refuse guides where a stage cannot follow them, and return what to say where one leaves them aside."""
    for stage in plan.stages:
        if isinstance(stage, IterativeStage) and stage.forces_are_steps:
            raise PlanError(
                f"{stage.model}: demons' forces are steps, to which no guide can be added; take another model or metric "
                "(preset 'deformable'), or leave the guides out"
            )
        if isinstance(stage, IterativeStage) and stage.looks_at_samples:
            raise PlanError(
                f"{stage.model}: optimizer = 'asgd' looks at some voxels at a time, and guides need the whole map; take "
                "optimizer = 'lbfgs', or leave the guides out"
            )
    aside = [stage.model for stage in plan.stages if isinstance(stage, ConvexStage)]
    if len(aside) == len(plan.stages):
        raise PlanError(
            f"the plan {plan.name!r} has no stage that can follow guides: 'convex' compares images alone"
        )
    return ["the stage 'convex' compares images alone; the other stages follow the guides"] if aside else []


class ConstantImageError(GeometryError):
    """An image, or what its mask leaves of it, has one value only."""


def prepare(
    image: Image, mask: Image | None, plan: Plan, role: str, non_finite: str, average: bool = False
) -> Scan:
    """Return a scan: every channel clipped and scaled to 0 … 1, bad voxels weighted 0.

    With `average`, channels are averaged to one first. A voxel that is bad in one channel is so in all, and a channel
    that is constant, where others are not, becomes 0.
    """
    data = image.as_float32()
    if average and image.kind == "channels":
        data = data.mean(axis=0)
    channels = data if image.kind == "channels" and not average else data[None]
    finite: NDArray[np.bool_] = np.isfinite(channels[0])
    for channel in channels[1:]:
        finite &= np.isfinite(channel)
    bad = int(finite.size - np.count_nonzero(finite))
    if bad and non_finite == "error":
        raise GeometryError(
            f"the {role} image has {bad} NaN or Inf voxels ({100 * bad / finite.size:.3g} %); clean it, or treat "
            "them as masked out: --non-finite mask (in Python non_finite='mask')"
        )
    weights = None if mask is None else weights_of(mask, role)
    use = finite if weights is None else finite & (weights > 0)
    numbers = finite if bad else None
    scaled = [
        unit_range(channel, plan.clip_percentiles, use, masked=mask is not None, finite=numbers)
        for channel in channels
    ]
    if all(one is None for one in scaled):
        raise ConstantImageError(
            f"the {role} image is constant{' inside its mask' if mask is not None else ''}: "
            "there is nothing to align"
        )
    weight: NDArray[np.float32] | None = None
    if weights is not None or bad:
        weight = finite.astype(np.float32)
        weight *= 1 if weights is None else _widened(weights, image.grid, plan.mask_margin_mm)
    grid = embedded(image.grid)
    shape = grid.shape
    voxels = [
        np.zeros(shape, np.float32) if one is None else np.ascontiguousarray(one.reshape(shape), np.float32)
        for one in scaled
    ]
    if bad:  # a hole must not look like an edge
        known = finite.reshape(shape).astype(np.float32)
        voxels = [Scan(one, grid, known).filled().data for one in voxels]
    weight = None if weight is None else np.ascontiguousarray(weight.reshape(shape))
    thickness = thickness_of(grid, plan.slice_thickness)
    return Scan(voxels[0], grid, weight, others=tuple(voxels[1:]), thickness=thickness)


def weights_of(mask: Image, role: str) -> NDArray[np.float32]:
    """Return a mask as weights 0 … 1.

    A mask of whole numbers, labels among them, is 1 wherever it is above 0. Any fraction in it makes it weights, of
    which the largest counts as 1.

    Raises
    ------
    GeometryError
        If a value is NaN or infinite, or there are fractions and values outside 0 … 1.
    """
    values = mask.as_float32()
    bad = int(np.count_nonzero(~np.isfinite(values)))
    if bad:
        raise GeometryError(
            f"the {role} mask has {bad} NaN or Inf voxels; a mask is 0 where voxels are left out, and above 0 or a weight "
            "from 0 to 1 elsewhere: write 0 there"
        )
    if np.array_equal(values, np.rint(values)):
        return (values > 0).astype(np.float32)
    low, high = float(values.min()), float(values.max())
    if low < -_ROUNDING or high > 1 + _ROUNDING:
        raise GeometryError(
            f"the {role} mask has fractions, which are weights from 0 to 1, and its values go from {low:.4g} to {high:.4g}; "
            "divide them by the largest, or make a mask of whole numbers, above 0 where voxels are compared"
        )
    return np.asarray(np.maximum(values, 0) / np.float32(high), np.float32)


def _widened(weights: NDArray[np.float32], grid: Grid, margin_mm: float) -> NDArray[np.float32]:
    """Return weights with those voxels, too, whose centre lies within a margin of one's, as the nearest one counts."""
    if margin_mm == 0:
        return weights
    out = np.zeros_like(weights)
    if not weights.any():
        return out
    place = embedded(grid)
    volume, whole = weights.reshape(place.shape), out.reshape(place.shape)
    reach = np.ceil(margin_mm / np.asarray(place.spacing)).astype(int)
    used = [np.flatnonzero(volume.any(axis=tuple(a for a in range(3) if a != axis))) for axis in range(3)]
    near = tuple(slice(max(one[0] - n, 0), one[-1] + n + 1) for one, n in zip(used, reach, strict=True))
    whole[near] = widened(volume[near], place.spacing, margin_mm)
    return out


def hide(fixed: Scan, moving: Scan, plan: Plan) -> tuple[Scan, Scan]:
    """Return both scans with what has no weight hidden from smoothing, gradients, windows and patches.

    A plan may keep what surrounds the fixed image's mask; then windows reach over what either image hides.
    """
    if plan.fixed_surround == "keep":
        return fixed, moving.filled()
    if fixed.weight is None and moving.weight is None:
        return fixed, moving
    return replace(fixed.filled(), hides=True), replace(moving.filled(), hides=True)


def thickness_of(grid: Grid, factor: float) -> tuple[float, float, float]:
    """Return how many times longer a voxel counts along each axis: `factor` across slices of unknown thickness."""
    shape, spacing = np.array(grid.shape), grid.spacing
    thin = int(shape.argmin())
    few = shape[thin] > 1 and 4 * shape[thin] < np.delete(shape, thin).min()
    if not few or not np.allclose(spacing, spacing[0], rtol=1e-3):
        return (1.0, 1.0, 1.0)
    first, second, third = (float(factor) if axis == thin else 1.0 for axis in range(3))
    return first, second, third


def region_on(region: Image, grid: Grid) -> NDArray[np.float32]:
    """Return a region as weights 0 … 1 on the grid a scan is worked on, which preprocessing may have changed."""
    image = canonical(region, None)[0]
    own = embedded(image.grid)
    inside = np.ascontiguousarray((image.as_float32() > 0).reshape(own.shape), np.float32)
    if own.same_as(grid):
        return inside
    return np.asarray(warp(inside, (own.world2grid @ grid.grid2world)[:3], shape=grid.shape))


def check_memory(
    fixed: Scan, moving: Scan, plan: Plan, guides: int = 0, middle: tuple[int, ...] | None = None
) -> int:
    """Return the predicted peak in bytes, with a number of guides; refuse what will not fit.

    Where the run is on a lattice of its own, `middle`, both images lie on that besides.
    """
    start, stop = content_box(fixed) if middle is None else (np.zeros(3, int), np.array(middle))

    def voxels_at(shrink: int) -> int:
        return int(np.prod((stop - start) / np.array(fixed.shrink_factors(shrink * fixed.finest_mm))))

    voxels = voxels_at(min((s.shrink[-1] for s in plan.stages if isinstance(s, DenseStage)), default=2))
    count = len(fixed.channels)
    metric = max(4 * metric_volumes(s, count) * voxels_at(s.shrink[-1]) for s in plan.stages)
    deformable = any(isinstance(s, DenseStage) for s in plan.stages)
    outputs = _OUTPUT_BYTES_PER_VOXEL * fixed.data.size + 12 * voxels if deformable else 0
    images = 4 * (6 * fixed.data.size * count + 3 * moving.data.size * len(moving.channels))
    # guides: gradients of both halves of a map and labels; these lie on all voxels, not on the content alone
    guided = 4 * (6 + 4 * guides) * fixed.data.size if guides else 0
    if middle is not None:
        images += 4 * 9 * int(np.prod(middle)) * count
    need = max(voxels * _BYTES_PER_VOXEL + metric, outputs) + images + guided + 250_000_000
    have = available_bytes()
    if have is not None and need > have:
        raise RegistrationError(
            f"this run needs about {need / 1e9:.1f} GB of memory and {have / 1e9:.1f} GB are free; resample the "
            "images, crop them, or end the plan at a coarser level (--set stages.diffeomorphic.shrink=[8,4,2])"
        )
    return need


def overlap_warning(fixed: Image, moving: Image) -> str | None:
    """Say so when the two images do not overlap in world space."""
    here = moving.grid.contains(fixed.grid.index2world(_lattice(fixed.grid.shape)))
    there = fixed.grid.contains(moving.grid.index2world(_lattice(moving.grid.shape)))
    if here.any() or there.any():
        return None
    return "the images do not overlap in world space: their headers' positions were ignored by the search"


def _lattice(shape: tuple[int, ...]) -> NDArray[np.float64]:
    axes = [np.linspace(-0.5, n - 0.5, 9) for n in shape]
    return np.stack(np.meshgrid(*axes, indexing="ij"), axis=-1).reshape(-1, len(shape))
