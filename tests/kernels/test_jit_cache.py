"""Where compiled kernels go."""

from __future__ import annotations

from pathlib import Path

import pytest

from regista.kernels.cpu import _jit


@pytest.fixture
def config(monkeypatch):
    monkeypatch.setattr(_jit.config, "CACHE_DIR", "")
    return _jit.config


def test_a_given_folder_is_respected(monkeypatch, config, tmp_path):
    monkeypatch.setattr(config, "CACHE_DIR", str(tmp_path))
    assert _jit._choose_cache() == tmp_path


def test_kernels_stay_beside_their_source_when_they_can(config):
    assert _jit._choose_cache() == Path(_jit.__file__).parent / "__pycache__"
    assert config.CACHE_DIR == ""


def test_a_read_only_install_uses_the_users_cache(monkeypatch, config, tmp_path):
    real = _jit._writable
    monkeypatch.setattr(_jit, "_writable", lambda folder: tmp_path in folder.parents and real(folder))
    monkeypatch.delenv("LOCALAPPDATA", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert _jit._choose_cache() == tmp_path / "regista" / "numba"
    assert str(tmp_path / "regista" / "numba") == config.CACHE_DIR
    assert (tmp_path / "regista" / "numba").is_dir()


def test_with_no_home_a_temporary_folder_serves(monkeypatch, config, tmp_path):
    monkeypatch.setattr(_jit.tempfile, "gettempdir", lambda: str(tmp_path))
    monkeypatch.setattr(_jit, "_writable", lambda folder: folder.name.startswith("regista-numba-"))
    assert _jit._choose_cache().parent == tmp_path


def test_a_file_in_the_way_is_not_writable(tmp_path):
    (tmp_path / "taken").write_text("", encoding="utf-8")
    assert not _jit._writable(tmp_path / "taken")
    assert _jit._writable(tmp_path / "new")
