"""What the command line says of maps that turn against what the files state."""

import numpy as np
from scipy.ndimage import gaussian_filter

from regista.core import Grid, Image
from regista.io import write


def test_a_half_turn_that_headers_speak_against_fails_until_it_is_asked_for(tmp_path, call):
    rng = np.random.default_rng(5)
    grid = Grid((34, 40, 30), np.diag([2.0, 2.0, 2.0, 1.0]))
    index = np.indices(grid.shape) / (np.array(grid.shape)[:, None, None, None] - 1) * 2 - 1
    texture = gaussian_filter(rng.normal(size=grid.shape), 2.0)
    texture = texture + texture[::-1]  # nearly its own mirror image
    data = (np.clip(1.2 - ((index / 0.75) ** 2).sum(0), 0, 1) > 0) * (100 + 30 * texture / texture.std())
    data *= 1 + 0.4 * index[1] + 0.3 * index[2]
    write(tmp_path / "fixed.nii.gz", Image(data.astype(np.float32), grid))
    turn = np.diag([-1.0, -1.0, 1.0, 1.0])
    turn[:3, 3] = grid.center_mm - turn[:3, :3] @ grid.center_mm
    turned = Grid(grid.shape, turn @ grid.grid2world)
    write(tmp_path / "moving.nii.gz", Image(data.astype(np.float32), turned))
    words = [
        "register",
        tmp_path / "fixed.nii.gz",
        tmp_path / "moving.nii.gz",
        "--preset",
        "affine",
        "--no-report",
    ]
    words += ["--threads", 2, "-o"]
    wrong = call(*words, tmp_path / "wrong")
    assert wrong.exit_code == 1
    assert "both files state how they lie" in wrong.stderr
    right = call(*words, tmp_path / "right", "--initial", tmp_path / "wrong" / "fixed2moving.h5")
    assert right.exit_code == 0, right.stderr
    assert "look" in right.stdout
    assert call("report", tmp_path / "right").exit_code == 0
    assert call("report", tmp_path / "wrong").exit_code == 1
