"""The proxies under test: how each is found, configured and started. One function per peer.

Every peer gets one worker (or thread), an access log or its production log level, request ids where it has
them, keep-alive pools, and the same three backends, as three tiers where it knows tiers.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from processes import Failed

HERE = Path(__file__).resolve().parent
REPO = HERE.parents[1]


@dataclass(frozen=True)
class Site:
    """Where a run happens: its ports and folders."""

    work: Path
    envs: Path
    spillway_python: Path | None
    port: int = 18080
    admin: int = 19090
    backends: tuple[int, int, int] = (19001, 19002, 19003)

    def render(self, name: str) -> str:
        """Fills in configs/NAME and returns the path of the result."""
        values = {"PORT": self.port, "ADMIN": self.admin, "WORK": self.work}
        values |= {f"BACKEND{i}": port for i, port in enumerate(self.backends, 1)}
        template = (HERE / "configs" / name).read_text()
        text = re.sub(r"@([A-Z0-9]+)@", lambda hit: str(values[hit[1]]), template)
        target = self.work / name
        target.write_text(text)
        return str(target)

    def urls(self) -> list[str]:
        return [f"http://127.0.0.1:{port}" for port in self.backends]

    def installed(self, name: str, program: str) -> tuple[str, str]:
        """Program and version of a peer in its own environment; raises Failed when it is not there."""
        env = self.envs / name
        if not (env / ".installed").exists() or not (env / program).exists():
            raise Failed(f"not installed (benchmarks/peers/install {name})")
        return str(env / program), (env / ".installed").read_text().strip()


@dataclass(frozen=True)
class Launch:
    argv: list[str]
    version: str
    env: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Peer:
    """A proxy and the load it is asked to carry; the default load is the same for all but the slowest."""

    name: str
    launch: Callable[[Site], Launch]
    start_s: float = 15.0
    streams: int = 300
    events_per_s: int = 50
    open_streams: int = 1000
    many_streams: int = 2000


def system_program(name: str) -> str:
    found = shutil.which(name, path=os.environ.get("PATH", "") + ":/usr/sbin:/usr/local/sbin")
    if not found:
        raise Failed(f"not installed (system package {name})")
    return found


def first_version(argv: list[str]) -> str:
    """The first x.y.z that the program prints about itself."""
    done = subprocess.run(argv, capture_output=True, text=True, check=False, timeout=30)
    hit = re.search(r"\d+\.\d+\.\d+[-+\w]*", done.stdout + done.stderr)
    return hit[0] if hit else "unknown"


def git_commit(folder: Path) -> str:
    """Short commit of the checkout that holds folder, with + when files differ from it."""
    done = subprocess.run(
        ["git", "-C", str(folder), "describe", "--always", "--dirty=+", "--abbrev=10"],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    return done.stdout.strip() or "unknown"


def spillway(site: Site) -> Launch:
    python = site.spillway_python or Path(sys.executable)
    probe = "import platform, pathlib, gateway.cli as cli; print(platform.python_version()); "
    probe += "print(pathlib.Path(cli.__file__).parent)"
    done = subprocess.run([python, "-c", probe], capture_output=True, text=True, check=False, cwd=site.work)
    if done.returncode:
        reason = done.stderr.strip().splitlines()[-1:] or ["no output"]
        raise Failed(f"cannot be imported: {reason[0]}")
    command = [str(python), "-c", "import sys; from gateway.cli import main; sys.exit(main())"]
    argv = [*command, "serve", "-c", site.render("spillway.yaml")]
    python_version, folder = done.stdout.splitlines()
    return Launch(argv, f"{git_commit(Path(folder))} on CPython {python_version}")


def haproxy(site: Site) -> Launch:
    program = system_program("haproxy")
    return Launch([program, "-db", "-f", site.render("haproxy.cfg")], first_version([program, "-v"]))


def nginx(site: Site) -> Launch:
    program = system_program("nginx")
    where = ["-p", str(site.work), "-e", str(site.work / "nginx-error.log")]
    return Launch([program, *where, "-c", site.render("nginx.conf")], first_version([program, "-v"]))


def envoy(site: Site) -> Launch:
    _, version = site.installed("envoy", "bin/python")
    # The package's own command is a Python wrapper around this binary; its memory is not Envoy's.
    binaries = sorted((site.envs / "envoy").glob("lib/python*/site-packages/envoy/_bin/envoy"))
    if not binaries:
        raise Failed("the package holds no envoy binary")
    flags = ["--concurrency", "1", "--disable-hot-restart", "--log-level", "warning"]
    return Launch([str(binaries[0]), "-c", site.render("envoy.yaml"), *flags], version)


# They know no tiers. Power of two choices is what Spillway does inside a cluster, and cheaper than their
# default, which keeps a tree of prompts. The concurrency limit is out of reach, as Spillway's is. They log
# warnings only, where a function below does not say otherwise, and get one runtime thread.
ROUTER_FLAGS = ["--policy", "power_of_two", "--request-timeout-secs", "600"]
ROUTER_FLAGS += ["--max-concurrent-requests", "100000"]


def router(site: Site, name: str, *command: str, level: str = "warn") -> Launch:
    program, version = site.installed(name, f"bin/{name}")
    where = ["--host", "127.0.0.1", "--port", str(site.port), "--prometheus-host", "127.0.0.1"]
    where += ["--prometheus-port", str(site.admin), "--worker-urls", *site.urls()]
    argv = [program, *command, *where, *ROUTER_FLAGS, "--log-level", level]
    return Launch(argv, version, {"TOKIO_WORKER_THREADS": "1", "HF_ENDPOINT": "http://127.0.0.1:9"})


def vllm_router(site: Site) -> Launch:
    # At its default level it logs each request, as Spillway, HAProxy, nginx and Envoy do here.
    return router(site, "vllm-router", level="info")


def vllm_router_quiet(site: Site) -> Launch:
    # Without a line per request: less than the others do, and the best it can be made to look.
    return router(site, "vllm-router", level="error")


def sglang_router(site: Site) -> Launch:
    return router(site, "sglang-router", "launch")


def smg(site: Site) -> Launch:
    return router(site, "smg", "launch")


def litellm(site: Site) -> Launch:
    program, version = site.installed("litellm", "bin/litellm")
    argv = [program, "--config", site.render("litellm.yaml"), "--host", "127.0.0.1", "--port", str(site.port)]
    env = {"LITELLM_LOCAL_MODEL_COST_MAP": "True", "LITELLM_LOG": "ERROR", "LITELLM_MODE": "PRODUCTION"}
    env["HF_HUB_OFFLINE"] = "1"  # or it asks for the model's tokenizer while a request waits
    # No other peer checks keys here either; without this it refuses to start keyless.
    env["LITELLM_DANGEROUSLY_PERMIT_WEAK_OR_UNSET_MASTER_KEY"] = "true"
    return Launch([*argv, "--num_workers", "1"], version, env)


PEERS = (
    Peer("spillway", spillway),
    Peer("haproxy", haproxy),
    Peer("nginx", nginx),
    Peer("envoy", envoy),
    Peer("vllm-router", vllm_router, start_s=30),
    Peer("vllm-router-quiet", vllm_router_quiet, start_s=30),
    Peer("sglang-router", sglang_router, start_s=30),
    Peer("smg", smg, start_s=30),
    # LiteLLM carries a hundredth of the others' load; asked for theirs, it would only show a full queue.
    Peer("litellm", litellm, start_s=90, streams=10, events_per_s=10, open_streams=100, many_streams=0),
)
