import math

import pytest

from entprog.core.bands import band_edges, band_means


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
