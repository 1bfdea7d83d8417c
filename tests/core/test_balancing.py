"""Who comes first. A draw decides, so each choice can be replayed; over many draws the shares are right."""

from __future__ import annotations

from collections import Counter
from random import Random

import pytest

from gateway.core.balancing import by_least_loaded, by_weight, order_backends
from gateway.core.fleet import BackendState, ClusterState, Drained
from tests.core.stories import backends_of, cluster_of, fleet_with, order, starts, tell

HIGHEST_DRAW = 2**64 - 1


def states(*members, in_flight=(), latency_s=()) -> list[BackendState]:
    made = [BackendState(backend) for backend in backends_of(*members)]
    for state, count in zip(made, in_flight, strict=False):
        state.in_flight = count
    for state, seconds in zip(made, latency_s, strict=False):
        state.latency.observe(seconds, 0.0)
    return made


def ids(ordered) -> list[str]:
    return [state.id for state in ordered]


def draws(count: int, seed: int = 7) -> list[int]:
    random = Random(seed)
    return [random.getrandbits(64) for _ in range(count)]


def firsts(members, count: int = 4000) -> Counter[str]:
    return Counter(order_backends(members, draw, 0.0)[0].id for draw in draws(count))


def pair(first: int, second: int) -> int:
    """The draw that compares the backends of these two indexes, in this order."""
    return (second - (second > first)) << 32 | first


def test_one_backend_is_the_order():
    assert ids(order_backends(states(("a", 1), in_flight=[1]), 5, 0.0)) == ["a"]


@pytest.mark.parametrize("draw", [0, 1, 1 << 32, 3 << 32 | 2, HIGHEST_DRAW])
def test_nobody_is_left_out_or_named_twice(draw):
    for count in range(1, 6):
        members = states(*[(f"b{n}", 4) for n in range(count)])
        assert sorted(ids(order_backends(members, draw, 0.0))) == sorted(ids(members))


def test_the_draw_names_the_two_that_are_compared():
    members = states(("a", 9), ("b", 9), ("c", 9), ("d", 9), in_flight=[0, 1, 2, 3])
    assert ids(order_backends(members, pair(3, 2), 0.0)) == ["c", "d", "a", "b"]
    assert ids(order_backends(members, pair(2, 3), 0.0)) == ["c", "d", "a", "b"]
    assert ids(order_backends(members, pair(1, 3), 0.0)) == ["b", "d", "a", "c"]
    assert ids(order_backends(members, pair(0, 3), 0.0))[:2] == ["a", "d"]


def test_equal_ones_stand_as_drawn():
    members = states(("a", 9), ("b", 9))
    assert ids(order_backends(members, pair(0, 1), 0.0)) == ["a", "b"]
    assert ids(order_backends(members, pair(1, 0), 0.0)) == ["b", "a"]


@pytest.mark.parametrize("draw", [pair(0, 1), pair(1, 0)])
@pytest.mark.parametrize(
    ("in_flight", "latency_s", "weights", "expected"),
    [
        ((1, 0), (1.0, 1.0), (1, 1), "b"),  # 2 < 1
        ((0, 0), (1.0, 0.5), (1, 1), "b"),
        ((0, 2), (1.0, 0.4), (1, 1), "a"),  # 1.0 < 3 x 0.4
        ((0, 1), (1.0, 0.4), (1, 1), "b"),  # 2 x 0.4 < 1.0
        ((0, 2), (1.0, 1.0), (1, 4), "b"),  # 3 / 4 < 1
        ((0, 4), (1.0, 1.0), (1, 4), "a"),  # 5 / 4 > 1
        ((3, 2), (1.0, 1.0), (2, 1), "a"),  # 4 / 2 < 3
    ],
)
def test_the_lower_of_in_flight_plus_one_times_latency_per_weight_wins(
    in_flight, latency_s, weights, expected, draw
):
    members = states(("a", 9, weights[0]), ("b", 9, weights[1]), in_flight=in_flight, latency_s=latency_s)
    assert order_backends(members, draw, 0.0)[0].id == expected


def test_time_passing_evens_out_an_old_latency():
    slow, fast = states(("slow", 9), ("fast", 9), in_flight=[0, 1], latency_s=[2.0, 0.1])
    assert ids(order_backends([slow, fast], 0, 0.0)) == ["fast", "slow"]
    assert ids(order_backends([slow, fast], 0, 300.0)) == ["slow", "fast"]


def test_full_backends_come_last_however_good():
    members = states(
        ("a", 1), ("b", 1), ("c", 9), ("d", 9), in_flight=[1, 2, 8, 0], latency_s=[0.01, 0.01, 9, 9]
    )
    for draw in draws(100):
        assert ids(order_backends(members, draw, 0.0)) == ["d", "c", "a", "b"]


def test_one_with_headroom_among_full_ones_comes_first():
    members = states(("a", 1), ("b", 1), ("c", 1), in_flight=[1, 1, 0])
    for draw in draws(50):
        assert ids(order_backends(members, draw, 0.0)) == ["c", "a", "b"]


def test_all_full_keep_their_place():
    members = states(("a", 1), ("b", 1), in_flight=[1, 1])
    assert ids(order_backends(members, 1, 0.0)) == ["a", "b"]


