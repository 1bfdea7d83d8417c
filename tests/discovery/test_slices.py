"""What EndpointSlices add up to."""

from __future__ import annotations

import json
from typing import Any

import msgspec
import pytest

from gateway.config.discovered import Discovered
from gateway.config.schema_discovery import MAX_BACKENDS, KubernetesConfig
from gateway.discovery.slices import EndpointSlice, ServiceSlices
from gateway.discovery.source import SourceFailed
from tests.discovery.kube_double import Json, endpoint, slice_of

HTTP, METRICS = {"name": "http", "port": 8000}, {"name": "metrics", "port": 9090}


class Service:
    def __init__(self, **settings: Any) -> None:
        self._slices = ServiceSlices(KubernetesConfig(service="vllm", **settings))

    def put(self, *slices: Json) -> Discovered:
        for made in slices:
            self._slices.put(msgspec.json.decode(json.dumps(made), type=EndpointSlice))
        return self._slices.discovered()


def urls(found: Discovered) -> list[str]:
    return [str(backend.url) for backend in found.backends]


def found_in(*slices: Json, **settings: Any) -> Discovered:
    return Service(**settings).put(*slices)


def test_ready_is_what_is_not_said_to_be_otherwise() -> None:
    unsaid: Json = {"addresses": ["10.0.0.4"]}
    null: Json = {"addresses": ["10.0.0.5"], "conditions": None, "targetRef": None}
    ends = [endpoint("10.0.0.1"), endpoint("10.0.0.2", ready=False), endpoint("10.0.0.3", ready=None)]
    found = found_in(slice_of("s", [*ends, unsaid, null]))
    assert urls(found) == [f"http://10.0.0.{n}:8000" for n in (1, 3, 4, 5)]
    assert (found.expected, found.notes) == (5, ())


@pytest.mark.parametrize("ready", [True, False])
def test_what_terminates_leaves_and_is_not_missed(ready: bool) -> None:
    # ready=True: a Service with publishNotReadyAddresses says so of everything.
    ends = [endpoint("10.0.0.1"), endpoint("10.0.0.2", ready=ready, serving=True, terminating=True)]
    found = found_in(slice_of("s", ends))
    assert (urls(found), found.expected) == (["http://10.0.0.1:8000"], 1)


def test_a_pod_in_slices_of_both_families_is_one_backend() -> None:
    six = slice_of("six", [endpoint("fd00::1", pod="a"), endpoint("fd00::2", pod="b")], address_type="IPv6")
    four = slice_of("four", [endpoint("10.0.0.1", pod="a")])
    found = found_in(six, four)
    assert (urls(found), found.expected) == (["http://10.0.0.1:8000", "http://[fd00::2]:8000"], 2)


def test_a_pod_that_moves_between_slices_is_one_backend() -> None:
    stale = slice_of("s1", [endpoint("10.0.0.1", pod="a", ready=False)])
    assert urls(found_in(stale, slice_of("s2", [endpoint("10.0.0.1", pod="a")]))) == ["http://10.0.0.1:8000"]
    leaving = slice_of("s2", [endpoint("10.0.0.1", pod="a", terminating=True)])
    assert urls(found_in(slice_of("s1", [endpoint("10.0.0.1", pod="a")]), leaving)) == []


def test_an_address_that_a_new_pod_has_taken_over_is_a_backend() -> None:
    ends = [endpoint("10.0.0.1", pod="old", terminating=True), endpoint("10.0.0.1", pod="new")]
    assert urls(found_in(slice_of("s", ends))) == ["http://10.0.0.1:8000"]


def test_of_an_endpoints_addresses_the_first_good_one_is_used() -> None:
    ends = [endpoint("nonsense", "fd00::1", "10.0.0.1", "10.0.0.2"), endpoint("10.0.0.999"), endpoint()]
    found = found_in(slice_of("s", ends))
    assert urls(found) == ["http://10.0.0.1:8000"]
    assert found.notes == ("slice s has an endpoint without a valid address",)


