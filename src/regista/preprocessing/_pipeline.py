"""`Pipeline`: steps in order, from TOML and back, applied with a record."""

from __future__ import annotations

import json
import time
import tomllib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import MISSING, dataclass, field, fields
from functools import cache
from pathlib import Path
from typing import Any, ClassVar

from regista.core import (
    FormatError,
    Image,
    LabelImage,
    PlanError,
    get_threads,
    hash_array,
    software_versions,
)
from regista.core._wording import did_you_mean, expectation
from regista.preprocessing._filters import N4, Denoise, ForegroundMask
from regista.preprocessing._geometry import CropPad, Reorient, Resample
from regista.preprocessing._intensity import Clip, HistogramMatch, PercentileNormalize, ZScore
from regista.preprocessing._nyul import Nyul
from regista.preprocessing._skull_strip import SkullStrip
from regista.preprocessing._step import CONFIG, Step, mask_array, plain
from regista.transforms import resample_labels

STEPS: dict[str, type[Step]] = {
    kind.name: kind
    for kind in (
        Reorient, Resample, CropPad, N4, Denoise, ForegroundMask, SkullStrip, Clip, ZScore,
        PercentileNormalize, HistogramMatch, Nyul,
    )
}  # fmt: skip
"""Every step by the name plans and the command line use."""

_RECORDED = ("measured", "grid", "seconds")
"""What a record tells of a step besides its settings."""


@dataclass(frozen=True, eq=False)
class Preprocessed:
    """What a pipeline gives back.

    Parameters
    ----------
    image : Image
        The image after all steps; world coordinates are those of the original.
    mask : Image or None
        The foreground on its grid, given or found.
    record : mapping
        Steps with their parameters, what each measured and its seconds; plain JSON types.
    """

    image: Image
    mask: Image | None
    record: Mapping[str, Any] = field(default_factory=dict)

    def carry_labels(self, labels: LabelImage) -> LabelImage:
        """Return labels of the original image on the grid of the result, nearest neighbour."""
        return resample_labels(labels, self.image.grid)


