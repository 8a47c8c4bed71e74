"""Everything here needs the extra ``learn``."""

from __future__ import annotations

import pytest

pytest.importorskip("torch", reason="learned registration needs torch: pip install 'regista[learn]'")
pytest.importorskip(
    "safetensors", reason="learned registration needs safetensors: pip install 'regista[learn]'"
)
