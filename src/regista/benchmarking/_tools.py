"""How each peer is run, with the settings of ``peers.toml``; imported in the process of one registration only.

Every function takes the job of `_register.run` and leaves ITK transforms.
"""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

Job = Mapping[str, Any]
Report = dict[str, Any]


def ants(job: Job, folder: Path) -> Report:
    """Run ``ants.registration``."""
    import ants

    settings = dict(job["settings"])
    kind, from_affine = settings.pop("type_of_transform"), settings.pop("from_affine", None)
    fixed, moving = ants.image_read(job["fixed"]), ants.image_read(job["moving"])
    for role, word in (("fixed_mask", "mask"), ("moving_mask", "moving_mask")):
        if job[role]:
            settings[word] = ants.image_read(job[role])
    if job["affine"]:
        kind = from_affine or kind
        settings["initial_transform"] = job["affine"]
    began = time.perf_counter()
    result = ants.registration(fixed, moving, kind, random_seed=1, **settings)
    seconds = time.perf_counter() - began
    # both lists act on points from left to right; an affine in the second is the one of the first, to be inverted
    inverse = []
    for number, path in enumerate(result["invtransforms"]):
        name = f"{number}_inverse" + (".mat" if path.endswith(".mat") else "_warp.nii.gz")
        if path.endswith(".mat"):
            ants.write_transform(ants.read_transform(path).invert(), str(folder / name))
        else:
            shutil.move(path, folder / name)
        inverse.append(name)
    names = []
    for number, path in enumerate(result["fwdtransforms"]):
        name = f"{number}_affine.mat" if path.endswith(".mat") else f"{number}_warp.nii.gz"
        shutil.move(path, folder / name)
        names.append(name)
    soft = any(name.endswith(".nii.gz") for name in names)  # the inverse of a linear map is exact
    return {"transforms": names, "inverse": inverse if soft else [], "seconds": {"stage": seconds}}


def greedy(job: Job, folder: Path) -> Report:
    """Run Greedy's affine and deformable mode, images in memory."""
    import SimpleITK as sitk
    from picsl_greedy import Greedy2D, Greedy3D

    settings, ndim = job["settings"], job["ndim"]
    program = Greedy3D() if ndim == 3 else Greedy2D()
    images = {"fixed": sitk.ReadImage(job["fixed"]), "moving": sitk.ReadImage(job["moving"])}
    masks = ""
    for role, option in (("fixed_mask", "-gm"), ("moving_mask", "-mm")):
        if job[role]:
            images[role] = sitk.ReadImage(job[role], sitk.sitkFloat32)
            masks += f" {option} {role}"
    radius = "x".join([str(settings["radius"])] * ndim)
    common = (
        f"-d {ndim} -i fixed moving{masks} -m NCC {radius} -n {settings['steps']} -threads {job['threads']}"
    )
    affine, seconds = job["affine_ras"], {}
    if not affine:
        affine = str(folder / "affine_ras.txt")
        began = time.perf_counter()
        program.execute(f"{common} -a {settings['start']} -o {affine}", **images)
        seconds["linear"] = time.perf_counter() - began
    began = time.perf_counter()
    program.execute(f"{common} -it {affine} -o warp", warp=None, **images)
    seconds["deformable"] = time.perf_counter() - began
    sitk.WriteTransform(_sitk_affine(np.loadtxt(affine)), str(folder / "affine.tfm"))
    name = _write_sitk_field(program["warp"], folder)
    return {
        "transforms": [name, "affine.tfm"],
        "seconds": {**seconds, "stage": sum(seconds.values())},
    }


