"""One function per figure: a throughput, b CPU per request, c CPU per event, d latency, e memory."""

from __future__ import annotations

import time
from dataclasses import dataclass

from measure import CONNECTIONS, IDLE_EVENTS_PER_S, Bench, Values, Window
from peers import Peer
from processes import Failed, Process, cpu_s, rss_mb

FIGURES = "abcde"


@dataclass
class Visit:
    """One proxy in one round: what is measured first decides the loads of what comes later."""

    bench: Bench
    peer: Peer
    proxy: Process
    common_rate: float
    max_rps: float = 0.0

    def measure(self, figure: str) -> Values:
        """Raises Failed when the proxy does not survive or answers nothing."""
        self.settle()
        return {"a": self.throughput, "b": self.cpu_per_request, "c": self.cpu_per_event,
                "d": self.latency, "e": self.memory}[figure]()  # fmt: skip

    def settle(self, patience_s: float = 5.0) -> None:
        """Waits until the proxy is idle: what the last load left over is not this figure's."""
        deadline = time.monotonic() + patience_s
        while time.monotonic() < deadline:
            before = cpu_s(self.proxy.pid)
            time.sleep(0.2)
            if cpu_s(self.proxy.pid) - before <= 0.01:
                return

    def closed_loop(self, seconds: float) -> Window:
        return self.bench.load(self.proxy, self.bench.plain, seconds, "--conns", str(CONNECTIONS))

    def throughput(self) -> Values:
        window = self.closed_loop(self.bench.seconds)
        self.max_rps = answers(window) / window.seconds
        per_cpu_s = answers(window) / max(window.proxy_cpu_s, 0.01)
        return {
            "requests_per_s": round(self.max_rps, 1),
            "requests_per_cpu_s": round(per_cpu_s, 1),
            **window.common(),
        }

    def rate(self) -> float:
        """The common rate, or half of what this proxy can do when that is less."""
        if not self.max_rps:
            probe = self.closed_loop(1.0)
            self.max_rps = answers(probe) / probe.seconds
        return min(self.common_rate, self.max_rps / 2)

    def at_rate(self, rate: float, *, direct: bool = False) -> Window:
        seconds = self.bench.seconds / 2 if direct else self.bench.seconds
        proxy = None if direct else self.proxy
        flags = ("--conns", str(CONNECTIONS), "--rate", f"{rate:.2f}", "--warmup", "0.3")
        # Slow proxies answer little: their window is longer, so that the clock's tick of 10 ms stays small.
        return self.bench.load(proxy, self.bench.plain, max(seconds, 40 / rate), *flags)

    def cpu_per_request(self) -> Values:
        rate = self.rate()
        window = self.at_rate(rate)
        micros = window.proxy_cpu_s * 1e6 / answers(window)
        return {"cpu_us_per_request": round(micros, 2), "rate": round(rate, 1), **window.common()}

    def cpu_per_event(self) -> Values:
        streams, per_s = self.peer.streams, self.peer.events_per_s
        flags = ("--streams", "--conns", str(streams))
        window = self.bench.load(self.proxy, self.bench.stream_body(per_s), self.bench.seconds, *flags)
        events = window.seen["events"]
        if not events:
            raise Failed("no events came through")
        return {
            "cpu_us_per_event": round(window.proxy_cpu_s * 1e6 / events, 2),
            "delivered": round(events / (streams * per_s * window.seconds), 4),
            "delay_p50_us": window.seen["p50_us"],
            "delay_p99_us": window.seen["p99_us"],
            "streams": streams,
            "events_per_s": per_s,
            **window.common(),
        }

    def latency(self) -> Values:
        """Direct and through the proxy, at the same rate, one right after the other."""
        values: Values = {}
        common = self.rate()
        half = self.max_rps / 2
        # A proxy that cannot carry the common rate has only its own half load.
        loads = [("half", half)] if common == half else [("common", common), ("half", half)]
        for name, rate in loads:
            direct, through = self.at_rate(rate, direct=True), self.at_rate(rate)
            values[f"{name}_rate"] = round(rate, 1)
            for share in ("p50_us", "p99_us"):
                values[f"{name}_direct_{share}"] = direct.seen[share]
                values[f"{name}_added_{share}"] = round(through.seen[share] - direct.seen[share], 1)
            values |= {f"{name}_{key}": value for key, value in through.common().items()}
        return values

    def memory(self) -> Values:
        """Comes first in a visit: memory that an earlier load left behind would hide the growth."""
        self.closed_loop(1.0)
        idle = rss_mb(self.proxy.pid)
        opened = self.peer.open_streams
        window = self.open_streams(opened)
        values = {
            "rss_idle_mb": round(idle, 1),
            "rss_growth_mb_per_1000": round((window.rss_mb - idle) * 1000 / opened, 1),
            "open_streams": opened,
            "lost": window.seen["lost"],
        }
        if self.peer.many_streams:
            many = self.open_streams(self.peer.many_streams)
            values["many_streams"] = self.peer.many_streams
            values["many_lost"] = many.seen["lost"]
            expected = self.peer.many_streams * IDLE_EVENTS_PER_S * many.seconds
            values["many_delivered"] = round(many.seen["events"] / expected, 4)
        return values

    def open_streams(self, count: int) -> Window:
        flags = ("--streams", "--conns", str(count), "--ramp", "1000")
        return self.bench.load(self.proxy, self.bench.stream_body(IDLE_EVENTS_PER_S), 1.5, *flags)


def answers(window: Window) -> int:
    count = int(window.seen["answers"])
    if not count:
        raise Failed(f"no good answers ({window.seen['errors']} errors)")
    return count
