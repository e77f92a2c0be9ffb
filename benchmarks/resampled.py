"""Figures with intervals that draw patients: the first value is of the masses as they are, the others of resamples."""

import numpy as np

from diagnet.evaluation.bootstrap import draw_patients

N_RESAMPLES = 2000


def weights_of(patients):
    """How often each mass counts: one row as it is, then one for each resample of the patients, numbered from 0."""
    n_patients = int(patients.max()) + 1
    drawn = draw_patients(n_patients, N_RESAMPLES, rng=np.random.default_rng(0))
    return np.concatenate([np.ones((1, n_patients), np.int64), drawn])[:, patients]


def told(values):
    """A figure and its 95 % interval."""
    low, high = np.quantile(values[1:], [0.025, 0.975])
    return {"value": round(float(values[0]), 4), "low": round(float(low), 4), "high": round(float(high), 4)}
