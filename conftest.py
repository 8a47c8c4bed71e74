"""Doctests of what needs an optional library are left out where it is absent."""

from importlib.util import find_spec

collect_ignore_glob = [] if find_spec("torch") and find_spec("safetensors") else ["src/regista/learning/*"]
