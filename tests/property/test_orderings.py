"""Properties of every ordering in every basis: equal ends, the order of labels, and the way between two labels."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.diffusion import Statistics, build_process

SHAPE, DIM = (2, 4, 4), 32
ORDERINGS = {
    "pixel": ("variance", "rank", "column", "row"),
    "dct": ("variance", "rank", "frequency"),
    "fourier": ("variance", "rank", "frequency"),
    "haar": ("variance", "rank", "level", "column", "row"),
    "pca": ("variance", "rank", "frequency"),
}
CASES = [(basis, ordering) for basis, names in ORDERINGS.items() for ordering in (*names, "list")]
LIST = tuple(float(label) for label in torch.randn(DIM, generator=torch.Generator().manual_seed(8)).tolist())
EXAMPLES = settings(max_examples=12, deadline=None)
GOLDEN = np.load(Path(__file__).parents[1] / "golden" / "gud" / "analytic_grid.npz")

priors = st.sampled_from(["standard", "data"])
softness = st.floats(0, 25)
shares = st.floats(0, 1)
ends = st.tuples(st.floats(-2, 12), st.floats(0.5, 20)).map(lambda pair: (pair[0], pair[0] - pair[1]))


def statistics_of(basis: str) -> Statistics:
    generator = torch.Generator().manual_seed(4)
    x = torch.randn(80, *SHAPE, generator=generator, dtype=torch.float64).cumsum(-1).cumsum(-2) / 8
    return Statistics.of(x, basis)


STATISTICS = {basis: statistics_of(basis) for basis in ORDERINGS}


def process_of(basis: str, prior: str, **schedule: Any) -> Any:
    spec = {"kind": "spectral", "basis": basis, "prior": prior, "schedule": {"kind": "gud", **schedule}}
    return build_process(spec, SHAPE, STATISTICS[basis])


def assert_ends(process: Any, log_snr_data: float, log_snr_prior: float, rows: int = 1) -> None:
    """Whatever the ordering: the least clean component at t = 0 and the least noisy at t = 1 are as asked, per row."""
    for t, extreme, wanted in ((0.0, "amin", log_snr_data), (1.0, "amax", log_snr_prior)):
        log_snr = process.marginal(torch.full((rows,), t, dtype=torch.float64)).log_snr
        found = getattr(log_snr, extreme)(dim=1)
        torch.testing.assert_close(found, torch.full_like(found, wanted), rtol=0, atol=1e-9)


@pytest.mark.parametrize(("basis", "ordering"), CASES)
@EXAMPLES
@given(a=softness, prior=priors, clip=st.booleans(), ends=ends)
def test_ends_are_the_same_for_all_orderings(
    basis: str, ordering: str, a: float, prior: str, clip: bool, ends: tuple[float, float]
) -> None:
    named: Any = LIST if ordering == "list" else ordering
    log_snr_data, log_snr_prior = ends
    process = process_of(
        basis, prior, softness_a=a, ordering=named, clip=clip, log_snr_data=log_snr_data, log_snr_prior=log_snr_prior
    )
    assert_ends(process, log_snr_data, log_snr_prior)


@pytest.mark.parametrize("basis", ORDERINGS)
@EXAMPLES
@given(a=softness, r=shares, prior=priors, clip=st.booleans())
def test_ends_are_the_same_all_the_way_between_two_orderings(
    basis: str, a: float, r: float, prior: str, clip: bool
) -> None:
    process = process_of(basis, prior, softness_a=a, ordering_r=r, clip=clip, log_snr_data=6.0, log_snr_prior=-5.0)
    assert_ends(process, 6.0, -5.0)


@pytest.mark.parametrize("basis", ORDERINGS)
@EXAMPLES
@given(points=st.lists(st.tuples(softness, shares), min_size=1, max_size=5), prior=priors, clip=st.booleans())
def test_ends_are_the_same_in_every_row(basis: str, points: list[tuple[float, float]], prior: str, clip: bool) -> None:
    a, r = torch.tensor(points, dtype=torch.float64).T[:, :, None]
    base = process_of(basis, prior, clip=clip, log_snr_data=6.0, log_snr_prior=-5.0)
    assert_ends(base.with_parameters(softness_a=a, ordering_r=r), 6.0, -5.0, rows=len(points))


@pytest.mark.parametrize(("basis", "ordering"), CASES)
@EXAMPLES
@given(a=softness, prior=priors, clip=st.booleans(), t=shares)
def test_log_snr_falls_with_the_label_at_all_times(
    basis: str, ordering: str, a: float, prior: str, clip: bool, t: float
) -> None:
    named: Any = LIST if ordering == "list" else ordering
    process = process_of(basis, prior, softness_a=a, ordering=named, clip=clip)
    label, log_snr = process.schedule.label, process.marginal(t).log_snr[0]
    assert float(log_snr[torch.argsort(label)].diff().max()) <= 1e-9
    if clip:
        assert -7 - 1e-9 <= float(log_snr.min()) <= float(log_snr.max()) <= 7 + 1e-9


@pytest.mark.parametrize(
    ("basis", "ordering"),
    [("pixel", "column"), ("pixel", "row"), ("haar", "level"), ("dct", "frequency"), ("fourier", "frequency")],
)
def test_components_of_one_place_form_a_block_whatever_their_variance(basis: str, ordering: str) -> None:
    process = process_of(basis, "standard", softness_a=3.0, ordering=ordering)
    place = getattr(process.basis, ordering)
    log_snr = process.marginal(0.4).log_snr[0]
    for value in place.unique():
        block = log_snr[place == value]
        torch.testing.assert_close(block, block[:1].expand_as(block), rtol=0, atol=1e-12)
    assert len(place.unique()) > 1
    first, last = log_snr[place == place.min()], log_snr[place == place.max()]
    assert float(first.min()) > float(last.max())


def test_rank_is_the_place_by_falling_variance() -> None:
    for basis, statistics in STATISTICS.items():
        label = process_of(basis, "standard", ordering="rank").schedule.label
        assert sorted(label.tolist()) == list(range(DIM))
        assert bool((statistics.variances[torch.argsort(label)].diff() <= 0).all())


@pytest.mark.parametrize("prior", ["standard", "data"])
@pytest.mark.parametrize("index", range(5))
def test_the_way_between_orderings_is_that_of_the_published_arrays(index: int, prior: str) -> None:
    r, variances = float(GOLDEN["r"][index]), torch.from_numpy(GOLDEN["Sigma"])
    label = torch.from_numpy((1 - r) * GOLDEN["label_variance"] + r * GOLDEN["label_frequency"])
    for a in GOLDEN["a"]:
        schedule = {"kind": "gud", "softness_a": float(a), "ordering_r": r, "log_snr_data": 7.0, "log_snr_prior": -3.0}
        spec = {"kind": "spectral", "basis": "pixel", "prior": prior, "schedule": schedule}
        process = build_process(spec, (32,), Statistics(mean=torch.zeros(32), variances=variances))
        at_data = 7.0 - a * (label - label.max())
        span = 10.0 + a * (label.max() - label.min())
        for t in (0.0, 0.3, 1.0):
            torch.testing.assert_close(process.marginal(t).log_snr[0], at_data - t * span, rtol=0, atol=1e-12)


@EXAMPLES
@given(r=shares)
def test_labels_move_in_a_straight_line_between_the_orderings(r: float) -> None:
    for basis in ORDERINGS:
        first, last, between = (
            process_of(basis, "standard", softness_a=1.0, ordering_r=share).marginal(0.0).log_snr[0]
            for share in (0.0, 1.0, r)
        )
        # log SNR at t = 0 is a constant less a times the label.
        mixed = (1 - r) * first + r * last
        shift = between - mixed
        torch.testing.assert_close(shift, shift[:1].expand_as(shift), rtol=0, atol=1e-10)
