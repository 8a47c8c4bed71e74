"""Work that is shared among threads."""

from __future__ import annotations

import threading

import numpy as np
import pytest

from regista.core import parallel_for, threads


@pytest.mark.parametrize(("voxels", "workers"), [(None, 4), (100, 1), (1 << 20, 4)])
def test_few_voxels_stay_with_the_calling_thread(voxels, workers):
    done, ranges = np.zeros(40, int), []

    def body(start, stop):
        done[start:stop] += 1
        ranges.append((start, stop, threading.current_thread() is threading.main_thread()))

    with threads(4):
        parallel_for(body, 40, voxels=voxels)
    assert np.all(done == 1)
    assert len(ranges) == workers
    assert sum(main for *_, main in ranges) == 1
