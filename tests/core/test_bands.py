import math

import pytest

from entprog.core.bands import band_edges, band_means, mean_log, watched_loss


def test_each_loss_counts_in_the_band_of_its_tau():
    found = band_means([1.0, 3.0, 10.0, 5.0], [0.05, 0.1, 0.3, 0.95])
    assert found[:2] == [2.0, 10.0]
    assert math.isnan(found[2])
    assert math.isnan(found[3])
    assert found[4] == 5.0


def test_an_edge_belongs_to_the_higher_band_and_one_to_the_highest():
    losses, tau = [1.0, 2.0, 4.0, 8.0, 16.0, 32.0], [0.0, 0.2, 0.4, 0.6, 0.8, 1.0]
    assert band_means(losses, tau) == [1.0, 2.0, 4.0, 8.0, 24.0]
    assert band_means(losses, tau, bands=1) == [63.0 / 6]


def test_bands_of_equal_size_average_to_the_mean():
    tau = [(i + 0.5) / 20 for i in range(20)]
    losses = [math.sin(i) for i in range(20)]
    assert math.isclose(sum(band_means(losses, tau)) / 5, sum(losses) / 20)


def test_nothing_is_in_no_band():
    assert all(math.isnan(value) for value in band_means([], []))


def test_edges():
    assert band_edges() == [(0.0, 0.2), (0.2, 0.4), (0.4, 0.6), (0.6, 0.8), (0.8, 1.0)]


@pytest.mark.parametrize(
    ("losses", "tau", "bands", "message"),
    [
        ([1.0], [0.1, 0.2], 5, "1 losses and 2 values of tau"),
        ([1.0], [1.5], 5, r"tau = 1.5: must be in \[0, 1\]"),
        ([1.0], [math.nan], 5, "tau = nan"),
        ([1.0], [0.5], 0, "bands = 0: must be at least 1"),
    ],
)
def test_bad_arguments_are_refused(losses, tau, bands, message):
    with pytest.raises(ValueError, match=message):
        band_means(losses, tau, bands)


def test_mean_log_weighs_bands_alike():
    bands = [0.5, 0.25, 0.1, 0.05, 0.01]
    assert mean_log(bands) == pytest.approx(sum(map(math.log, bands)) / 5)
    for k in range(5):  # one percent less counts the same in every band
        less = [loss * (0.99 if i == k else 1) for i, loss in enumerate(bands)]
        assert mean_log(bands) - mean_log(less) == pytest.approx(-math.log(0.99) / 5)


def test_mean_log_leaves_empty_bands_out():
    assert mean_log([0.5, None, math.nan, 2.0]) == pytest.approx(0)
    assert math.isnan(mean_log([])) and math.isnan(mean_log([None])) and mean_log([0.0, 1.0]) == -math.inf


def test_the_watched_loss_is_the_mean_unless_bands_are_asked_for():
    losses, tau = [0.9, 0.1, 0.04], [0.05, 0.5, 0.9]
    assert watched_loss(losses, tau, "mean") == sum(losses) / 3
    assert watched_loss(losses, tau, "bands") == pytest.approx(mean_log(losses))
    # low noise hides in the mean that high noise got worse
    worse = [0.85, 0.1, 0.06]
    assert watched_loss(worse, tau, "mean") < watched_loss(losses, tau, "mean")
    assert watched_loss(worse, tau, "bands") > watched_loss(losses, tau, "bands")
