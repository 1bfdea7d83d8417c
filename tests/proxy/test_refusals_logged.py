"""What the access log says of a request that was refused: what was wrong, and nothing that it held."""

from __future__ import annotations

import json
from hashlib import sha256

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.proxy.paths import PathTable
from gateway.telemetry.access_log import open_access_log
from gateway.telemetry.observer import Observer
from tests.proxy.dialogue import get, post, settled
from tests.security import cases

SECRET = "sk-secret"
SHOWN_KEY = f"{SECRET}-0123456789-0123456789"
PATHS = PathTable(["/my/*", "/sub/tool"], ["/v1/realtime"])
SHOWN = {
    "/v1/chat/completions": "/v1/chat/completions",
    "/v2/models/secret/infer": "/v2/models/*/infer",
    "/v1/images/edits": "/v1/images/*",
    "/v1/realtime": "/v1/realtime",
    "/my/own": "/my/*",
    # A slip, another API's prefix, one prefix too many or too few, a slash at the end.
    "/v1/chat/completion": "/v1/chat/*",
    "/openai/deployments/secret/chat/completions": "/*/chat/completions",
    "/v1/v1/chat/completions": "/*/v1/chat/completions",
    "/chat/completions": "/*/chat/completions",
    "/v1/chat/completions/": "/v1/chat/completions/*",
    "/v1/models/secret": "/v1/models/*",
    "/v2/models/secret/unload": "/v2/models/*",
    "/metrics": "/*",
    "/secret": "/*",
    "//": "/*",
    "/" + "secret/" * 1000 + "sub/tool": "/*/sub/tool",
}


@pytest.mark.parametrize(("path", "shown"), SHOWN.items(), ids=range(len(SHOWN)))
def test_a_path_is_shown_as_far_as_it_is_like_a_served_one(path, shown):
    assert PATHS.shown(path.encode()) == shown


WORDS = {word for path in SHOWN for word in PATHS.shown(path.encode()).split("/")}
SEGMENTS = st.lists(st.sampled_from(sorted(WORDS)) | st.text(max_size=8).filter(lambda t: "/" not in t))


@given(SEGMENTS)
def test_no_word_of_a_path_is_shown_that_is_not_in_the_table(segments):
    shown = PATHS.shown(("/" + "/".join(segments)).encode())
    served = {
        segment for name in (*PATHS._heads.values(), *PATHS._tails.values()) for segment in name.split("/")
    }
    assert set(shown.split("/")) <= served | {"*"}


@pytest.fixture
async def line_of(start_backend, start_gateway, tmp_path):
    """Sends a request to a gateway that wants keys, and gives its line of the access log."""
    backend = await start_backend()
    gateway = await start_gateway(
        "timeouts: {request_head: 200ms}\n"
        f"keys: [{{name: a, sha256: {sha256(SHOWN_KEY.encode()).hexdigest()}}}]\n"
        f"clusters: [{{name: a, limit: 8, models: [m], backends: ['{backend.url}']}}]",
        good_request=get("/v1/models", KEY),
    )
    path = tmp_path / "access.log"
    log = open_access_log(str(path), lambda: 0.0)
    gateway.plane.telemetry = Observer(gateway.gateway._metrics, log)

    async def line_of(request: bytes) -> dict[str, object]:
        await gateway.ask(request)
        assert await settled(lambda: path.exists() and path.read_bytes().endswith(b"\n"))
        (line,) = path.read_bytes().splitlines()
        assert SECRET.encode() not in line
        return json.loads(line)

    yield line_of
    log.close()


KEY = f"Authorization: Bearer {SHOWN_KEY}"
SAID = KEY.encode() + b"\r\n"
MULTIPART = f"Content-Type: multipart/form-data; boundary={SECRET}"
# What is sent: refused, param, path.
WRONG = {
    "no-key": (post(b'{"model":"m"}'), "unauthorized", None, "/v1/chat/completions"),
    "no-key-for-a-tunnel": (get("/v1/realtime?model=" + SECRET), "unauthorized", None, "/v1/realtime"),
    "no-key-no-path": (get(f"/{SECRET}"), "unauthorized", None, "/*"),
    "path": (get(f"/v1/{SECRET}?{SECRET}", KEY), "not_found", None, "/v1/*"),
    "method": (get("/v1/chat/completions", KEY), "method", None, "/v1/chat/completions"),
    "model": (post(b'{"model":"x"}', KEY), "not_found", "model", "/v1/chat/completions"),
    "model-type": (post(b'{"model":1}', KEY), "invalid", "model", "/v1/chat/completions"),
    "model-missing": (post(b"{}", KEY), "invalid", "model", "/v1/chat/completions"),
    "stream-type": (post(b'{"model":"m","stream":"x"}', KEY), "invalid", "stream", "/v1/chat/completions"),
    "not-json": (post(SECRET.encode(), KEY), "unreadable_body", None, "/v1/chat/completions"),
    "not-utf8": (post(b'{"model":"\xff"}', KEY), "unreadable_body", None, "/v1/chat/completions"),
    "not-multipart": (post(b"x", KEY, MULTIPART), "unreadable_body", None, "/v1/chat/completions"),
    "large-not-json": (post(b"x" * 2_000_000, KEY), "unreadable_body", None, "/v1/chat/completions"),
    "content-type": (
        post(b"x", KEY, f"Content-Type: {SECRET}"), "content_type", "content-type", "/v1/chat/completions"
    ),
    "deadline": (
        post(b'{"model":"m"}', KEY, f"x-spillway-deadline: {SECRET}"),
        "invalid", "x-spillway-deadline", "/v1/chat/completions",
    ),
    "residency": (
        post(b'{"model":"m"}', KEY, "x-spillway-residency: ,"),
        "invalid", "x-spillway-residency", "/v1/chat/completions",
    ),
    "host-twice": (cases.header(SAID + b"Host: h\r\n"), "malformed", "host", ""),
    "key-twice": (cases.header(2 * (b"X-Api-Key: %b\r\n" % SECRET.encode())), "malformed", "x-api-key", ""),
    "no-length": (cases.LINE + cases.HOST + b"\r\n", "malformed", "content-length", ""),
    "expect": (cases.header(SAID + b"Expect: x\r\n"), "expectation", "expect", ""),
    "not-http": (b"%b / HTTP/1.1\r\n\r\n" % SECRET.encode(), "malformed", None, ""),
    "too-slow": (cases.LINE + cases.HOST, "too_slow", None, ""),
}  # fmt: skip


@pytest.mark.parametrize(("sent", "refused", "param", "path"), WRONG.values(), ids=WRONG)
async def test_the_log_says_what_was_wrong(line_of, sent, refused, param, path):
    line = await line_of(sent)
    assert (line.get("refused"), line.get("param"), line["path"]) == (refused, param, path)


async def test_of_a_good_request_it_says_nothing(line_of):
    line = await line_of(post(b'{"model":"m"}', KEY))
    assert line["status"] == 200
    assert "refused" not in line and "param" not in line
