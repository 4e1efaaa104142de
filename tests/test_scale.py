"""The simulation of `bench/scale.py`: without failures it is arithmetic, with them no unit is lost or done twice."""

from __future__ import annotations

import importlib
from pathlib import Path
from types import ModuleType

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st


@pytest.fixture(scope="module")
def scale() -> ModuleType:
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(Path(__file__).parents[1] / "bench"))
        return importlib.import_module("scale")


@pytest.mark.parametrize(("units", "workers", "rounds"), [(12, 4, 3), (13, 4, 4), (5, 4, 2), (1, 10, 1), (99, 1, 99)])
def test_no_failure_and_no_spread_is_exact(scale: ModuleType, units: int, workers: int, rounds: int) -> None:
    outcome = scale.Simulation(units, scale.Cluster(workers, 64.0, 0, 0)).run()
    assert (outcome.seconds, outcome.units) == (64.0 * rounds, units)
    assert (outcome.worked, outcome.lost, outcome.handed_again) == (64.0 * units, 0, 0)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=60)
@given(
    st.integers(1, 400),
    st.integers(1, 40),
    st.sampled_from([0, 200.0, 2000.0]),
    st.sampled_from([0, 400.0]),
    st.integers(0, 9),
)
def test_sums_add_up_whoever_dies(
    scale: ModuleType, units: int, workers: int, worker_mtbf: float, node_mtbf: float, seed: int
) -> None:
    cluster = scale.Cluster(workers, 50.0, worker_mtbf=worker_mtbf, node_mtbf=node_mtbf, restart=30.0)
    outcome = scale.Simulation(units, cluster, seed).run()
    assert outcome.units == units
    assert outcome.worked + outcome.lost <= outcome.seconds * workers + 1e-6
    deaths = outcome.worker_deaths + scale.NODE * outcome.node_deaths
    assert outcome.handed_again <= scale.IN_FLIGHT * deaths
    assert outcome.handed_again_with_nodes <= outcome.handed_again
    assert outcome.lost_with_nodes <= outcome.lost + 1e-6
    assert (outcome.lost > 0) <= (deaths > 0)
    assert outcome == scale.Simulation(units, cluster, seed).run()


def test_the_mean_of_a_unit_is_kept_with_stragglers(scale: ModuleType) -> None:
    outcome = scale.Simulation(40_000, scale.Cluster(1, 10.0)).run()
    assert outcome.worked / 40_000 == pytest.approx(10.0, rel=0.02)


def test_a_lost_node_costs_what_it_has_in_flight(scale: ModuleType) -> None:
    outcome = scale.Simulation(4000, scale.Cluster(8, 60.0, 0, 0, node_mtbf=3600.0)).run()
    assert outcome.node_deaths > 3
    assert outcome.handed_again == pytest.approx(16 * outcome.node_deaths, rel=0.1)
    assert 0 < outcome.lost / outcome.node_deaths < 8 * 60.0


def test_sizes_are_those_of_written_samples(scale: ModuleType) -> None:
    costs = scale.measure(200, 0.05)
    assert 512 * 10 * 2 < costs.shard_bytes < costs.loose_bytes < 30_000
    assert costs.part > 0 < costs.pack
    sizes = scale.sizes_of(10_001, costs)
    assert sizes["files"] == {"loose": 30_003, "parts": 11, "shards": 8}