def test_names_are_backends_too_if_they_are_names() -> None:
    made = slice_of("s", [endpoint("Engine.example."), endpoint("a b")], address_type="FQDN")
    assert urls(found_in(made, slice_of("t", [endpoint("x")], address_type="Carrier"))) == [
        "http://engine.example:8000"
    ]


@pytest.mark.parametrize(
    ("wanted", "ports", "number"),
    [
        (None, [HTTP], 8000),
        (None, [{"name": None, "port": 8000}], 8000),
        ("http", [METRICS, HTTP], 8000),
        ("9090", [METRICS, HTTP], 9090),
        ("8000", [], 8000),
        ("8000", None, 8000),
    ],
)
def test_which_port(wanted: str | None, ports: list[Json] | None, number: int) -> None:
    found = found_in(slice_of("s", [endpoint("10.0.0.1")], ports=ports), port=wanted)
    assert (urls(found), found.notes) == ([f"http://10.0.0.1:{number}"], ())


@pytest.mark.parametrize(
    ("wanted", "ports", "note"),
    [
        (None, [METRICS, HTTP], "slice s has not one port: it has metrics 9090, http 8000"),
        (None, [], "slice s has not one port: it has none"),
        ("grpc", [HTTP], "slice s has not port grpc: it has http 8000"),
        ("80", [HTTP], "slice s has not port 80: it has http 8000"),
        ("http", [{"name": "http", "port": None}], "slice s has not port http: it has http None"),
        ("http", [{**HTTP, "protocol": "UDP"}], "slice s has not port http: it has http 8000"),
        ("http", [{"name": "http", "port": 70000}], "slice s has not port http: it has http 70000"),
    ],
)
def test_no_such_port(wanted: str | None, ports: list[Json], note: str) -> None:
    found = found_in(slice_of("s", [endpoint("10.0.0.1")], ports=ports), port=wanted)
    assert (found.backends, found.expected, found.notes) == ((), 1, (note,))


def test_a_port_may_have_another_number_in_each_slice() -> None:
    other = slice_of("s2", [endpoint("10.0.0.2")], ports=[{"name": "http", "port": 8080}])
    found = found_in(slice_of("s1", [endpoint("10.0.0.1")]), other, port="http", scheme="https", prefix="/x")
    assert urls(found) == ["https://10.0.0.1:8000/x", "https://10.0.0.2:8080/x"]


def test_what_was_lost_is_missed_and_what_is_only_being_added_is_not() -> None:
    service = Service()
    old = [endpoint(f"10.0.0.{n}", pod=f"p{n}", ready=n != 3) for n in (1, 2, 3)]
    assert service.put(slice_of("s", old)).expected == 3, "at the start nobody knows who was ready before"
    new = [endpoint(f"10.0.1.{n}", pod=f"q{n}", ready=False) for n in range(8)]
    assert service.put(slice_of("s", old + new)).expected == 3, "growing does not make a cluster small"
    new[0]["conditions"]["ready"] = True
    assert service.put(slice_of("s", old + new)).expected == 4
    new[0]["conditions"]["ready"] = False
    found = service.put(slice_of("s", old + new))
    assert (len(found.backends), found.expected) == (2, 4), "it was there, and is missing now"
    new[0]["conditions"]["terminating"] = True
    assert service.put(slice_of("s", old + new)).expected == 3


def test_a_flood_of_endpoints_is_refused() -> None:
    ends = [endpoint(f"10.{n >> 16}.{n >> 8 & 255}.{n & 255}") for n in range(MAX_BACKENDS + 1)]
    assert len(found_in(slice_of("s", ends[:-1])).backends) == MAX_BACKENDS
    with pytest.raises(SourceFailed, match="more than 10000 endpoints"):
        found_in(slice_of("s", ends))
