"""Spillway beside its peers: same backend, same load, one core for each proxy, rounds interleaved.

example: python benchmarks/peers/run.py --only spillway,haproxy --figures a,c --rounds 5
"""

from __future__ import annotations

import argparse
import os
import signal
import socket
import sys
import time
from pathlib import Path

import report
from figures import FIGURES, Visit
from measure import Bench, Values, start_proxy
from peers import HERE, PEERS, REPO, Peer, Site
from processes import Failed

# A visit runs its figures in this order: memory before anything has grown, throughput before the figures that
# derive their rate from it.
ORDER = "eabcd"


def parse() -> argparse.Namespace:
    form = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=form)
    names = [peer.name for peer in PEERS]
    parser.add_argument("--only", default=",".join(names), help="peers to run, with commas (default: all)")
    parser.add_argument("--figures", default=",".join(FIGURES), help="a,b,c,d,e (default: all)")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=4.0, help="length of each measured window")
    parser.add_argument("--rate", type=float, default=1000.0, help="common fixed rate of figures b and d")
    parser.add_argument("--quick", action="store_true", help="one round with short windows (about 3 minutes)")
    parser.add_argument("--spillway-python", type=Path, help="a Python with Spillway (default: this one)")
    parser.add_argument("--envs", type=Path, default=REPO / ".envs", help="where the peers are installed")
    parser.add_argument("--port-shift", type=int, default=0, help="added to every port")
    parser.add_argument("--out", type=Path, default=REPO / "benchmarks" / "results")
    args = parser.parse_args()
    if args.quick:
        args.rounds, args.seconds = 1, 1.2
    args.only, args.figures = args.only.split(","), "".join(args.figures.split(","))
    if unknown := set(args.only) - set(names) or set(args.figures) - set(FIGURES):
        parser.error(f"unknown: {', '.join(sorted(unknown))}")
    return args


def site_of(args: argparse.Namespace) -> Site:
    """The folders and ports of this run; raises Failed when a port is taken."""
    shift = args.port_shift
    work = HERE / ".work" / str(shift)  # its own, so that two runs at once keep their files apart
    work.mkdir(parents=True, exist_ok=True)
    # Not resolved: the python of an environment is a link, and its target would not see the environment.
    python = args.spillway_python and Path(os.path.abspath(args.spillway_python))
    backends = (19001 + shift, 19002 + shift, 19003 + shift)
    site = Site(work, args.envs.absolute(), python, 18080 + shift, 19090 + shift, backends)
    for port in (site.port, site.admin, *site.backends):
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("127.0.0.1", port))
            except OSError as exc:
                raise Failed(f"port {port} is taken: another run? (--port-shift)") from exc
    return site


def visit(peer: Peer, bench: Bench, figures: str, common_rate: float, run: report.Run) -> None:
    """Starts one peer, measures its figures, stops it. What fails is kept with its reason."""
    number = run.round
    try:
        proxy, run.versions[peer.name] = start_proxy(peer, bench)
    except Failed as exc:
        run.missing[peer.name] = str(exc)
        say(f"{peer.name}: missing, {exc}")
        return
    visit_now = Visit(bench, peer, proxy, common_rate)
    try:
        for figure in (figure for figure in ORDER if figure in figures and proxy.is_alive()):
            where = {"round": number, "peer": peer.name, "figure": figure}
            try:
                values = visit_now.measure(figure)
                run.rows.append({**where, **values})
                say(f"round {number} {peer.name} {figure}: {brief(values)}")
            except Failed as exc:
                run.failures.append({**where, "reason": str(exc)})
                say(f"round {number} {peer.name} {figure}: failed, {exc}")
    finally:
        proxy.stop()


def brief(values: Values) -> str:
    return ", ".join(f"{key} {value}" for key, value in values.items())


def say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def main() -> int:
    args = parse()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that what we started is stopped then, too
    started = time.monotonic()
    try:
        bench = Bench(site_of(args), args.seconds)
    except Failed as exc:
        say(str(exc))
        return 1
    config = {key: getattr(args, key) for key in ("rounds", "seconds", "rate", "figures", "quick")}
    run = report.Run.begin(config)
    chosen = [peer for peer in PEERS if peer.name in args.only]
    try:
        for run.round in range(1, args.rounds + 1):
            # Every second round runs backwards, so that a slow drift of the machine favours nobody.
            for peer in chosen if run.round % 2 else chosen[::-1]:
                if peer.name not in run.missing:
                    visit(peer, bench, args.figures, args.rate, run)
    finally:
        bench.backend.stop()
        run.took_s = round(time.monotonic() - started, 1)
        if run.rows:
            print(report.write(run, args.out))
    return 0


if __name__ == "__main__":
    sys.exit(main())
