"""Reference of `regista.kernels.cpu.weighted_lncc`: window after window, by the definition."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike

from regista.kernels.reference.lncc import Volume, windows
from regista.kernels.reference.rows import Rows, put, within

LEAST_SHARE, FULL_SHARE = 0.16, 0.2


def weighted_lncc_coefficients(
    fixed: ArrayLike,
    warped: ArrayLike,
    weight: ArrayLike,
    radius: int,
    floor: float,
    *,
    out: Volume,
    rows: Rows | None = None,
) -> tuple[float, float]:
    """Write ``a, b, c`` of the gradient to `out`; return Σ q cc² and Σ q (where fixed is not flat)."""
    f, w, u = (np.asarray(one, np.float64) for one in (fixed, warped, weight))
    result, here = np.zeros((3, *f.shape)), within(f.shape, rows)
    total = weight_kept = 0.0
    for place, window in windows(f.shape, radius):
        share, own = u[window], float(u[place])
        n = float(share.sum())
        if not here[place] or own <= 1e-12:
            continue
        seen = n / (share.size * own)
        q = own * min(max((seen - LEAST_SHARE) / (FULL_SHARE - LEAST_SHARE), 0.0), 1.0)
        fmean, wmean = float((share * f[window]).sum()) / n, float((share * w[window]).sum()) / n
        df, dw = f[window] - fmean, w[window] - wmean
        a, b, c = (float((share * one).sum()) for one in (df * dw, df * df, dw * dw))
        if b <= floor * n:
            continue
        weight_kept += q
        if c <= floor * n:
            continue
        total += q * a * a / (b * c)
        ca, cb = 2 * q * a / (b * c), 2 * q * a * a / (b * c * c)
        for channel, value in enumerate((ca, cb, ca * fmean - cb * wmean)):
            result[channel][place] = value
    put(result, out, rows)
    return total, weight_kept


def apply_weight(out: Volume, weight: ArrayLike, *, rows: Rows | None = None) -> Volume:
    """Multiply by the weight of the voxels, in place."""
    product = np.asarray(out, np.float64) * np.asarray(weight, np.float64)
    return put(product, out, rows)
