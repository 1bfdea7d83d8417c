"""An nginx between the test and a backend: what it makes of a request shows in what it passes on."""

from __future__ import annotations

import contextlib
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

NGINX = shutil.which("nginx") or shutil.which("nginx", path="/usr/sbin")
_WITHIN_S = 10.0
# Nothing is dropped for its form, or a difference would not be seen.
_CONF = """
daemon off; master_process off; pid {place}/pid; error_log {place}/error.log;
events {{ }}
http {{
  access_log off; ignore_invalid_headers off; underscores_in_headers on; large_client_header_buffers 8 64k;
  client_body_temp_path {place}/a; proxy_temp_path {place}/b; fastcgi_temp_path {place}/c;
  uwsgi_temp_path {place}/d; scgi_temp_path {place}/e;
  server {{
    listen 127.0.0.1:{port};
    location / {{
      proxy_http_version 1.1; proxy_set_header Host $http_host; proxy_set_header Connection "";
      proxy_pass http://127.0.0.1:{backend_port};
    }}
  }}
}}
"""


@contextlib.contextmanager
def running_nginx(place: Path, backend_port: int) -> Iterator[int]:
    """Its port."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    conf = place / "nginx.conf"
    conf.write_text(_CONF.format(place=place, port=port, backend_port=backend_port))
    assert NGINX is not None
    process = subprocess.Popen([NGINX, "-p", place, "-c", conf, "-e", place / "error.log"])
    try:
        _wait_for(port, process)
        yield port
    finally:
        process.terminate()
        process.wait()


def _wait_for(port: int, process: subprocess.Popen[bytes]) -> None:
    until_s = time.monotonic() + _WITHIN_S
    while True:
        try:
            socket.create_connection(("127.0.0.1", port)).close()
            return
        except OSError:
            assert process.poll() is None and time.monotonic() < until_s, "nginx does not start"
            time.sleep(0.02)