def elastix(job: Job, folder: Path) -> Report:
    """Run elastix's default parameter maps; the number of threads comes from the environment alone."""
    import itk

    settings, ndim, folder = job["settings"], job["ndim"], folder.resolve()
    kind = itk.Image[itk.F, ndim]
    fixed, moving = itk.imread(job["fixed"], itk.F), itk.imread(job["moving"], itk.F)
    parameters = itk.ParameterObject.New()
    names = [*([] if job["affine"] else settings["linear"]), *settings["deformable"]]
    for name in names:
        chosen = parameters.GetDefaultParameterMap(name, settings["resolutions"])
        if name == "bspline":
            if "FinalGridSpacingInPhysicalUnits" in chosen:
                del chosen["FinalGridSpacingInPhysicalUnits"]
            chosen["FinalGridSpacingInVoxels"] = [str(settings["grid_spacing_vox"])] * ndim
            if "bspline_steps" in settings:
                chosen["MaximumNumberOfIterations"] = [str(settings["bspline_steps"])]
        # eroded at each coarse level, as by default, a mask of an organ vanishes, and elastix finds no voxel
        chosen["ErodeFixedMask"] = chosen["ErodeMovingMask"] = ["false"]
        parameters.AddParameterMap(chosen)
    method = itk.ElastixRegistrationMethod[kind, kind].New(fixed, moving)
    method.SetParameterObject(parameters)
    method.SetOutputDirectory(str(folder))
    for role, place in (("fixed_mask", method.SetFixedMask), ("moving_mask", method.SetMovingMask)):
        if job[role]:
            place(itk.imread(job[role], itk.UC))
    if job["affine_ras"]:
        method.SetInitialTransformParameterFileName(_elastix_affine(job["affine_ras"], ndim, folder))
    method.LogToConsoleOff()
    began = time.perf_counter()
    method.UpdateLargestPossibleRegion()
    seconds = time.perf_counter() - began
    os.chdir(folder)  # transformix leaves a copy of the field wherever it is
    field = itk.transformix_deformation_field(moving, method.GetTransformParameterObject())
    # two-dimensional NIfTI does not keep a picture's axes
    name = "warp.nii" if ndim == 3 else "warp.mha"
    itk.imwrite(field, str(folder / name))
    if ndim == 2:
        import SimpleITK as sitk  # elastix is done: another ITK in the process harms no more

        name = _write_sitk_field(sitk.ReadImage(str(folder / name)), folder)
    return {"transforms": [name], "seconds": {"stage": seconds}}


def _elastix_affine(ras: str, ndim: int, folder: Path) -> str:
    """Write an affine as elastix keeps it, centre 0."""
    matrix = _lps(np.loadtxt(ras))
    numbers = [*matrix[:ndim, :ndim].ravel(), *matrix[:ndim, ndim]]
    lines = {
        "Transform": '"AffineTransform"',
        "NumberOfParameters": len(numbers),
        "TransformParameters": " ".join(f"{v:.15g}" for v in numbers),
        "InitialTransformParameterFileName": '"NoInitialTransform"',
        "HowToCombineTransforms": '"Compose"',
        "FixedImageDimension": ndim,
        "MovingImageDimension": ndim,
        "CenterOfRotationPoint": " ".join(["0"] * ndim),
    }
    path = folder / "initial.txt"
    path.write_text("".join(f"({key} {value})\n" for key, value in lines.items()), encoding="utf-8")
    return str(path)


def sitk(job: Job, folder: Path) -> Report:
    """Run SimpleITK: an affine, then demons on the image it moves."""
    import SimpleITK as sitk

    settings = job["settings"]
    fixed = sitk.ReadImage(job["fixed"], sitk.sitkFloat32)
    moving = sitk.ReadImage(job["moving"], sitk.sitkFloat32)
    began = time.perf_counter()
    linear = sitk.ReadTransform(job["affine"]) if job["affine"] else _sitk_linear(fixed, moving, settings)
    middle = time.perf_counter()
    placed = sitk.Resample(moving, fixed, linear, sitk.sitkLinear, 0.0)
    matching = sitk.HistogramMatchingImageFilter()
    matching.SetNumberOfHistogramLevels(settings["match_levels"])
    matching.SetNumberOfMatchPoints(settings["match_points"])
    matching.ThresholdAtMeanIntensityOn()
    field = _demons(fixed, matching.Execute(placed, fixed), settings)
    end = time.perf_counter()
    sitk.WriteTransform(linear, str(folder / "affine.tfm"))
    name = _write_sitk_field(field, folder)
    seconds = {"deformable": end - middle} | ({} if job["affine"] else {"linear": middle - began})
    return {"transforms": [name, "affine.tfm"], "seconds": {**seconds, "stage": sum(seconds.values())}}


