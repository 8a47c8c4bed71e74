"""Values every other package speaks in: grids, images, points, records, errors, threads, progress."""

from regista.core.errors import (
    Cancelled,
    FormatError,
    GeometryError,
    PlanError,
    RegistaError,
    RegistrationError,
)
from regista.core.grid import Grid
from regista.core.image import Image, LabelImage, stack_channels
from regista.core.points import Mesh, PointSet
from regista.core.progress import Progress, ProgressCallback, silent
from regista.core.record import (
    LevelHistory,
    RunRecord,
    Status,
    hash_array,
    peak_memory_bytes,
    software_versions,
)
from regista.core.threads import (
    available_threads,
    get_threads,
    parallel_for,
    set_threads,
    threads,
)

__all__ = [
    "Cancelled",
    "FormatError",
    "GeometryError",
    "Grid",
    "Image",
    "LabelImage",
    "LevelHistory",
    "Mesh",
    "PlanError",
    "PointSet",
    "Progress",
    "ProgressCallback",
    "RegistaError",
    "RegistrationError",
    "RunRecord",
    "Status",
    "available_threads",
    "get_threads",
    "hash_array",
    "parallel_for",
    "peak_memory_bytes",
    "set_threads",
    "silent",
    "software_versions",
    "stack_channels",
    "threads",
]
