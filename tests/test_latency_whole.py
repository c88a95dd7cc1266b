"""Whole networks: measured, and prepared before their turn."""

from __future__ import annotations

import dataclasses
import json
import math

import pytest

from nasctl.arch import Architecture
from nasctl.latency import LatencySettings, WholeLatency, measure_networks, prepared_ahead
from tests.latency_device import CANARY_MS, SETTINGS, Device, build_network, network_of, truth


class TestWhole:
    def test_percentiles_and_intervals(self) -> None:
        a = network_of(100, 100, 100)
        (found,) = measure_networks(
            [a, a],
            dataclasses.replace(SETTINGS, rounds=40),
            build_network=build_network,
            canary_ms=CANARY_MS,
            runtime=Device(noise=0.1),
        ).values()
        assert found.interval[0] <= found.p50_ms <= found.interval[1]
        assert found.p90_interval[0] <= found.p90_ms <= found.p90_interval[1]
        assert found.p50_ms == pytest.approx(truth(a), rel=0.05)
        assert found.p90_ms == pytest.approx(truth(a) * math.exp(0.1 * 1.2816), rel=0.07)
        assert found.n == 3 * found.rounds >= 64
        assert WholeLatency.from_json(json.loads(json.dumps(found.to_json()))) == found

    def test_what_is_ready_is_not_prepared_again(self) -> None:
        a, b = network_of(100, 100), network_of(35, 60)
        device = Device()
        ready = {a.id: device.prepare(build_network(a), a.input_shape)}
        found = measure_networks(
            [a, b],
            SETTINGS,
            build_network=build_network,
            canary_ms=CANARY_MS,
            runtime=device,
            ready=ready,
        )
        assert device.prepared == 1 + 2  # and b, and the canary
        assert {i: w.p50_ms for i, w in found.items()} == {
            n.id: pytest.approx(truth(n)) for n in (a, b)
        }

    def test_networks_are_prepared_ahead_one_by_one(self) -> None:
        from torch import nn

        built = []

        def build(architecture: Architecture) -> nn.Module:
            built.append(architecture)
            return nn.Linear(7, 7)

        networks = [network_of(100), network_of(35)]
        steps = prepared_ahead(networks, SETTINGS, build_network=build)
        arch_id, timer = next(steps)
        assert (arch_id, built) == (networks[0].id, networks[:1])
        assert all(ms > 0 for ms in timer(3).calls_ms)
        assert [name for name, _ in steps] == [networks[1].id]

    def test_where_a_runtime_takes_the_device_nothing_is_prepared_ahead(self) -> None:
        settings = LatencySettings(runtime="torch")
        steps = prepared_ahead([network_of(100)], settings, build_network=build_network)
        assert list(steps) == []

    def test_nothing_to_measure(self) -> None:
        assert measure_networks([], SETTINGS, build_network=build_network, canary_ms=None) == {}