@pytest.mark.parametrize("count", [2, 3, 5, 8])
def test_idle_equals_get_equal_shares(count):
    shares = firsts(states(*[(f"b{n}", 4) for n in range(count)]))
    assert len(shares) == count
    assert all(abs(share / 4000 - 1 / count) < 0.03 for share in shares.values())


def test_two_choices_never_pick_the_worst_and_pick_the_best_in_half_of_four():
    shares = firsts(states(("a", 9), ("b", 9), ("c", 9), ("d", 9), in_flight=[0, 1, 2, 3]))
    # P(best of two drawn without replacement out of four) = 3/6, 2/6, 1/6, 0.
    expected = {"a": 1 / 2, "b": 1 / 3, "c": 1 / 6, "d": 0.0}
    assert all(abs(shares[id_] / 4000 - share) < 0.03 for id_, share in expected.items())
    assert shares["d"] == 0


def test_a_busy_fleet_is_filled_evenly():
    members = states(*[(f"b{n}", 100) for n in range(4)])
    for draw in draws(200):
        order_backends(members, draw, 0.0)[0].in_flight += 1
    loads = [member.in_flight for member in members]
    assert max(loads) - min(loads) <= 6, loads


# --- clusters ----------------------------------------------------------------------------------------


def clusters(**weights: float) -> list[ClusterState]:
    return [
        ClusterState(cluster_of(name, (f"{name}1", 4), weight=weight), tuple(states((f"{name}1", 4))))
        for name, weight in weights.items()
    ]


def names(ordered) -> list[str]:
    return [cluster.name for cluster in ordered]


def test_weights_are_the_shares_of_coming_first():
    members = clusters(a=5, b=3, c=2)
    shares = Counter(names(by_weight(members, draw))[0] for draw in draws(5000))
    assert all(
        abs(shares[name] / 5000 - share) < 0.025 for name, share in [("a", 0.5), ("b", 0.3), ("c", 0.2)]
    )


def test_after_the_drawn_one_the_others_come_by_falling_weight():
    members = clusters(a=1, b=3, c=2)
    assert names(by_weight(members, 0)) == ["a", "b", "c"]
    assert names(by_weight(members, 2**63)) == ["b", "c", "a"]
    assert names(by_weight(members, HIGHEST_DRAW)) == ["c", "b", "a"]


def test_the_draw_decides_at_the_edge_of_a_share():
    members = clusters(a=1, b=1)
    assert names(by_weight(members, 2**63 - 2**40)) == ["a", "b"]
    assert names(by_weight(members, 2**63)) == ["b", "a"]


@pytest.mark.parametrize("policy", [by_weight, by_least_loaded])
def test_a_policy_orders_all_and_changes_nothing(policy):
    members = clusters(a=1, b=2, c=3)
    for draw in [0, HIGHEST_DRAW, *draws(50)]:
        assert sorted(names(policy(members, draw))) == ["a", "b", "c"]
    assert names(members) == ["a", "b", "c"]
    assert names(policy(members[:1], HIGHEST_DRAW)) == ["a"]


def test_the_least_loaded_is_that_with_the_smallest_share_in_use():
    small = ClusterState(cluster_of("small", ("s", 2)), tuple(states(("s", 2), in_flight=[1])))
    big = ClusterState(cluster_of("big", ("b", 10)), tuple(states(("b", 10), in_flight=[4])))
    full = ClusterState(cluster_of("full", ("f", 1)), tuple(states(("f", 1), in_flight=[1])))
    for draw in draws(20):
        assert names(by_least_loaded([full, small, big], draw)) == ["big", "small", "full"]


def test_equally_loaded_clusters_take_turns_by_the_draw():
    members = clusters(a=1, b=1, c=1)
    shares = Counter(names(by_least_loaded(members, draw))[0] for draw in draws(3000))
    assert all(abs(shares[name] / 3000 - 1 / 3) < 0.03 for name in "abc")


def test_a_drained_backend_is_no_room_for_the_least_loaded():
    fleet = fleet_with(
        cluster_of("half", ("h1", 4), ("h2", 4)), cluster_of("whole", ("w1", 8)), policy="least_loaded"
    )
    starts(fleet, "h1", 3)
    starts(fleet, "w1", 4)
    assert order(fleet)[0][0] == "h", "3 of 8 against 4 of 8"
    tell(fleet, Drained("h2"))
    assert order(fleet) == ["w1", "h1"], "3 of 4 against 4 of 8"


@pytest.mark.parametrize("policy", ["weight", "least_loaded"])
@pytest.mark.parametrize("width", [2, 3, 4])
def test_the_choice_of_the_cluster_says_nothing_about_the_backend(policy, width):
    """One draw serves both choices: every idle backend of every cluster gets its share."""
    fleet = fleet_with(
        *(cluster_of(name, *[(f"{name}{n}", 4) for n in range(width)]) for name in "xy"), policy=policy
    )
    shares = Counter(order(fleet, draw=draw)[0] for draw in draws(3000))
    assert len(shares) == 2 * width
    assert all(abs(share / 3000 - 1 / (2 * width)) < 0.035 for share in shares.values()), shares