def _sitk_linear(fixed: Any, moving: Any, settings: Mapping[str, Any]) -> Any:
    import SimpleITK as sitk

    ndim = fixed.GetDimension()
    start = sitk.CenteredTransformInitializer(
        fixed, moving, sitk.AffineTransform(ndim), sitk.CenteredTransformInitializerFilter.GEOMETRY
    )
    method = sitk.ImageRegistrationMethod()
    method.SetMetricAsMattesMutualInformation(settings["affine_bins"])
    method.SetMetricSamplingStrategy(method.RANDOM)
    method.SetMetricSamplingPercentage(settings["affine_sampling"], 1)
    method.SetInterpolator(sitk.sitkLinear)
    method.SetOptimizerAsGradientDescent(1.0, settings["affine_steps"], 1e-6, 10)
    method.SetOptimizerScalesFromPhysicalShift()
    # SimpleITK's own pyramid shrinks all axes alike: of ten slices it would leave two
    for factor in settings["affine_shrink"]:
        method.SetInitialTransform(start, inPlace=False)
        found = method.Execute(*(_shrunk(image, factor) for image in (fixed, moving)))
        composite = found.GetName() == "CompositeTransform"
        start = sitk.AffineTransform(
            sitk.CompositeTransform(found).GetBackTransform() if composite else found
        )
    return start


def _demons(fixed: Any, moving: Any, settings: Mapping[str, Any]) -> Any:
    """Run demons from coarse to fine; the field of one level starts the next."""
    import SimpleITK as sitk

    field = None
    for factor, steps in zip(settings["shrink"], settings["steps"], strict=True):
        pair = [_shrunk(image, factor) for image in (fixed, moving)]
        demons = getattr(sitk, settings["filter"])()
        demons.SetNumberOfIterations(steps)
        demons.SetStandardDeviations(settings["field_sigma_vox"])
        if field is None:
            field = demons.Execute(*pair)
            continue
        start = sitk.Resample(
            field, pair[0], sitk.Transform(), sitk.sitkLinear, 0.0, field.GetPixelID(), True
        )
        field = demons.Execute(*pair, start)
    return field