@dataclass(frozen=True, kw_only=True)
class Pipeline:
    """Steps in the order they are applied.

    Parameters
    ----------
    steps : tuple of Step
        The steps.
    name : str
        For people.

    Examples
    --------
    >>> pipeline = Pipeline.from_dict({"steps": [{"step": "reorient"}, {"step": "clip", "low": 0}]})
    >>> [step.name for step in pipeline.steps]
    ['reorient', 'clip']
    >>> Pipeline.from_dict(pipeline.to_dict()) == pipeline
    True
    """

    steps: tuple[Step, ...] = ()
    name: str = "custom"
    __pydantic_config__: ClassVar[dict[str, object]] = CONFIG

    def __post_init__(self) -> None:
        for step in self.steps:
            if not isinstance(step, Step):
                raise PlanError(f"a pipeline holds steps such as N4(shrink=4), got {step!r}")

    @classmethod
    def from_dict(cls, tree: Mapping[str, Any] | Sequence[Any]) -> Pipeline:
        """Build a pipeline from plain values, checking every key and value.

        Parameters
        ----------
        tree : mapping or sequence
            ``{"steps": [...]}``, or the list itself; each step is a name, or a table with the name under
            ``step`` and its settings.

        Raises
        ------
        PlanError
            If a step or a setting is unknown, or a value out of range.
        """
        if isinstance(tree, Mapping):
            unknown = sorted(set(tree) - {"steps", "name"})
            if unknown:
                raise PlanError(f"preprocessing has no setting {unknown[0]!r}; its settings are name, steps")
            steps, name = tree.get("steps", ()), str(tree.get("name", "custom"))
        else:
            steps, name = tree, "custom"
        if not isinstance(steps, Sequence) or isinstance(steps, str):
            raise PlanError(f"preprocessing has a list of [[steps]], got {steps!r}")
        return cls(steps=tuple(_build(step, n) for n, step in enumerate(steps)), name=name)

    @classmethod
    def from_toml(cls, path: str | Path) -> Pipeline:
        """Read a pipeline from a TOML file with ``[[steps]]``."""
        try:
            tree = tomllib.loads(Path(path).read_text(encoding="utf-8"))
        except tomllib.TOMLDecodeError as error:
            raise PlanError(f"{path} is not valid TOML: {error}") from None
        except (OSError, UnicodeDecodeError) as error:
            reason = getattr(error, "strerror", None) or error
            raise FormatError(f"the steps {path} cannot be read: {reason}") from None
        tree.setdefault("name", Path(path).stem)
        return cls.from_dict(tree)

    @classmethod
    def from_file(cls, path: str | Path) -> Pipeline:
        """Read a pipeline from a TOML file, or from the record (``.json``) of an earlier run."""
        if Path(path).suffix.lower() != ".json":
            return cls.from_toml(path)
        try:
            record = json.loads(Path(path).read_text(encoding="utf-8"))
        except ValueError as error:
            raise PlanError(f"{path} is not valid JSON: {error}") from None
        except OSError as error:
            raise FormatError(f"the steps {path} cannot be read: {error.strerror or error}") from None
        if not isinstance(record, Mapping) or "steps" not in record:
            raise PlanError(f"{path} is no record of preprocessing: it has no 'steps'")
        return cls.from_dict(record["steps"])

    @classmethod
    def from_words(cls, words: Sequence[str]) -> Pipeline:
        """Build a pipeline from texts such as ``"n4"`` or ``"clip:low=0, high=300"``.

        Examples
        --------
        >>> Pipeline.from_words(["reorient:orientation=LPS", "clip:percentiles=[1, 99]"]).steps[0]
        Reorient(orientation='LPS')
        """
        return cls.from_dict([_from_word(word) for word in words])

    def with_files(self, read: Callable[[str], Image]) -> Pipeline:
        """Return the pipeline with the images it names read by `read` (`regista.read`)."""
        return Pipeline(steps=tuple(step.resolved(read) for step in self.steps), name=self.name)

    def to_dict(self) -> dict[str, Any]:
        """Return plain values; `from_dict` is its inverse, unless a step holds an image or a grid."""
        return {"name": self.name, "steps": [_step_to_dict(step) for step in self.steps]}

    def to_toml(self) -> str:
        """Return TOML text that `from_toml` reads."""
        lines = [f"name = {json.dumps(self.name)}"]
        for step in self.to_dict()["steps"]:
            lines += ["", "[[steps]]"]
            lines += [f"{key} = {_toml(value)}" for key, value in step.items() if value is not None]
        return "\n".join(lines) + "\n"

    def __call__(self, image: Image, mask: Image | None = None) -> Image:
        """Return the image after all steps."""
        return self.apply(image, mask).image

    def apply(self, image: Image, mask: Image | None = None) -> Preprocessed:
        """Apply the steps and keep a record.

        Parameters
        ----------
        image : Image
            The image; it is not changed.
        mask : Image, optional
            Foreground on its grid: statistics are taken there, and it follows geometric steps.
        """
        mask_array(image, mask)
        source, entries = image, []
        for step in self.steps:
            began = time.perf_counter()
            image, mask, measured = step.apply(image, mask)
            entries.append(
                {
                    **_step_to_dict(step),
                    "measured": measured,
                    "grid": image.grid.describe(),
                    "seconds": time.perf_counter() - began,
                }
            )
        record = {
            "program": "preprocess",
            "name": self.name,
            "steps": entries,
            "input": _identity(source),
            "output": _identity(image),
            "threads": get_threads(),
            "versions": software_versions(),
        }
        return Preprocessed(image, mask, record)


def run(
    image: Image,
    steps: Pipeline | Sequence[Step] | Mapping[str, Any],
    *,
    mask: Image | None = None,
) -> Preprocessed:
    """Apply steps to an image.

    Parameters
    ----------
    image : Image
        The image.
    steps : Pipeline, sequence of Step, or mapping
        What to do; a mapping is read as `Pipeline.from_dict` does.
    mask : Image, optional
        Foreground on the image's grid.

    Returns
    -------
    Preprocessed
        Image, mask and record.

    Examples
    --------
    >>> import numpy as np
    >>> from regista.core import Grid
    >>> image = Image(np.arange(27.0).reshape(3, 3, 3), Grid((3, 3, 3), np.eye(4)))
    >>> run(image, [Clip(low=5, high=20)]).record["steps"][0]["measured"]
    {'low': 5.0, 'high': 20.0}
    """
    if isinstance(steps, Pipeline):
        pipeline = steps
    elif isinstance(steps, Mapping):
        pipeline = Pipeline.from_dict(steps)
    else:
        pipeline = Pipeline(steps=tuple(steps))
    return pipeline.apply(image, mask)


