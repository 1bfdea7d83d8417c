"""What is fuzzed: each target takes any bytes and fails when a promise is broken.

    downstream  bytes of a client: refused, or forwarded so that every parser reads them alike
    upstream    bytes of a backend: answered with an error, passed on so that every parser reads them alike,
                or cut for all to see; the next request of the same client gets its own answer
    model       a Content-Type, a line end, a body: refused, or a model that another JSON reader finds too
    config      a configuration: a Config, or a ConfigError that can be printed

Both wire targets run each input whole and in pieces, and the two must come to the same.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from random import Random
from zlib import crc32

from gateway.config import Config, ConfigError, clusters_of, endpoints_of, parse
from gateway.proxy.bodies import BodyFacts, read_facts, with_model
from gateway.proxy.errors import Refusal
from gateway.proxy.headers import RequestHead, read_request_head
from gateway.proxy.paths import Endpoint, ModelSource
from tests.fuzz.fake_network import Forwarded, World
from tests.fuzz.readers import Request, Response, read_request, read_response

Target = Callable[[bytes], None]
CORPUS = Path(__file__).parent / "corpus"
TOKENS = CORPUS.parent / "tokens"
NAMES = ("downstream", "upstream", "model", "config")
# Every request has its own, wherever it is cut.
_ITS_OWN = (b"x-request-id", b"x-spillway-overhead-ms")


@contextmanager
def open_target(name: str) -> Iterator[Target]:
    """The target of this name, with what it needs. After it has failed, open it anew."""
    if name in ("downstream", "upstream"):
        world = World()
        try:
            yield partial({"downstream": downstream, "upstream": upstream}[name], world)
        finally:
            world.close()
    else:
        yield {"model": model, "config": config}[name]


def pieces(data: bytes) -> list[bytes]:
    """The input cut somewhere: always in the same places."""
    random = Random(crc32(data))
    cuts = sorted(random.sample(range(len(data) + 1), min(len(data), random.choice((1, 2, 5, 20)))))
    return [data[start:end] for start, end in zip([0, *cuts], [*cuts, len(data)], strict=True)]


# --- the wire --------------------------------------------------------------------------------------------


def downstream(world: World, data: bytes) -> None:
    """Any bytes of a client."""
    whole, heard = world.serve([data])
    cut, heard_of_cut = world.serve(pieces(data))
    assert b"internal_error" not in heard
    read = [_read(forwarded, world) for forwarded in whole]
    assert read == [_read(forwarded, world) for forwarded in cut], "it depends on how the bytes are cut"
    assert statuses(heard) == statuses(heard_of_cut), "the answers depend on how the bytes are cut"
    for request in read:
        names = [name for name, _ in request.headers]
        assert names.count(b"host") == names.count(b"content-length") == 1
        assert not {b"transfer-encoding", b"connection", b"upgrade", b"trailer", b"expect"} & set(names)
        assert not [name for name in names if b"_" in name or name.startswith(b"x-spillway-")]


def _read(forwarded: Forwarded, world: World) -> Request:
    request = read_request(forwarded.raw, world.loop)
    return request._replace(headers=_lasting(request.headers))


def _lasting(headers: tuple[tuple[bytes, bytes], ...]) -> tuple[tuple[bytes, bytes], ...]:
    return tuple(pair for pair in headers if pair[0] not in _ITS_OWN)


def statuses(heard: bytes) -> list[bytes]:
    """Of the answers, without 100: whether the body comes before it is said depends on the cuts.

    For a client whose backend never says `HTTP/1.1` in a body.
    """
    return [part[:3] for part in heard.split(b"HTTP/1.1 ")[1:] if not part.startswith(b"100")]


_ASKS = b"POST /v1/completions HTTP/1.1\r\nHost: a\r\nContent-Length: 13\r\n\r\n" + b'{"model":"m"}'
_NEXT_ANSWER = b"HTTP/1.1 200 OK\r\nContent-Length: 8\r\nX-Own: 1\r\n\r\nthe-next"


def upstream(world: World, data: bytes) -> None:
    """Any bytes of a backend, in answer to a good request."""
    whole = _answered(world, [data])
    cut = _answered(world, pieces(data))
    assert (whole is None) == (cut is None), "it depends on how the bytes are cut whether it is whole"
    if whole is not None and cut is not None:
        assert (whole.status, whole.body) == (cut.status, cut.body), "it depends on how the bytes are cut"
        names = [name for name, _ in whole.headers]
        assert names.count(b"content-length") + names.count(b"transfer-encoding") <= 1
        assert not {b"set-cookie", b"upgrade", b"trailer", b"authorization"} & set(names)


def _answered(world: World, segments: list[bytes]) -> Response | None:
    """How a client reads the answer; None when it is cut. Its next request gets the answer to that."""
    _, alone = world.serve([_ASKS], segments)
    assert b"internal_error" not in alone
    _, both = world.serve([_ASKS, _ASKS], segments, [_NEXT_ANSWER])
    assert both.endswith(b"the-next") == (both.count(b"x-own: 1") + both.count(b"X-Own: 1") > 0)
    return read_response(alone, world.loop)


# --- the model -------------------------------------------------------------------------------------------

_IN_BODY = Endpoint("/v1/completions", b"POST", ModelSource.BODY)


def model(data: bytes) -> None:
    """A Content-Type, a line end, and a body."""
    content_type, _, body = data.partition(b"\n")
    try:
        head = _head(content_type, len(body))
        facts = read_facts(head, _IN_BODY, body)
    except Refusal as refusal:
        assert 400 <= refusal.status < 500
        refusal.body()
        return
    assert facts.model is not None
    _, renamed = with_model(head, _IN_BODY, body, "another")
    again = read_facts(head, _IN_BODY, renamed)
    assert (again.model, again.stream) == ("another", facts.stream)
    if head.is_json:
        _agrees_with_json(facts, body, renamed)
    else:
        assert len(renamed) - len(body) == len("another") - len(facts.model)


def _head(content_type: bytes, length: int) -> RequestHead:
    headers = [(b"Host", b"a"), (b"Content-Type", content_type), (b"Content-Length", b"%d" % length)]
    return read_request_head(b"POST", b"/v1/completions", "1.1", headers)


def _agrees_with_json(facts: BodyFacts, body: bytes, renamed: bytes) -> None:
    pairs: list[tuple[str, object]] = json.loads(body, object_pairs_hook=list)
    named = [value for key, value in pairs if key == "model"]
    assert named == [facts.model], "another reader finds another model"
    assert [value for key, value in pairs if key == "stream" and value is not None] in ([], [facts.stream])
    expected = [(key, "another" if key == "model" else value) for key, value in pairs]
    # By their repr: a body may say NaN, which is not equal to itself.
    assert repr(json.loads(renamed, object_pairs_hook=list)) == repr(expected)


# --- the configuration -----------------------------------------------------------------------------------


def config(data: bytes) -> None:
    """Any text. Nothing that it names is there."""
    try:
        read = parse(data.decode("utf-8", "replace"), "fuzz.yaml", "/nonexistent", {"A": "\udcff\n"})
    except ConfigError as error:
        assert error.problems
        assert all(len(str(problem)) < 1000 and "\n" not in str(problem) for problem in error.problems)
        str(error).encode()
    else:
        assert isinstance(read, Config)
        assert len(endpoints_of(read)) == sum(len(cluster.backends) for cluster in clusters_of(read))
