"""A plan may name a trained metric where PyTorch is not loaded, or not there at all."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
from safetensors.numpy import save


def test_naming_a_trained_metric_does_not_load_torch():
    code = (
        "import sys\n"
        "from regista.registration import metric_from_text\n"
        "from regista.similarity import known_metrics\n"
        "print(metric_from_text('{deep = \"somewhere\"}').model, len(known_metrics()) >= 0)\n"
        "sys.exit('torch' in sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False, encoding="utf-8"
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == ["somewhere", "True"]


def test_without_torch_a_registration_says_what_to_install(tmp_path):
    (tmp_path / "model.json").write_text(
        '{"format": 1, "kind": "deep-metric", "network": {"ndim": 2, "channels": [4, 4, 4, 4]}}',
        encoding="utf-8",
    )
    (tmp_path / "model.safetensors").write_bytes(save({"weight": np.zeros(3, np.float32)}))
    code = (
        "import sys\n"
        "sys.modules['torch'] = None\n"
        "from regista.core import PlanError\n"
        "from regista.similarity import DeepMetric, check_metric\n"
        "try:\n"
        "    check_metric(DeepMetric(model=sys.argv[1]), 2)\n"
        "except PlanError as error:\n"
        "    print(error)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path)],
        capture_output=True,
        text=True,
        check=False,
        encoding="utf-8",
    )
    assert "pip install 'regista[learn]'" in done.stdout, done.stderr
