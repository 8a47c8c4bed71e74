"""Plans: the whole configuration of a registration as one frozen value."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar, Literal

from regista.core import PlanError
from regista.preprocessing import Pipeline
from regista.registration._stages import CONFIG, DenseStage, IterativeStage, LinearStage
from regista.similarity import NCC, Similarity


@dataclass(frozen=True, kw_only=True)
class Start:
    """How the first alignment is found when none is given.

    Parameters
    ----------
    search : {'rotations', 'centers', 'none'}
        Try many rotations and translations at low resolution and keep the best; align centres of mass
        only; or trust the headers.
    similarity : Similarity
        Metric of the search.
    candidates : int
        How many of the best starts are refined before one is chosen.
    """

    search: Literal["rotations", "centers", "none"] = "rotations"
    similarity: Similarity = field(default_factory=NCC)
    candidates: int = 12
    __pydantic_config__: ClassVar[dict[str, object]] = CONFIG

    def __post_init__(self) -> None:
        if not 1 <= self.candidates <= 100:
            raise PlanError(f"start.candidates is between 1 and 100, got {self.candidates}")


@dataclass(frozen=True, kw_only=True)
class Plan:
    """Everything `register` needs to know besides the images.

    Parameters
    ----------
    name, description : str
        For people.
    clip_percentiles : tuple of 2 floats
        Intensities are clipped to these percentiles of the foreground and scaled to 0 … 1.
    preprocessing : Pipeline
        Steps both images go through before they are compared (see `regista.preprocessing`); results apply to
        the images as they were.
    start : Start
        How the first alignment is found.
    stages : tuple of LinearStage or DenseStage
        What is optimized, in order.
    wants_masks : bool
        Whether the plan was made for images with masks: a run without them warns.
    mask_margin_mm : float
        Both masks are widened by so much before anything is compared; intensities are still scaled inside them alone.
        The edge of an organ aligns it, and a mask that ends there hides it.
    fixed_surround : 'fill' or 'keep'
        What smoothing sees of the fixed image outside its mask: smooth values grown from inside, or the image itself.
        With 'fill' windows, patches and differences leave out what either mask hides (not in `convex` and `deep`, which see it filled); with 'keep' they reach over it. The
        moving image is always filled.
    halfway : bool
        Whether neither image is the reference: linear maps are estimated both ways and averaged, both images are brought
        to the space halfway between them by the square root of that map, each interpolated once, and the stages that bend
        begin there. Exchanging the images then inverts the map. For dense stages that are symmetric themselves: 'syn', and
        'svf' with ``symmetric = true``.
    slice_thickness : float
        For stacks of few thick slices whose header does not know the thickness (equal spacing along all axes, and one
        axis with less than a quarter of the others' voxels): how many times longer a voxel counts along that axis when
        levels are made and forces are weighed. Where the header knows, or with 1, nothing is changed.

    Examples
    --------
    >>> Plan(stages=(LinearStage(model="rigid"),)).stages[0].shrink
    (4, 2)
    """

    stages: tuple[LinearStage | DenseStage, ...]
    name: str = "custom"
    description: str = ""
    clip_percentiles: tuple[float, float] = (0.1, 99.9)
    preprocessing: Pipeline = field(default_factory=Pipeline)
    start: Start = field(default_factory=Start)
    wants_masks: bool = False
    mask_margin_mm: float = 0.0
    fixed_surround: Literal["fill", "keep"] = "fill"
    halfway: bool = False
    slice_thickness: float = 1.0
    __pydantic_config__: ClassVar[dict[str, object]] = CONFIG

    def __post_init__(self) -> None:
        if not self.stages:
            raise PlanError("a plan needs at least one stage")
        low, high = self.clip_percentiles
        if not 0 <= low < high <= 100:
            raise PlanError(f"clip_percentiles is [low, high] with 0 ≤ low < high ≤ 100, got {[low, high]}")
        if not 0 <= self.mask_margin_mm <= 1000:
            raise PlanError(f"mask_margin_mm is between 0 and 1000 mm, got {self.mask_margin_mm}")
        if self.fixed_surround not in ("fill", "keep"):
            raise PlanError(f"fixed_surround is 'fill' or 'keep', got {self.fixed_surround!r}")
        if not 1 <= self.slice_thickness <= 100:
            raise PlanError(f"slice_thickness is between 1 and 100, got {self.slice_thickness}")
        self._check_halfway()
        deformable = [n for n, s in enumerate(self.stages) if isinstance(s, DenseStage)]
        if deformable and deformable != list(range(deformable[0], len(self.stages))):
            raise PlanError("linear stages come before deformable ones: reorder the plan's stages")
        for number in deformable[1:]:
            stage = self.stages[number]
            if isinstance(stage, IterativeStage) and not stage.solver(0).takes_start:
                raise PlanError(
                    f"stages.{number}: {stage.model!r} cannot start from the map that bends of a deformable stage before "
                    "it: make it the first deformable stage, or take a model that refines one ('diffeomorphic', 'syn', "
                    "'demons', 'bspline' without a penalty on pairs of maps)"
                )

    def _check_halfway(self) -> None:
        if not self.halfway:
            return
        if self.fixed_surround != "fill":
            raise PlanError("halfway = true treats both images alike: it takes fixed_surround = 'fill'")
        if sum(isinstance(stage, DenseStage) for stage in self.stages) > 1:
            raise PlanError(
                "halfway = true takes one stage that bends: a second one would start from one side"
            )
        for number, stage in enumerate(self.stages):
            if isinstance(stage, DenseStage) and not stage.exchangeable:
                raise PlanError(
                    f"stages.{number}: {stage.model!r} treats the fixed image as the reference, and a plan with halfway = true has "
                    "none: take 'syn', or 'svf' with symmetric = true and gradient = 'composition'"
                )