def list_steps() -> dict[str, tuple[str, dict[str, Any]]]:
    """Return every step: name to its first line of help, and its settings with their defaults."""
    found = {}
    for name, kind in STEPS.items():
        settings = {}
        for item in fields(kind):
            default = item.default if item.default is not MISSING else "(required)"
            settings[item.name] = plain(default)
        found[name] = ((kind.__doc__ or "").strip().splitlines()[0], settings)
    return found


def _build(spec: Any, number: int) -> Step:
    where = f"step {number + 1}"
    if isinstance(spec, Step):
        return spec
    if isinstance(spec, str):
        spec = {"step": spec}
    if not isinstance(spec, Mapping) or not isinstance(spec.get("step"), str):
        raise PlanError(f'{where} reads like {{step = "n4", shrink = 4}}, got {spec!r}')
    tree = {key: value for key, value in spec.items() if key not in _RECORDED}
    name = tree.pop("step").lower().replace("_", "-")
    if name not in STEPS:
        raise PlanError(
            f"{where}: there is no step {name!r}{did_you_mean(name, STEPS)}; steps are {', '.join(STEPS)}"
        )
    kind = STEPS[name]
    known = [item.name for item in fields(kind)]
    unknown = sorted(set(tree) - set(known))
    if unknown:
        settings = ", ".join(known) or "none"
        near = did_you_mean(unknown[0], known)
        raise PlanError(f"{where} ({name}) has no setting {unknown[0]!r}{near}; its settings: {settings}")
    return _validated(
        kind, {key: value for key, value in tree.items() if value is not None}, f"{where} ({name})"
    )


def _validated(kind: type[Step], tree: dict[str, Any], where: str) -> Step:
    from pydantic import ValidationError  # slow to import; only files need it

    try:
        step: Step = _adapter(kind).validate_python(tree)
    except ValidationError as error:
        first = error.errors()[0]
        if first["type"] == "value_error":  # the step's own words
            raise PlanError(f"{where}: {first['ctx']['error']}") from None
        path = ", ".join([where, *(str(part) for part in first["loc"][:1])])
        if first["type"] == "missing" and len(first["loc"]) == 1:
            raise PlanError(f"{path} must be given") from None
        raise PlanError(f"{path}: {expectation(first)}") from None
    return step


@cache
def _adapter(kind: type) -> Any:
    from pydantic import TypeAdapter  # slow to import; only files need it

    return TypeAdapter(kind)


def _from_word(word: str) -> dict[str, Any]:
    name, _, settings = word.partition(":")
    tree: dict[str, Any] = {"step": name.strip()}
    for text in _split(settings):
        key, sign, value = text.partition("=")
        if not sign or not key.strip():
            raise PlanError(f"a step reads name:key=value,key=value, got {word!r}")
        try:
            tree[key.strip()] = tomllib.loads(f"value = {value.strip()}")["value"]
        except tomllib.TOMLDecodeError:
            tree[key.strip()] = value.strip()
    return tree


def _split(text: str) -> list[str]:
    """Split at commas outside brackets."""
    parts, depth = [""], 0
    for letter in text:
        depth += (letter in "[{") - (letter in "]}")
        if letter == "," and depth == 0:
            parts.append("")
        else:
            parts[-1] += letter
    return [part for part in parts if part.strip()]


def _step_to_dict(step: Step) -> dict[str, Any]:
    return {"step": step.name, **{f.name: plain(getattr(step, f.name)) for f in fields(step)}}


def _identity(image: Image) -> dict[str, Any]:
    return {
        "space": image.space,
        "grid": image.grid.describe(),
        "grid2world": image.grid.grid2world.tolist(),
        "dtype": image.data.dtype.name,
        "sha256": hash_array(image.data),
    }


def _toml(value: Any) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, list):
        return "[" + ", ".join(_toml(v) for v in value) + "]"
    if isinstance(value, dict):
        return "{" + ", ".join(f"{key} = {_toml(v)}" for key, v in value.items()) + "}"
    return json.dumps(value, ensure_ascii=False) if isinstance(value, str) else repr(value)
