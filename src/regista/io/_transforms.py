"""`read_transform` and `write_transform`: a map from and to any tool's file."""

from __future__ import annotations

from pathlib import Path
from typing import Literal, get_args

from regista.core import FormatError, Grid, Image
from regista.io import _field_files, _foreign, _foreign_fields, _itk_files
from regista.io._files import PathLike, check_exists, suffix_of
from regista.transforms import Transform, with_spaces

TransformFormat = Literal[
    "itk", "nifti", "fsl", "fsl-absolute", "lta", "afni", "x5", "greedy", "learn2reg", "voxelmorph"
]
TRANSFORM_FORMATS: tuple[str, ...] = get_args(TransformFormat)
_NIFTI = (".nii", ".nii.gz")
_BY_SUFFIX = {
    **dict.fromkeys((".h5", ".hdf5", ".mat", ".tfm", ".txt"), "itk"),
    **dict.fromkeys(_NIFTI, "nifti"),
    **dict.fromkeys((".1d", ".aff12.1d"), "afni"),
    ".lta": "lta",
    ".x5": "x5",
}


def read_transform(
    path: PathLike,
    *,
    format: str | None = None,
    fixed: Image | Grid | None = None,
    moving: Image | Grid | None = None,
) -> Transform:
    """Read a transform.

    Parameters
    ----------
    path : path
        The file.
    format : str, optional
        ``itk`` (.h5, .mat, .tfm, .txt), ``nifti`` (displacement field of ANTs or ITK), ``lta``, ``afni``
        (.1D), ``x5``: known by their extension. ``greedy`` and ``fsl`` (4×4 text, which look alike),
        ``learn2reg`` and ``voxelmorph`` (voxel fields) must be named, and so must ``.nii.gz`` warps of FSL
        (``fsl``: displacements; ``fsl-absolute``: coordinates) and AFNI (``afni``).
    fixed, moving : Image or Grid, optional
        For ``fsl``, ``learn2reg`` and ``voxelmorph``, whose numbers count from the images' corners; and for
        ``afni`` matrices, which straighten oblique images. Images also name the spaces where the file does not.

    Returns
    -------
    Transform
        Point map fixed → moving in RAS+ mm; a chain is a `Composite`, first element applied first.

    Raises
    ------
    FormatError
        If the file is missing, damaged, of an unknown kind, or a grid it needs is not given.
    """
    path = check_exists(path, "a transform")
    name = _format(path, format, reading=True)
    here, there = _grid(fixed), _grid(moving)
    transform = _read(path, name, here, there)
    names = tuple(i.space if isinstance(i, Image) else None for i in (fixed, moving))
    if any(names) and transform.fixed_space is None and transform.moving_space is None:
        return with_spaces(transform, *names)
    return transform


def write_transform(
    path: PathLike,
    transform: Transform,
    *,
    format: str | None = None,
    fixed: Image | Grid | None = None,
    moving: Image | Grid | None = None,
) -> None:
    """Write a transform; see `read_transform` for the formats.

    Parameters
    ----------
    path : path
        The file; it is replaced as a whole or not at all.
    transform : Transform
        Point map fixed → moving. ``.h5`` keeps chains as they are; ``nifti``, ``x5`` and voxel fields hold one
        field, into which a chain is composed; the others hold one linear map. No file holds a thin-plate spline:
        it is sampled as a field on the grid of `fixed`.
    format : str, optional
        As for `read_transform`.
    fixed, moving : Image or Grid, optional
        Where the format needs them; `fixed` is also the grid of a composed field (default: that of the
        field applied first).

    Raises
    ------
    FormatError
        If the format cannot hold the transform, a grid it needs is not given, or the disk refuses.

    Examples
    --------
    >>> import tempfile
    >>> from regista.transforms import Translation
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     write_transform(f"{folder}/shift.h5", Translation.by([1.0, 2.0, 3.0]))
    ...     read_transform(f"{folder}/shift.h5").map_points([[0.0, 0.0, 0.0]]).tolist()
    [[1.0, 2.0, 3.0]]
    """
    path = Path(path)
    name = _format(path, format, reading=False)
    here, there = _grid(fixed), _grid(moving)
    if name == "itk":
        _write_itk(path, transform, here)
    elif name == "nifti":
        _field_files.write_nifti_field(path, transform, here)
    elif name == "fsl-absolute" or (name == "fsl" and suffix_of(path) in _NIFTI):
        _foreign_fields.write_fsl_field(path, transform, here, there, absolute=name != "fsl")
    elif name == "afni" and suffix_of(path) in _NIFTI:
        _foreign_fields.write_afni_field(path, transform, here)
    elif name in ("learn2reg", "voxelmorph"):
        _field_files.write_voxel_field(path, transform, here, there, name)
    elif name == "greedy":
        _foreign.write_greedy(path, transform)
    elif name == "x5":
        _foreign.write_x5(path, transform, here)
    else:
        _foreign.write_foreign(path, transform, name, here, there)


