"""A trained network as a metric."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, ClassVar, Literal

import numpy as np

from regista.core import PlanError
from regista.similarity._base import Prepared, Volume
from regista.similarity._deep_model import MetricModel, load_metric_model, patch_network

_RADIUS = 8
"""Half a patch, voxels; `regista.similarity._deep_network`, which knows its size, needs PyTorch."""


@dataclass(frozen=True, kw_only=True)
class DeepMetric:
    """Score of aligned patches by a trained network, ``D = −Σ_P w_P N(F(P), W(P)) / Σ w_P`` (Simonovsky 2016).

    A network compares patches of 17 voxels a side, whose centres form a lattice over the whole image, in one pass. Its
    score is near 1 where patches were taken from the same place of both contrasts and near −1 where not, so that D lies
    about −1 … 1; where the model has a network for each contrast, the score is the cosine between their features. Patches in
    which the fixed image is constant are left out, and those whose centre has weight 0; the patches of its neighbours reach
    over it. Beyond the border both images continue with their last voxel.

    The metric needs PyTorch (``pip install 'regista[learn]'``).

    Parameters
    ----------
    model : str
        Name of a model that ships with the package, or the folder of a trained one.
    stride : {1, 2}
        Distance of patch centres, voxels of the level. With 1 every patch counts, at eight times the cost in 3-D.
    fixed : {'first', 'second'}
        Which of the contrasts that the model was trained on the fixed image shows.
    device : {'auto', 'cpu', 'cuda'}
        Where the network runs; 'auto' takes a graphics card where there is one.

    Examples
    --------
    >>> DeepMetric(model="brain-t1-t2").exchanged().fixed
    'second'
    """

    model: str
    stride: Literal[1, 2] = 2
    fixed: Literal["first", "second"] = "first"
    device: Literal["auto", "cpu", "cuda"] = "auto"
    name: ClassVar[str] = "deep"
    option: ClassVar[str] = "model"
    """The setting that a plan may give alone: ``{deep = "NAME"}``."""
    __pydantic_config__: ClassVar[dict[str, str]] = {"extra": "forbid"}

    def __post_init__(self) -> None:
        if not isinstance(self.model, str) or not self.model.strip():
            raise PlanError(f"deep model is the name of a model or its folder, got {self.model!r}")
        for name, choices in (
            ("stride", (1, 2)),
            ("fixed", ("first", "second")),
            ("device", ("auto", "cpu", "cuda")),
        ):
            if getattr(self, name) not in choices:
                words = " or ".join(map(repr, choices))
                raise PlanError(f"deep {name} is {words}, got {getattr(self, name)!r}")

    @property
    def volumes(self) -> int:
        """Both images and the slopes with a border, and what describes the fixed image; one slab of layers comes on top."""
        return 12 if self.stride == 2 else 24

    def check(self, ndim: int) -> None:
        """Refuse images that the model was not trained for, and a model or a library that is not there.

        Raises
        ------
        PlanError
            Saying what to do about it.
        """
        self._loaded(ndim).network(self._device())

    @property
    def weights_sha256(self) -> str:
        """SHA-256 of the file that holds the model's weights."""
        return load_metric_model(self.model).weights_sha256

    def exchanged(self) -> DeepMetric:
        """Return the metric for the fixed image in the place of the moving one."""
        return replace(self, fixed="second" if self.fixed == "first" else "first")

    def prepare(self, fixed: Volume, weight: Volume | None) -> Prepared:
        """Bind to a fixed image; one with a single slice is 2-D."""
        return _PreparedDeep(fixed, self)

    def _loaded(self, ndim: int) -> MetricModel:
        model = load_metric_model(self.model)
        if model.ndim != ndim:
            raise PlanError(
                f"the metric {self.model!r} was trained on {model.ndim}-D images and these are {ndim}-D; take a model "
                f"trained on {ndim}-D images (regista train deep-metric)"
            )
        return model

    def _device(self) -> str:
        if self.device == "cpu":
            return "cpu"
        best: str = patch_network().best_device()
        if self.device == "cuda" and best != "cuda":
            raise PlanError(
                "deep device = 'cuda', and PyTorch finds no graphics card here: take 'cpu' or 'auto'"
            )
        return best


class _PreparedDeep(Prepared):
    symmetric = False  # edges of other contrasts may point the other way
    reach_vox = _RADIUS

    def __init__(self, fixed: Volume, config: DeepMetric) -> None:
        super().__init__(fixed)
        flat = [axis for axis, n in enumerate(fixed.shape) if n == 1]
        ndim = 2 if flat else 3
        self._slice: tuple[Any, ...] = tuple(0 if axis in flat[:1] else slice(None) for axis in range(3))
        self._config, self._network = config, config._loaded(ndim).network(config._device())
        self.rebind(fixed, None)

    def rebind(self, fixed: Volume, weight: Volume | None) -> None:
        """Bind to the same image as warped anew."""
        super().rebind(fixed, weight)
        from regista.similarity._deep_dense import DenseScore  # needs PyTorch

        config = self._config
        self._score = DenseScore(
            self._network, fixed[self._slice], config.stride, config.fixed == "first", config._device()
        )

    def value_and_gradient(self, warped: Volume, weight: Volume | None, out: Volume) -> float:
        part = self._slice
        value = self._score(warped[part], None if weight is None else weight[part], out[part])
        np.negative(out, out=out)
        return -value
