"""A trained model: loaded, asked for a transform, listed and verified."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from regista.core import FormatError, GeometryError, Grid, Image, PlanError, get_threads
from regista.core.weights import read_weights
from regista.kernels.cpu.warp import warp
from regista.learning._checkpoint import CHECKPOINT, SETTINGS, WEIGHTS, read_settings
from regista.learning._config import ModelConfig
from regista.learning._device import local_device
from regista.learning._inference import TrainedNetwork, check_finite
from regista.learning._passes import follow, way
from regista.learning._prepare import check_scan, model_grid, seen_by_network
from regista.similarity import METRIC_KIND, load_metric_model, missing_folder, model_folders
from regista.transforms import Affine, Composite, DisplacementField, Transform

if TYPE_CHECKING:
    import torch

    from regista.learning._networks import RegistrationNetwork

MOST_PASSES = 10
"""As the options of the command line say, too."""
_SIZE_RATIO = 2.0
"""Images this much smaller or larger than those of the training are none of its kind, though it takes them."""


@dataclass(frozen=True, eq=False)
class RegistrationModel:
    """A trained network and what it needs to know of its images.

    Parameters
    ----------
    name : str
        Of its folder.
    folder : Path
        Where it lies.
    config : ModelConfig
        Everything about it.
    weights : dict of str to float32 ndarray
        Of the network.
    settings : dict
        All that ``model.json`` holds.
    weights_sha256 : str
        Of the file of its weights.
    device : str
        Where it predicts: 'cpu' (without PyTorch) or 'cuda'.
    passes : int
        In how many passes at most it registers, unless `predict` is told otherwise.

    Attributes
    ----------
    network : RegistrationNetwork
        The same in PyTorch, on the device: a copy, built when it is first asked for.
    """

    name: str
    folder: Path
    config: ModelConfig
    weights: dict[str, NDArray[np.float32]]
    settings: dict[str, Any]
    weights_sha256: str
    device: str = "cpu"
    passes: int = 1

    @cached_property
    def network(self) -> RegistrationNetwork:
        network: RegistrationNetwork = self.config.network.build()
        import torch

        network.load_state_dict({name: torch.tensor(value) for name, value in self.weights.items()})
        network.eval().to(self.device, memory_format=_layout(self.config.network.ndim + 2))
        return network

    @cached_property
    def _trained(self) -> TrainedNetwork:
        return self.config.network.trained(self.weights)

    def describe(self) -> dict[str, Any]:
        """Return what the record of a run says of its model, under ``measures["model"]``."""
        return {
            "name": self.name,
            "weights_sha256": self.weights_sha256,
            "network": self.config.network.name,
            "purpose": self.settings.get("purpose", ""),
            "spacing_mm": list(self.config.inputs.spacing_mm),
            "device": self.device,
        }

    def check(self, fixed: Image, moving: Image) -> None:
        """Refuse images that the network cannot take.

        Raises
        ------
        GeometryError, FormatError
            If they have another number of axes than the network, several values per voxel, or NaN.
        """
        for role, image in (("fixed", fixed), ("moving", moving)):
            if image.ndim != self.config.network.ndim:
                raise GeometryError(
                    f"the model {self.name!r} is for {self.config.network.ndim}-D images, the {role} image is "
                    f"{image.ndim}-D: choose another model (`regista models list`)"
                )
            check_scan(image, f"the {role} image")

    def warnings(self, fixed: Image, moving: Image) -> list[str]:
        """Say so where images are of another size than those the network was trained on: it sees something else in them.

        The command line tells them; `predict` does not.
        """
        inputs = self.config.inputs
        most = np.maximum(np.array(inputs.shape) - 2 * inputs.margin_vox, 1)
        least = np.maximum(most - (self.config.network.sizes.factor - 1), 1)  # sides were rounded up
        told = []
        for role, image in (("fixed", fixed), ("moving", moving)):
            seen = np.array(model_grid(image, inputs).shape) - 2 * inputs.margin_vox
            if (seen < least / _SIZE_RATIO).any() or (seen > most * _SIZE_RATIO).any():
                sides = [" × ".join(map(str, one)) for one in (seen, most)]
                told.append(
                    f"{self.name} sees {sides[0]} voxels of what the {role} image shows, and was trained on some {sides[1]}: its field "
                    "may well be wrong; look at it beside a plan's result, or train a network on images like these"
                )
        return told

    def predict(
        self,
        fixed: Image,
        moving: Image,
        initial: Transform | None = None,
        passes: int | None = None,
        *,
        bend_first: bool = False,
    ) -> Transform:
        """Register a pair in one forward pass, or in several.

        Parameters
        ----------
        fixed, moving : Image
            Scalar images with any voxel size and orientation.
        initial : Transform, optional
            Linear map fixed → moving that brings the images near each other (by default the headers are taken at
            their word).
        passes : int, optional
            1: what the network says. More: at most so many passes, in each of which it sees the moving image as it is warped so
            far and is asked both ways round; each is followed, by halves, as far as the images become more alike by three
            measures (default: the model's own number).
        bend_first : bool
            Leave the linear part of the first of several answers out: for an `initial` map that an affine registration of these images
            found, which knows that part better. After a coarser one the network is to mend it.

        Returns
        -------
        Composite
            A `DisplacementField` on the grid of `fixed`, then the linear map; that map alone where, of several passes, none made
            the images noticeably more alike.

        Raises
        ------
        GeometryError, FormatError
            If the images have another number of axes than the network, several values per voxel, or NaN.
        PlanError
            If the start is not linear, or `passes` is no whole number from 1 to 10.
        """
        return self.answer(fixed, moving, initial, passes, bend_first=bend_first).transform

    def answer(
        self,
        fixed: Image,
        moving: Image,
        initial: Transform | None = None,
        passes: int | None = None,
        *,
        bend_first: bool = False,
    ) -> Prediction:
        """Return what `predict` does, and what a record says of it.

        Parameters
        ----------
        fixed, moving, initial, passes, bend_first
            As of `predict`.

        Returns
        -------
        Prediction
            The transform, and what belongs under ``measures["model"]`` of a record.

        Raises
        ------
        GeometryError, FormatError, PlanError
            As `predict`.
        """
        self.check(fixed, moving)
        passes = self.passes if passes is None else check_passes(passes)
        linear = _linear(initial, self.config.network.ndim)
        affine = Affine(linear.matrix, fixed.space, moving.space)
        lattice = model_grid(fixed, self.config.inputs, multiple=self.config.network.sizes.factor)
        here = seen_by_network(fixed, lattice, self.config.inputs)
        there = seen_by_network(moving, lattice, self.config.inputs, linear)
        record = {**self.describe(), "passes": passes, "passes_followed": 1.0}
        vectors: NDArray[np.float32] | None
        if passes == 1:
            vectors = self.displacement_vox(here, there)
        else:
            displacement = partial(self._trained.displacement, shape=here.shape)
            spacing_mm = self.config.inputs.spacing_mm
            places = way(self._estimate, displacement, here, there, spacing_mm, passes, bend_first)
            vectors, *told = follow(places, here.shape)
            record |= dict(zip(("passes_followed", "likeness_before", "likeness_after"), told, strict=True))
        if vectors is None:
            return Prediction(Composite((affine,)), record)
        field = on_native_grid(vectors, lattice, fixed.grid)
        forward = DisplacementField(field, fixed.grid, fixed.space, fixed.space)
        return Prediction(Composite((forward, affine)), record)

    def displacement_vox(
        self, fixed: NDArray[np.float32], moving: NDArray[np.float32]
    ) -> NDArray[np.float32]:
        """Return the network's answer for images on its grid.

        Parameters
        ----------
        fixed, moving : (*shape) float32 ndarray
            Images from 0 to 1.

        Returns
        -------
        (n, *shape) float32 ndarray
            Displacement, voxels.
        """
        if self.device == "cpu":
            return self._trained.displacement_vox(fixed, moving)
        return self._by_torch(fixed, moving).field

    def _estimate(self, fixed: NDArray[np.float32], moving: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return the network's field or velocity, as `TrainedNetwork.estimate` does."""
        if self.device == "cpu":
            return self._trained.estimate(fixed, moving)
        found = self._by_torch(fixed, moving).mean
        return found if found.ndim == 4 else found[:, None]

    def _by_torch(self, fixed: NDArray[np.float32], moving: NDArray[np.float32]) -> _Motion:
        import torch

        torch.set_num_threads(get_threads())
        # a card's short mantissas would change the field
        with torch.inference_mode(), torch.backends.cudnn.flags(enabled=True, allow_tf32=False):
            pair = (torch.from_numpy(np.ascontiguousarray(one))[None, None] for one in (moving, fixed))
            images = (one.to(self.device, memory_format=_layout(one.dim())) for one in pair)
            motion = self.network(*images)
            field, mean = (
                np.ascontiguousarray(one[0].float().cpu().numpy()) for one in (motion.field, motion.mean)
            )
        check_finite(field)
        return _Motion(field, mean)


class Prediction(NamedTuple):
    """What a network makes of a pair.

    Parameters
    ----------
    transform : Composite
        A `DisplacementField`, then a linear map; or that map alone.
    record : dict
        `RegistrationModel.describe`, with ``passes`` (how many were allowed), ``passes_followed`` (0: the linear map alone;
        1.5: one and a half) and, of several, the likeness of the images before and after, on the network's grid: what a record holds
        under ``measures["model"]``.
    """

    transform: Composite
    record: dict[str, Any]


class _Motion(NamedTuple):
    """The displacement, voxels, and the field or velocity it comes from, on the network's own lattice."""

    field: NDArray[np.float32]
    mean: NDArray[np.float32]


def check_passes(passes: int) -> int:
    """Return a number of passes; refuse what is none.

    Parameters
    ----------
    passes : int
        Of settings or a call.

    Raises
    ------
    PlanError
        If it is no whole number from 1 to `MOST_PASSES`.
    """
    whole = isinstance(passes, int | np.integer) and not isinstance(passes, bool)
    if not whole or not 1 <= passes <= MOST_PASSES:
        raise PlanError(f"passes of a network are a whole number from 1 to {MOST_PASSES}, got {passes!r}")
    return int(passes)


def _linear(initial: Transform | None, ndim: int) -> Affine:
    if initial is None:
        return Affine.identity(ndim)
    if initial.ndim != ndim:
        raise GeometryError(f"the initial transform is {initial.ndim}-D, the model is for {ndim}-D images")
    matrix = np.eye(ndim + 1)
    for part in Composite((initial,)).flatten().transforms:
        if not isinstance(part, Affine):
            raise PlanError(
                f"a model starts from a linear map, got one that bends ({type(part).__name__}): give the result of a run with --preset "
                "affine, or in Python the linear one of the transforms"
            )
        matrix = part.matrix @ matrix
    return Affine(matrix, initial.fixed_space, initial.moving_space)


def on_native_grid(vectors_vox: NDArray[np.float32], lattice: Grid, native: Grid) -> NDArray[np.float32]:
    """Return a field in mm on another grid; beyond its lattice it goes on as at the edge.

    Parameters
    ----------
    vectors_vox : (n, *lattice.shape) float32 ndarray
        Displacement in voxels of `lattice`.
    lattice, native : Grid
        Where it is and where it is wanted.

    Returns
    -------
    (n, *native.shape) float32 ndarray
        Displacement in mm.
    """
    ndim = native.ndim
    to_lattice = (lattice.as_3d().world2grid @ native.as_3d().grid2world)[:3]
    shape = native.as_3d().shape
    volumes = [np.ascontiguousarray(one).reshape(lattice.as_3d().shape) for one in vectors_vox]
    sampled = np.stack([np.asarray(warp(one, to_lattice, shape=shape)) for one in volumes])
    world = lattice.grid2world[:-1, :-1].astype(np.float32) @ sampled.reshape(ndim, -1)
    return np.ascontiguousarray(world.reshape(ndim, *native.shape))


def load_model(name: str | Path, device: str = "auto") -> RegistrationModel:
    """Load a model by the name of a shipped one, or by its folder.

    Parameters
    ----------
    name : str or Path
        As `list_models` names it, or a folder with ``model.json`` and ``model.safetensors``.
    device : {'auto', 'cpu', 'cuda'}
        Where it predicts; 'auto' takes a graphics card where PyTorch finds one.

    Returns
    -------
    RegistrationModel
        Ready to `predict`.

    Raises
    ------
    FormatError
        If there is no such model, or its files are damaged or do not fit together.
    PlanError
        If the device is another word, or PyTorch finds no graphics card.
    """
    device = local_device(device)
    folder = find_model(name)
    config, settings = read_settings(folder)
    if not isinstance(config, ModelConfig):
        raise FormatError(
            f"the model {folder.name!r} is a similarity metric and registers nothing by itself: name it in a plan, "
            f'similarity = {{deep = "{name}"}}'
        )
    try:
        passes = check_passes(settings.get("passes", 1))
    except PlanError as error:
        raise FormatError(f"{folder / SETTINGS}: {error}") from None
    weights, sha256 = read_weights(folder / WEIGHTS)
    model = RegistrationModel(folder.name, folder, config, weights, settings, sha256, device, passes)
    try:
        model._trained  # noqa: B018 (which fits, or does not)
    except ValueError as error:
        raise FormatError(
            f"{folder / WEIGHTS} does not fit {SETTINGS} beside it: copy the whole folder again ({error})"
        ) from None
    if device != "cpu":
        model.network  # noqa: B018 (goes to the card now, not in the first prediction)
    return model


def _layout(dims: int) -> torch.memory_format:
    """Return the layout that convolutions run fastest in."""
    import torch

    return torch.channels_last_3d if dims == 5 else torch.channels_last


def find_model(name: str | Path) -> Path:
    """Return the folder of a model.

    Raises
    ------
    FormatError
        If there is none.
    """
    known = model_folders()
    if str(name) in known:
        return known[str(name)]
    folder = Path(name)
    if folder.is_file() and folder.name in (WEIGHTS, SETTINGS):
        folder = folder.parent
    if (folder / CHECKPOINT).is_file() and not (folder / SETTINGS).is_file():
        raise FormatError(
            f"{folder} holds a training that has not ended: give the command again that began it, which goes on from there"
        )
    if not (folder / SETTINGS).is_file():
        names, wrong = ", ".join(known) or "none yet", missing_folder()
        raise FormatError(
            f"no model {str(name)!r}: expected a folder with {SETTINGS} and {WEIGHTS}, or one of the names that "
            f"`regista models list` gives ({names}){wrong and f'. {wrong}'}"
        )
    return folder


def list_models() -> dict[str, dict[str, Any]]:
    """Return the settings of every model known by name."""
    return {name: read_settings(folder)[1] for name, folder in model_folders().items()}


def verify_model(name: str | Path) -> str:
    """Check that a model's weights are those its settings were written with, and that they fit.

    Returns
    -------
    str
        The SHA-256 of the weights.

    Raises
    ------
    FormatError
        If they are not.
    """
    folder = find_model(name)
    _, settings = read_settings(folder)
    if settings.get("kind") == METRIC_KIND:
        metric = load_metric_model(str(folder))
        metric.network("cpu")
        found = metric.weights_sha256
    else:
        found = load_model(name, "cpu").weights_sha256
    told = settings.get("weights_sha256")
    if found != told:
        raise FormatError(
            f"{folder / WEIGHTS} is not the file that {SETTINGS} was written with (SHA-256 {found[:12]}…, expected "
            f"{str(told)[:12]}…): copy the folder again"
        )
    return found
