"""The five figures, each measured on one running proxy."""

from __future__ import annotations

import http.client
import json
import selectors
import shutil
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from peers import HERE, Peer, Site
from processes import LOAD_CORE, PROXY_CORE, Failed, Process, cpu_s, machine_busy_s, rss_mb, start

CONNECTIONS = 32
REQUEST_BYTES = 700
# Streams that only have to be open, for memory: few events, so that even 2,000 of them are no CPU load.
IDLE_EVENTS_PER_S = 2

Values = dict[str, Any]


@dataclass(frozen=True)
class Window:
    """What the load generator saw, and what the proxy and the machine used in exactly that time."""

    seen: Values
    proxy_cpu_s: float
    foreign_cpu_s: float
    rss_mb: float

    @property
    def seconds(self) -> float:
        return float(self.seen["seconds"])

    def common(self) -> Values:
        """Kept with every figure: how full the proxy's core was, and who else used the machine."""
        return {
            "proxy_core_share": round(self.proxy_cpu_s / self.seconds, 4),
            "foreign_cores": round(self.foreign_cpu_s / self.seconds, 4),
            "errors": self.seen["errors"],
            "reconnects": self.seen["reconnects"],
        }


class Bench:
    """The tools of a run: the built C programs, the running backend, the request bodies."""

    def __init__(self, site: Site, seconds: float) -> None:
        self.site = site
        self.seconds = seconds
        if not shutil.which("gcc"):
            raise Failed("gcc is missing: the backend and the load generator are built by it at run time")
        for name in ("backend", "load"):
            subprocess.run(["gcc", "-O2", "-Wall", "-o", site.work / name, HERE / f"{name}.c"], check=True)
        argv = [str(site.work / "backend"), *map(str, site.backends)]
        self.backend = start("backend", argv, core=LOAD_CORE, log=site.work / "backend.log")
        self.plain = self.body("plain.json", {})

    def body(self, name: str, extra: Values) -> Path:
        """A chat completion request of exactly REQUEST_BYTES."""
        message = {"role": "user", "content": ""}
        body = {"model": "llama-3-8b", "messages": [message], "max_tokens": 64, **extra}
        message["content"] = "x" * (REQUEST_BYTES - len(json.dumps(body)))
        path = self.site.work / name
        path.write_text(json.dumps(body))
        return path

    def stream_body(self, events_per_s: int) -> Path:
        """A stream that outlasts every run; see backend.c for why these two fields carry its shape."""
        return self.body("stream.json", {"stream": True, "max_tokens": 1_000_000, "seed": events_per_s})

    def load(self, proxy: Process | None, body: Path, seconds: float, *flags: str) -> Window:
        """Runs the load generator once, through the proxy or (None) straight to the backend."""
        port = self.site.port if proxy else self.site.backends[0]
        argv = [str(self.site.work / "load"), "--port", str(port), "--body", str(body), *flags]
        log = self.site.work / "load.log"
        load = start("load", [*argv, "--seconds", str(seconds)], core=LOAD_CORE, log=log, piped=True)
        try:
            return self._window(load, proxy, seconds)
        finally:
            load.stop()

    def _window(self, load: Process, proxy: Process | None, seconds: float) -> Window:
        read_line(load, 60.0)
        ours = [process.pid for process in (proxy, load, self.backend) if process]
        before = [cpu_s(pid) for pid in ours]
        machine_before = machine_busy_s()
        time.sleep(seconds * 0.7)
        memory = rss_mb(proxy.pid) if proxy else 0.0
        seen = read_line(load, seconds + 10.0)
        used = [cpu_s(pid) - cpu for pid, cpu in zip(ours, before, strict=True)]
        foreign = machine_busy_s() - machine_before - sum(used)
        if proxy and not proxy.is_alive():
            raise Failed(f"ended during the run: {proxy.last_words()}")
        return Window(seen, used[0] if proxy else 0.0, max(foreign, 0.0), memory)


def read_line(load: Process, patience_s: float) -> Values:
    """The next report of the load generator; raises Failed when none comes in time."""
    assert load.popen.stdout
    with selectors.DefaultSelector() as selector:
        selector.register(load.popen.stdout, selectors.EVENT_READ)
        line = load.popen.stdout.readline() if selector.select(patience_s) else ""
    if not line:
        raise Failed(f"the load generator gave no result: {load.last_words()}")
    values: Values = json.loads(line)
    return values


def start_proxy(peer: Peer, bench: Bench) -> tuple[Process, str]:
    """Starts a peer and waits until it carries a request to a backend. Returns it with its version."""
    launch = peer.launch(bench.site)
    log = bench.site.work / f"{peer.name}.log"
    proxy = start(peer.name, launch.argv, core=PROXY_CORE, log=log, env=launch.env)
    deadline = time.monotonic() + peer.start_s
    status = 0
    while time.monotonic() < deadline and proxy.is_alive():
        status = one_request(bench)
        if status == 200:
            return proxy, launch.version
        time.sleep(0.1)
    reason = f"status {status} after {peer.start_s:g} s" if proxy.is_alive() else "ended at start"
    proxy.stop()
    raise Failed(f"{reason}: {proxy.last_words()}")


def one_request(bench: Bench) -> int:
    """Status of one request through the proxy; 0 when there was no answer."""
    connection = http.client.HTTPConnection("127.0.0.1", bench.site.port, timeout=5)
    try:
        headers = {"Content-Type": "application/json"}
        connection.request("POST", "/v1/chat/completions", bench.plain.read_bytes(), headers)
        return connection.getresponse().status
    except (OSError, http.client.HTTPException):
        return 0
    finally:
        connection.close()
