import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from diagnet.evaluation.abstention import Abstention, band_half_width, reason_to_abstain

LIMITS = Abstention(half_width=0.1)


def test_the_band_holds_a_tenth_of_the_masses():
    scores = np.linspace(0, 1, 201)
    half = band_half_width(scores, 0.5)
    assert (np.abs(scores - 0.5) < half).mean() == pytest.approx(0.1, abs=0.01)
    assert band_half_width(np.zeros(0), 0.5) == Abstention().half_width == 0.05


@given(st.lists(st.floats(0, 1), min_size=1), st.floats(0, 1))
def test_the_band_is_never_wider_than_the_scores_are(scores, threshold):
    half = band_half_width(np.array(scores), threshold)
    assert 0.02 <= half <= max(0.02, *(abs(score - threshold) for score in scores))
    assert Abstention(half_width=half).half_width == half


@pytest.mark.parametrize(
    ("malignancy", "each", "reason"),
    [
        (0.75, [0.75], ""),
        (0.1, [0.1], ""),
        (
            0.45,
            [0.45],
            "malignancy 45.0 % lies between 30.0 and 50.0 %, too near to the operating point of 40.0 % to call",
        ),
        (
            0.31,
            [0.31],
            "malignancy 31.0 % lies between 30.0 and 50.0 %, too near to the operating point of 40.0 % to call",
        ),
        (0.6, [0.1, 0.9, 0.8], ""),  # one of three
        (0.6, [0.3, 0.9], "1 of 2 networks call it otherwise than their mean"),
        (0.6, [0.2, 0.2, 0.9, 0.9, 0.8], "2 of 5 networks call it otherwise than their mean"),
        (0.2, [0.0, 0.0, 0.0, 0.5, 0.5], "2 of 5 networks call it otherwise than their mean"),
    ],
)
def test_no_call_near_the_operating_point_or_against_the_networks(malignancy, each, reason):
    assert reason_to_abstain(malignancy, np.array(each), 0.4, LIMITS) == reason


def test_a_band_of_no_width_calls_everything():
    assert reason_to_abstain(0.4, np.array([0.4]), 0.4, Abstention(half_width=0.0)) == ""


def test_a_network_that_tells_nothing_calls_nothing():
    scores = np.full(50, 0.493) + np.linspace(-1e-3, 1e-3, 50)
    limits = Abstention(half_width=band_half_width(scores, 0.493))
    assert all(reason_to_abstain(score, np.array([score]), 0.493, limits) for score in scores.tolist())
