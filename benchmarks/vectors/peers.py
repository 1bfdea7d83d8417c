"""The proxies that vectors are sent through: one backend, eight slots, a second for all that may hang."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

SLOTS = 8

SPILLWAY = """
listen: 127.0.0.1:{port}
admin: {{listen: '127.0.0.1:0'}}
access_log: access.log
timeouts: {{request_head: 1s, request_body: 1s, first_byte: 1s, stall: 1s}}
breaker: {{consecutive: 100000, min_samples: 100000, ratio: 1.0}}
clusters: [{{name: only, limit: {slots}, backends: ['http://127.0.0.1:{backend}']}}]
"""
NGINX = """
daemon off; worker_processes 1; pid nginx.pid; error_log error.log;
events {{ worker_connections 1024; }}
http {{
    access_log access.log;
    client_body_temp_path body; proxy_temp_path proxy;
    fastcgi_temp_path f; uwsgi_temp_path u; scgi_temp_path s;
    client_header_timeout 1s; client_body_timeout 1s; client_max_body_size 32m;
    upstream engines {{ server 127.0.0.1:{backend} max_conns={slots} max_fails=0; keepalive 8; }}
    server {{
        listen 127.0.0.1:{port};
        location / {{
            proxy_pass http://engines; proxy_http_version 1.1; proxy_set_header Connection "";
            proxy_buffering off; proxy_connect_timeout 1s; proxy_read_timeout 1s; proxy_next_upstream off;
        }}
    }}
}}
"""
HAPROXY = """
global
    log stdout format raw local0 info
defaults
    mode http
    timeout connect 1s
    timeout client 1s
    timeout server 1s
    timeout queue 1s
    timeout http-request 1s
    http-reuse always
    retries 0
frontend data
    bind 127.0.0.1:{port}
    default_backend engines
backend engines
    server one 127.0.0.1:{backend} maxconn {slots}
"""
NAMES = ("spillway", "nginx", "haproxy")


class NotInstalled(Exception):
    """A proxy is not on this machine."""


def start(name: str, folder: Path, port: int, backend: int) -> tuple[subprocess.Popen[bytes], str]:
    """The process and its version. Raises NotInstalled."""
    folder.mkdir()
    path = folder / "config"
    text = {"spillway": SPILLWAY, "nginx": NGINX, "haproxy": HAPROXY}[name]
    path.write_text(text.format(port=port, backend=backend, slots=SLOTS))
    if name == "spillway":
        argv = [sys.executable, "-m", "gateway.cli", "serve", "-c", str(path)]
        version = "this commit"
    else:
        program = shutil.which(name) or shutil.which(name, path="/usr/sbin:/usr/local/sbin")
        if program is None:
            raise NotInstalled(name)
        argv = [program, "-p", str(folder), "-e", "error.log", "-c", str(path)]
        if name == "haproxy":
            argv = [program, "-db", "-f", str(path)]
        done = subprocess.run([program, "-v"], capture_output=True, text=True, check=False)
        found = re.search(r"\d+\.\d+\.\d+", done.stdout + done.stderr)
        version = found[0] if found else "unknown"
    with (folder / "output").open("wb") as output:
        return subprocess.Popen(argv, cwd=folder, stdout=output, stderr=output), version
