import base64
import json

import numpy as np
import pytest

from diagnet.data.domain import Domain, Verdict, fit_domain, middle_verdict
from diagnet.data.region_facts import RegionFacts

USUAL = RegionFacts(
    contrast=0.3, spread=0.1, brightness=0.5, sharpness=0.3, grain=0.4, evenness=0.7, center=0.5, air=0.1,
    picture_air=0.5, picture_brightness=0.5, picture_spread=0.2, picture_sharpness=0.1, picture_grain=0.4,
    picture_evenness=0.7, picture_tone=0.5, side_px=100.0, share=0.02, side_mm=float("nan"),
)  # fmt: skip


def masses(n, seed=0, **changes):
    """Facts that vary by a fifth; sharpness and grain go together."""
    rng = np.random.default_rng(seed)
    rows = np.array(USUAL._replace(**changes)) * np.exp(rng.normal(0, 0.2, (n, len(USUAL))))
    rows[:, USUAL._fields.index("grain")] = rows[:, USUAL._fields.index("sharpness")] * rng.normal(1, 0.01, n)
    return rows


def patients(n):
    return [f"P{k // 2}" for k in range(n)]


@pytest.fixture(scope="module")
def domain():
    return fit_domain(masses(600), patients(600))


def like(domain, **changes):
    return domain.verdict((USUAL._replace(grain=USUAL.sharpness))._replace(**changes))


def test_a_usual_region_is_like_the_training_masses(domain):
    assert like(domain) == Verdict()
    assert like(domain, side_mm=3.0) == Verdict()  # no training mass has one


def test_few_of_the_same_kind_are_unlike_and_fewer_far(domain):
    verdicts = [domain.verdict(RegionFacts(*row)) for row in masses(2000, seed=1).tolist()]
    assert 0.005 < np.mean([each.is_unlike for each in verdicts]) < 0.05
    assert np.mean([each.is_far for each in verdicts]) < 0.005


def test_a_fact_outside_is_flagged_and_far_outside_refused(domain):
    low, high = (bound(masses(600)[:, 0]) for bound in (np.min, np.max))
    found = like(domain, contrast=0.09)
    assert (found.is_unlike, found.is_far) == (True, False)
    assert found.reason == f"contrast 0.09, training {low:.2f} to {high:.2f}"
    alone = domain.kinds[0].limit_alone
    edge = (alone + 1) * (high - low)
    assert like(domain, contrast=high + 1.05 * edge).is_far
    assert not like(domain, contrast=high + alone * (high - low) * 1.05).is_far


def test_sizes_are_compared_as_logarithms(domain):
    found = like(domain, side_px=5.0)
    assert found.is_far
    assert found.reason.startswith("side px 5.00, training ")
    assert like(domain, share=0.0004).reason.startswith("share 0.0004, training ")
    assert not like(domain, side_px=60.0).is_unlike


def test_a_reason_names_a_ratio_not_its_logarithm(domain):
    found = like(domain, picture_tone=-9.89)
    assert found.is_far
    low, high = (np.exp(bound(masses(600)[:, USUAL._fields.index("picture_tone")])) for bound in (np.min, np.max))
    assert found.reason == f"picture detail, bright over dark 0.00, training {low:.2f} to {high:.2f}"


def test_more_pixels_than_in_training_are_fine(domain):
    assert like(domain, side_px=2000.0) == Verdict()


def test_what_does_not_go_together_is_unlike_by_the_most_similar_masses(domain):
    found = like(domain, sharpness=0.4, grain=0.2)
    assert found.is_unlike
    assert found.is_far
    assert "the most similar training masses" in found.reason
    assert like(domain, sharpness=0.4, grain=0.4) == Verdict()


def test_several_kinds_may_be_known_at_once():
    changes = {"contrast": 0.9, "brightness": 0.2, "picture_air": 0.02, "air": 0.01}
    both = fit_domain(np.concatenate([masses(400), masses(400, 1, **changes)]), patients(800))
    assert like(both) == Verdict()
    assert like(both, **changes) == Verdict()
    between = like(both, contrast=0.6, brightness=0.5, picture_air=0.02, air=0.1)
    assert between.is_unlike
    assert "the most similar" in between.reason


def test_a_patients_other_masses_do_not_make_limits_narrow():
    rows = np.repeat(masses(200), 6, axis=0)
    of_patient = np.repeat(np.arange(200), 6).astype(str).tolist()
    (narrow,) = fit_domain(rows, np.arange(1200).astype(str).tolist()).kinds
    (wide,) = fit_domain(rows, of_patient).kinds
    assert wide.limit_together > 3
    assert narrow.limit_together < 1.5
    (once,) = fit_domain(masses(200), np.arange(200).astype(str).tolist()).kinds
    assert (np.diag(wide.alike) < 3 * np.diag(once.alike)).all()  # the metric knows other patients alone


