"""The shape of the wave."""

from itertools import pairwise

from gateway.demo.fleet import CLUSTERS, SLOTS
from gateway.demo.load import FEW, MANY, clients_at


def test_the_wave_begins_and_ends_low_and_its_top_is_above_every_slot():
    assert clients_at(0, period_s=10) == clients_at(10, period_s=10) == FEW
    assert clients_at(5, period_s=10) == MANY > SLOTS * len(CLUSTERS)


def test_the_wave_rises_and_falls_without_a_jump():
    clients = [clients_at(tenths / 10, period_s=10) for tenths in range(101)]
    assert max(abs(b - a) for a, b in pairwise(clients)) <= 1