def _write_itk(path: Path, transform: Transform, grid: Grid | None) -> None:
    suffix = suffix_of(path)
    if suffix in (".h5", ".hdf5"):
        _itk_files.write_h5(path, _field_files.without_splines(transform, grid, path))
    elif suffix == ".mat":
        _itk_files.write_mat(path, transform)
    else:
        _itk_files.write_itk_text(path, transform)


def _read(path: Path, name: str, fixed: Grid | None, moving: Grid | None) -> Transform:
    suffix = suffix_of(path)
    if name == "itk" and suffix in (".h5", ".hdf5"):
        return _itk_files.read_h5(path, fixed)
    if name == "itk" and suffix == ".mat" and not _matrix_like(path):
        return _itk_files.read_mat(path, fixed)
    if name == "itk":
        return _itk_files.read_itk_text(path, fixed)
    if name == "nifti":
        return _field_files.read_nifti_field(path)
    if name == "fsl-absolute" or (name == "fsl" and suffix in _NIFTI):
        return _foreign_fields.read_fsl_field(path, fixed, moving, absolute=name != "fsl")
    if name == "afni" and suffix in _NIFTI:
        return _foreign_fields.read_afni_field(path)
    if name in ("learn2reg", "voxelmorph"):
        return _field_files.read_voxel_field(path, fixed, moving, name)
    if name == "greedy":
        return _foreign.read_greedy(path)
    if name == "x5":
        return _foreign.read_x5(path)
    return _foreign.read_foreign(path, name, fixed, moving)


def _format(path: Path, format: str | None, *, reading: bool) -> str:
    if format in ("itk", "ants") and suffix_of(path) in _NIFTI:
        return "nifti"  # what both write a displacement field to
    if format == "ants":
        return "itk"
    if format is not None:
        if format not in TRANSFORM_FORMATS:
            raise FormatError(
                f"transform format {format!r} is not known; expected {', '.join(TRANSFORM_FORMATS)}"
            )
        return format
    suffix = suffix_of(path)
    if suffix == ".m3z":
        raise FormatError(
            f"{path}: FreeSurfer's nonlinear .m3z is not read; FreeSurfer's mri_warp_convert --inm3z FILE --outitk "
            "FIELD.nii.gz makes an ITK field of it"
        )
    if suffix not in _BY_SUFFIX:
        raise FormatError(
            f"{path}: {suffix!r} does not tell the transform's format; use {', '.join(_BY_SUFFIX)}, or name one with "
            f"--format (in Python format=): {', '.join(TRANSFORM_FORMATS)}"
        )
    if reading and suffix in (".mat", ".txt") and _matrix_like(path):
        raise FormatError(
            f"{path} is a bare 4×4 matrix, which FSL and Greedy (c3d, ITK-SNAP) write alike but mean differently: "
            "say --format fsl (with --like FIXED --moving MOVING) or --format greedy (in Python format=)"
        )
    return _BY_SUFFIX[suffix]


def _matrix_like(path: Path) -> bool:
    head = path.read_bytes()[:4000]
    try:
        _foreign.text_matrix(head.decode("ascii"))
    except ValueError:  # FormatError, UnicodeDecodeError and bad numbers are all of this kind
        return False
    return True


def _grid(image: Image | Grid | None) -> Grid | None:
    return image.grid if isinstance(image, Image) else image
