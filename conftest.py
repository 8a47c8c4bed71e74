"""What all tests share: threads of each process, and doctests that need an optional library left out without it."""

import os
from importlib.util import find_spec

collect_ignore_glob = [] if find_spec("torch") and find_spec("safetensors") else ["src/regista/learning/*"]

if os.environ.get("PYTEST_XDIST_WORKER"):
    # several processes of several threads each wait for one another; set before any library counts the cores
    for name in ("REGISTA_THREADS", "OMP_NUM_THREADS", "ITK_GLOBAL_DEFAULT_NUMBER_OF_THREADS"):
        os.environ.setdefault(name, "1")


def pytest_collection_modifyitems(items):
    """Put tests of kernels first, then files with long tests.

    What two processes need at once both of them compile. Files of kernels need others each, and what they compiled is
    there for all tests to come. A process that began a long file last would end long after the others.
    """
    long = {item.path for item in items if item.get_closest_marker("data") or item.get_closest_marker("long")}
    items.sort(key=lambda item: (item.path.parent.name != "kernels", item.path not in long))