def _shrunk(image: Any, factor: int) -> Any:
    """Return an image smoothed by half a new voxel and shrunk, each axis to 16 voxels at the least."""
    import SimpleITK as sitk

    factors = [min(factor, max(1, n // 16)) for n in image.GetSize()]
    for axis, step in enumerate(factors):
        if step > 1:
            sigma = 0.5 * step * image.GetSpacing()[axis]
            image = sitk.RecursiveGaussian(
                image, sigma, False, sitk.RecursiveGaussianImageFilter.ZeroOrder, axis
            )
    return sitk.Shrink(image, factors)


def dipy(job: Job, folder: Path) -> Report:
    """Run dipy's affine pipeline and its symmetric diffeomorphic registration."""
    from dipy.align.imwarp import SymmetricDiffeomorphicRegistration
    from dipy.align.metrics import CCMetric

    settings, ndim = job["settings"], job["ndim"]
    (fixed, here), (moving, there) = (_read_ras(job[role], ndim) for role in ("fixed", "moving"))
    began = time.perf_counter()
    affine = (
        np.loadtxt(job["affine_ras"])
        if job["affine_ras"]
        else _dipy_linear(fixed, moving, here, there, settings)
    )
    middle = time.perf_counter()
    method = SymmetricDiffeomorphicRegistration(CCMetric(ndim), level_iters=list(settings["steps"]))
    mapping = method.optimize(fixed, moving, static_grid2world=here, moving_grid2world=there, prealign=affine)
    end = time.perf_counter()
    field = np.asarray(mapping.get_forward_field(), np.float32)  # on the fixed grid, mm, before the affine
    name = _write_ras_field(field, here, folder)
    import SimpleITK as sitk

    sitk.WriteTransform(_sitk_affine(affine), str(folder / "affine.tfm"))
    seconds = {"deformable": end - middle} | ({} if job["affine"] else {"linear": middle - began})
    return {"transforms": [name, "affine.tfm"], "seconds": {**seconds, "stage": sum(seconds.values())}}


def _dipy_linear(fixed: Any, moving: Any, here: Any, there: Any, settings: Mapping[str, Any]) -> Any:
    from dipy.align import transforms
    from dipy.align.imaffine import AffineRegistration, MutualInformationMetric, transform_centers_of_mass

    ndim = fixed.ndim
    affine = transform_centers_of_mass(fixed, here, moving, there).affine
    method = AffineRegistration(
        metric=MutualInformationMetric(nbins=settings["bins"], sampling_proportion=None),
        level_iters=list(settings["affine_steps"]),
        sigmas=list(settings["affine_sigmas_vox"]),
        factors=list(settings["affine_factors"]),
        verbosity=0,
    )
    for name in ("TranslationTransform", "RigidTransform", "AffineTransform"):
        affine = method.optimize(
            fixed,
            moving,
            getattr(transforms, f"{name}{ndim}D")(),
            None,
            static_grid2world=here,
            moving_grid2world=there,
            starting_affine=affine,
        ).affine
    return affine


def _read_ras(path: str, ndim: int) -> tuple[Any, Any]:
    """Return voxels and their matrix to RAS mm."""
    if ndim == 3:
        import nibabel as nib

        image: Any = nib.load(path)
        return np.asarray(image.dataobj, np.float64), image.affine
    import SimpleITK as sitk

    picture = sitk.ReadImage(path, sitk.sitkFloat64)
    matrix = np.eye(ndim + 1)
    matrix[:ndim, :ndim] = np.array(picture.GetDirection()).reshape(ndim, ndim) * picture.GetSpacing()
    matrix[:ndim, ndim] = picture.GetOrigin()
    matrix[:2] *= -1
    return sitk.GetArrayFromImage(picture).T.copy(), matrix


def _write_ras_field(field: Any, matrix: Any, folder: Path) -> str:
    """Write displacements in RAS mm, ``(*shape, ndim)``, as ITK reads them."""
    flipped = field * np.array([-1, -1, 1][: field.shape[-1]], np.float32)
    if field.shape[-1] == 3:
        import nibabel as nib

        image = nib.Nifti1Image(flipped[:, :, :, None, :], matrix)
        image.header.set_intent("vector")
        nib.save(image, folder / "warp.nii")
        return "warp.nii"
    import SimpleITK as sitk

    picture = sitk.GetImageFromArray(flipped.transpose(1, 0, 2).astype(np.float64), isVector=True)
    linear = matrix[:2, :2] * -1
    spacing = np.linalg.norm(linear, axis=0)
    picture.SetSpacing(spacing.tolist())
    picture.SetDirection((linear / spacing).ravel().tolist())
    picture.SetOrigin((-matrix[:2, 2]).tolist())
    return _write_sitk_field(picture, folder)


def _write_sitk_field(field: Any, folder: Path) -> str:
    """Write a field; in two dimensions as a transform, since NIfTI does not keep a picture's axes."""
    import SimpleITK as sitk

    if field.GetDimension() == 3:
        sitk.WriteImage(sitk.Cast(field, sitk.sitkVectorFloat32), str(folder / "warp.nii"))
        return "warp.nii"
    transform = sitk.DisplacementFieldTransform(sitk.Cast(field, sitk.sitkVectorFloat64))
    sitk.WriteTransform(transform, str(folder / "warp.h5"))
    return "warp.h5"


def _sitk_affine(ras: Any) -> Any:
    import SimpleITK as sitk

    ndim = len(ras) - 1
    matrix = _lps(np.asarray(ras, np.float64))
    transform = sitk.AffineTransform(ndim)
    transform.SetMatrix(matrix[:ndim, :ndim].ravel().tolist())
    transform.SetTranslation(matrix[:ndim, ndim].tolist())
    return transform


def _lps(matrix: Any) -> Any:
    flip = np.diag([-1.0, -1.0, *[1.0] * (len(matrix) - 2)])
    return flip @ matrix @ flip


TOOLS: dict[str, Callable[[Job, Path], Report]] = {
    "ants": ants,
    "greedy": greedy,
    "elastix": elastix,
    "sitk": sitk,
    "dipy": dipy,
}
