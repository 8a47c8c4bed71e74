"""The extra ``learn`` is for training: trained networks answer without PyTorch, and what needs it says so."""

from __future__ import annotations

import hashlib
import subprocess
import sys

import numpy as np
import pytest
from safetensors.numpy import save
from scipy.ndimage import gaussian_filter

from regista.core import FormatError, Grid, Image, PlanError
from regista.core.weights import read_weights
from regista.io import read, write
from regista.learning import load_model
from regista.learning._device import local_device

LOOK = """
import sys
from regista.learning import _device, load_model
_device._CARDS = ()  # as where there is no graphics card
model = load_model("any-contrast")
assert model.device == "cpu"
model.displacement_vox(*__import__("numpy").zeros((2, 16, 16, 16), "float32"))
assert "torch" not in sys.modules
"""
LAUNCH = """
import sys
sys.modules["torch"] = None  # as where it is not installed
from regista.cli import main
sys.argv[0] = "regista"
main()
"""


def without_torch(*words):
    """Run a command in a process that cannot import PyTorch."""
    command = [sys.executable, "-c", LAUNCH, *(str(word) for word in words)]
    return subprocess.run(command, capture_output=True, text=True, timeout=300, check=False, encoding="utf-8")


@pytest.fixture(scope="module")
def scene(tmp_path_factory):
    """Return the files of a made-up organ in two contrasts, 8 mm apart, and the second as it should be warped."""
    folder, shape = tmp_path_factory.mktemp("pair"), (34, 36, 32)
    places = np.indices(shape) - np.array([17, 18, 16])[:, None, None, None]
    distance = np.sqrt(sum((p / r) ** 2 for p, r in zip(places, (12, 14, 11), strict=True)))
    texture = gaussian_filter(np.random.default_rng(1).standard_normal(shape), 2.5)
    tissue = np.where(distance < 1, 1 + np.digitize(texture, np.quantile(texture, [0.3, 0.6, 0.8])), 0)
    grid = Grid(shape, np.diag([4.0, 4.0, 4.0, 1.0]))
    shades = {"fixed": np.array([0, 0.3, 1.0, 0.6, 0.8]), "moving": np.array([0, 0.9, 0.3, 1.0, 0.5])}
    images = {name: shade[tissue].astype(np.float32) for name, shade in shades.items()}
    write(folder / "fixed.nii.gz", Image(images["fixed"], grid))
    write(folder / "moving.nii.gz", Image(np.roll(images["moving"], 2, 0), grid))
    return folder / "fixed.nii.gz", folder / "moving.nii.gz", images["moving"]


@pytest.mark.parametrize("device", [(), ("--device", "cpu")])
def test_a_trained_network_registers(scene, tmp_path, device):
    fixed, moving, expected = scene
    done = without_torch(
        "register", fixed, moving, "-o", tmp_path / "out", "--model", "any-contrast", *device
    )
    assert done.returncode == 0, done.stderr
    before, after = read(moving).as_float32(), read(tmp_path / "out" / "warped.nii.gz").as_float32()
    alike = [float(np.corrcoef(one.ravel(), expected.ravel())[0, 1]) for one in (before, after)]
    assert alike[1] > max(alike[0], 0.9)


def test_models_are_listed_shown_and_verified():
    listed = without_torch("models", "list")
    assert listed.returncode == 0, listed.stderr
    assert "any-contrast" in listed.stdout
    for words in (("show", "any-contrast"), ("verify", "any-contrast")):
        assert without_torch("models", *words).returncode == 0


def test_what_needs_torch_says_so(scene, tmp_path):
    pair = scene[:2]
    table = tmp_path / "scans.csv"
    table.write_text(f"subject,image\n1,{pair[0]}\n2,{pair[1]}\n", encoding="utf-8")
    for words in (
        ("train", "voxelmorph", table, "-o", tmp_path / "out"),
        ("register", *pair, "-o", tmp_path / "out", "--model", "any-contrast", "--device", "cuda"),
    ):
        done = without_torch(*words)
        assert done.returncode == 2, done.stderr
        assert "pip install 'regista[learn]'" in " ".join(done.stderr.split())
    assert not (tmp_path / "out").exists()


def test_torch_is_left_alone_where_it_is_installed():
    command = [sys.executable, "-c", LOOK]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False, encoding="utf-8")
    assert done.returncode == 0, done.stderr


def test_a_network_as_a_module_says_what_it_needs(monkeypatch):
    monkeypatch.delitem(sys.modules, "regista.learning._networks", raising=False)
    monkeypatch.setitem(sys.modules, "torch", None)
    with pytest.raises(PlanError, match="pip install"):
        load_model("any-contrast", "cpu").network  # noqa: B018


@pytest.mark.parametrize(("device", "found"), [("auto", "cpu"), ("cuda", None)])
def test_a_torch_that_is_broken_is_as_none(monkeypatch, device, found):
    class Broken:
        def find_spec(self, name, *_):
            if name == "torch":
                raise OSError("libcudart.so.12: cannot open shared object file")

    monkeypatch.setattr("regista.learning._device._card_possible", lambda: True)
    monkeypatch.delitem(sys.modules, "torch", raising=False)
    monkeypatch.setattr(sys, "meta_path", [Broken(), *sys.meta_path])
    if found:
        assert local_device(device) == found
    else:
        with pytest.raises(PlanError, match=r"libcudart.*pip install"):
            local_device(device)


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        (np.float16, None),
        (np.float64, None),
        ("BF16", "as BF16, expected float32"),
        (np.nan, "NaN or Inf weights \\(flow"),
    ],
    ids=str,
)
def test_weights_of_other_types(tmp_path, kind, message):
    values = np.full(
        (2, 3), np.nan if kind is np.nan else 0.5, kind if isinstance(kind, type) else np.float32
    )
    content = save({"flow": values})
    if kind == "BF16":
        content = content.replace(b'"F32"', b'"BF16"').replace(b"[0,24]", b"[0,12]")
        size = 8 + int.from_bytes(content[:8], "little") + 1
        content = (size - 8).to_bytes(8, "little") + content[8 : size + 12]
    (tmp_path / "w.safetensors").write_bytes(content)
    if message:
        with pytest.raises(FormatError, match=message):
            read_weights(tmp_path / "w.safetensors")
    else:
        weights, sha256 = read_weights(tmp_path / "w.safetensors")
        assert weights["flow"].dtype == np.float32
        assert sha256 == hashlib.sha256(content).hexdigest()