def test_too_few_masses_or_patients_know_nothing():
    assert fit_domain(masses(49), patients(49)) is None
    assert fit_domain(masses(60), ["P", "Q", "R", "S"] * 15) is None
    assert fit_domain(masses(50), patients(50)) is not None


def test_known_sizes_in_mm_are_compared():
    rows = masses(200)
    rows[:, -1] = np.where(np.arange(200) % 2, 10.0, np.nan)  # known of some, and as narrow as can be
    domain = fit_domain(rows, patients(200))
    assert like(domain, side_mm=100.0).reason == "side mm 100, training 10.00 to 10.00"
    assert like(domain, side_mm=11.0) == like(domain) == Verdict()


def test_many_masses_are_drawn_from():
    domain = fit_domain(masses(2500), patients(2500))
    assert len(domain.kinds[0].rows) < 2100 * 15 * 4 * 4 / 3
    assert like(domain) == Verdict()


def test_it_is_stored_as_json(domain):
    stored = json.loads(json.dumps(domain.model_dump(mode="json"), allow_nan=False))
    again = Domain.model_validate(stored)
    assert again == domain
    assert like(again, contrast=0.09) == like(domain, contrast=0.09)


def test_of_several_networks_the_middle_one_counts(domain):
    far = fit_domain(masses(600, contrast=3.0), patients(600))
    facts = USUAL._replace(grain=USUAL.sharpness)
    assert middle_verdict((), facts) == Verdict()
    assert far.verdict(facts).is_unlike
    assert middle_verdict((far, domain, domain), facts) == Verdict()
    assert middle_verdict((far, far, domain), facts) == far.verdict(facts)
    assert middle_verdict((far, domain), facts) == Verdict()


def two_sources():
    """Masses in mammograms are a small part of them; crops show little else."""
    rows = np.concatenate([masses(300), masses(300, seed=1, contrast=0.6, picture_air=0.1, share=0.8)])
    return rows, ["mammograms"] * 300 + ["crops"] * 300


def test_a_region_is_of_the_source_that_it_looks_like():
    rows, sources = two_sources()
    found = fit_domain(rows, patients(600), sources)
    assert Domain.model_validate_json(found.model_dump_json()) == found
    assert like(found).source == "mammograms"
    assert like(found, contrast=0.6, picture_air=0.1, share=0.8) == Verdict(source="crops")
    assert like(found, contrast=0.01).source == ""  # unlike both
    assert like(fit_domain(rows, patients(600), ["one"] * 600)).source == ""


def test_what_is_between_two_sources_is_like_neither():
    rows, sources = two_sources()
    assert like(fit_domain(rows, patients(600)), share=0.8) == Verdict()  # as a mixture they let it pass
    found = like(fit_domain(rows, patients(600), sources), share=0.8)
    assert found.is_unlike
    assert found.reason.startswith("share 0.80, training 0.0")  # of the nearest kind, the mammograms


def test_alike_sources_share_what_looks_like_both():
    found = fit_domain(masses(600), patients(600), ["a", "b"] * 300)
    verdicts = [found.verdict(RegionFacts(*row)) for row in masses(300, seed=1).tolist()]
    assert np.mean([each.is_unlike for each in verdicts]) < 0.05
    assert {each.source for each in verdicts if not each.is_unlike} == {"a", "b"}


def test_a_source_of_too_few_masses_joins_the_largest():
    rows, sources = two_sources()
    few = np.concatenate([rows, masses(20, seed=2, brightness=5.0)])
    found = fit_domain(few, patients(620), [*sources[:-1], "mammograms", *["scans"] * 20])
    assert [kind.sources for kind in found.kinds] == [("crops",), ("mammograms",)]
    assert like(found, brightness=5.0).source == "mammograms"
    pooled = fit_domain(masses(60), patients(60), ["a", "b", "c"] * 20)  # none is large enough
    assert pooled == fit_domain(masses(60), patients(60))


def test_models_from_before_each_source_was_a_kind_say_what_most_similar_masses_are_of():
    rows, sources = two_sources()
    (mixture,) = fit_domain(rows, patients(600)).kinds
    of_rows = np.array([each == "mammograms" for each in ["crops", *sources[1:]]], dtype=np.uint8)
    stored = mixture.model_dump() | {
        "sources": ("crops", "mammograms"),
        "row_sources": base64.b64encode(of_rows.tobytes()).decode(),
    }
    before = Domain.model_validate(stored)
    assert before.model_dump() == stored  # so that a model's hash stays what it was
    assert before.verdict(RegionFacts(*rows[0].tolist())).source == "mammograms"  # not the one nearest mass's
    with pytest.raises(ValueError, match="must name the source of each of its rows"):
        Domain.model_validate({**stored, "row_sources": ""})
