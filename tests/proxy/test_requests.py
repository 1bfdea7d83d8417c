"""What a request must say, and what becomes of the model's name in it."""

from __future__ import annotations

import json

import pytest

from tests.proxy.dialogue import BODY, get, post, reply

FLEET = """
    clusters:
    - {{name: mine, limit: 8, backends: ['{url}'], models: {{llama: meta/Llama-3}}}}
    - {{name: open, limit: 8, backends: ['{url}'], models: ["qwen-*", phi]}}
    """


@pytest.fixture
async def renaming(start_backend, start_gateway):
    """A cluster that knows `llama` by another name, and any qwen by its own."""
    backend = await start_backend()
    gateway = await start_gateway(FLEET.format(url=backend.url), good_request=post(b'{"model":"llama"}'))
    return gateway, backend


@pytest.fixture
async def pair(start_backend, start_gateway):
    backend = await start_backend()
    return await start_gateway("paths: [/my/one, /my/tree/*]", backend), backend


RENAMED = [
    (b'{"model":"llama"}', b'{"model": "meta/Llama-3"}'),
    (b' { "model" : "llama" , "x":1}', b' { "model" : "meta/Llama-3" , "x":1}'),
    ('{"x":"é✓\U0001f600","model":"llama","y":"é"}'.encode(), None),
    (b'{"x":"\\u00e9\\ud83d\\ude00\\"model\\":\\"llama\\"","model":"llama"}', None),
    (b'{"m":{"model":"llama"},"model":"llama","z":[{"model":"llama"},"model","llama"]}', None),
    (b'{"messages":[{"content":"\\"model\\""}],"model":"llama","n":1e300,"big":18446744073709551616}', None),
    (b'{"a":"model","b":"llama","model":"ll\\u0061ma"}', None),
    (b'{"mod\\u0065l":"llama"}', None),
]


@pytest.mark.parametrize(("body", "_expected"), RENAMED)
async def test_only_the_model_s_own_value_is_replaced(renaming, body, _expected):
    gateway, backend = renaming
    assert (await gateway.ask(post(body))).status == 200
    sent = backend.requests[0].body
    at = next(at for at in range(len(body)) if sent[at : at + 1] != body[at : at + 1])
    head, tail = sent[:at], sent[at:]
    name = b"meta/Llama-3"
    assert tail.startswith(name) or (head + tail).count(name) == 1
    before, _, after = sent.partition(b'"meta/Llama-3"')
    assert body.startswith(before) and body.endswith(after)
    replaced = body[len(before) : len(body) - len(after)]
    assert json.loads(replaced) == "llama"


async def test_a_name_that_stays_the_same_changes_no_byte(renaming):
    gateway, backend = renaming
    body = b'{ "model":"qwen-7b","x":"\\u00e9 \xc3\xa9"}'
    await gateway.ask(post(body))
    assert backend.requests[0].body == body


async def test_a_retry_elsewhere_gets_that_cluster_s_name(start_backend, start_gateway):
    one, other = await start_backend(), await start_backend()
    gateway = await start_gateway(f"""
        clusters:
        - {{name: a, limit: 8, backends: ['{one.url}'], models: {{m: first}}}}
        - {{name: b, limit: 8, tier: backup, backends: ['{other.url}'], models: {{m: second}}}}
        """)
    one.will(reply(status="500 Broken"))
    await gateway.ask(post())
    assert [json.loads(backend.requests[0].body)["model"] for backend in (one, other)] == ["first", "second"]


async def test_the_model_in_a_path_is_replaced(renaming):
    gateway, backend = renaming
    answer = await gateway.ask(
        post(
            b"\x00raw tensors",
            "Content-Type: application/octet-stream",
            path="/v2/models/llama/infer?x=llama",
        )
    )
    assert answer.status == 200
    assert backend.requests[0].target == "/v2/models/meta/Llama-3/infer?x=llama"
    assert backend.requests[0].body == b"\x00raw tensors"


def upload(*parts: tuple[str, bytes], boundary: str = "XX") -> bytes:
    body = b"".join(
        b'--%b\r\nContent-Disposition: form-data; name="%b"\r\n\r\n%b\r\n'
        % (boundary.encode(), name.encode(), value)
        for name, value in parts
    )
    body += b"--%b--\r\n" % boundary.encode()
    return post(
        body, f"Content-Type: multipart/form-data; boundary={boundary}", path="/v1/audio/transcriptions"
    )


async def test_the_model_in_an_upload_is_replaced(renaming):
    gateway, backend = renaming
    sound = b"llama\r\n--X\x00\xff" * 100
    wire = upload(("prompt", b"llama"), ("file", sound), ("model", b"llama"), ("after", b"model"))
    assert (await gateway.ask(wire)).status == 200
    expected = wire.partition(b"\r\n\r\n")[2].replace(b'"model"\r\n\r\nllama', b'"model"\r\n\r\nmeta/Llama-3')
    assert backend.requests[0].body == expected
    assert backend.requests[0].header("content-type") == "multipart/form-data; boundary=XX"


@pytest.mark.parametrize(
    ("wire", "status"),
    [
        (upload(("model", b"llama"), ("model", b"qwen-1")), 400),
        (upload(("model", b"llama"))[:-8], 400),
        (upload(("model", b"llama")).replace(b"boundary=XX", b"boundary="), 400),
        (upload(("model", b"llama")).replace(b"boundary=XX", b"boundary=YY"), 400),
        (upload(*[("x", b"1")] * 100, ("model", b"llama")), 400),
        (upload(("model", b"../../etc/passwd")), 400),
        (upload(("model", b"none-such")), 404),
    ],
    ids=["twice", "cut", "no-boundary", "other-boundary", "many-parts", "path", "unknown"],
)
async def test_a_bad_upload_is_refused(renaming, wire, status):
    gateway, backend = renaming
    head, _, body = wire.partition(b"\r\n\r\n")
    lines = [line for line in head.split(b"\r\n") if not line.startswith(b"Content-Length")]
    answer = await gateway.ask(b"\r\n".join([*lines, b"Content-Length: %d" % len(body), b"", body]))
    assert answer.status == status and answer.error
    assert not backend.requests


async def test_models_lists_what_may_be_named(renaming):
    gateway, backend = renaming
    answer = await gateway.ask(get("/v1/models"))
    assert [model["id"] for model in answer.json()["data"]] == ["llama", "phi"]
    assert answer.json()["object"] == "list"
    assert not backend.requests


async def test_an_unknown_model_is_a_404(renaming):
    gateway, backend = renaming
    answer = await gateway.ask(post(b'{"model":"gpt-9"}'))
    assert (answer.status, answer.error["code"], answer.error["param"]) == (404, "model_not_found", "model")
    assert "gpt-9" in answer.error["message"]
    assert not backend.requests


@pytest.mark.parametrize(
    "path",
    [
        "/",
        "/metrics",
        "/sleep",
        "/v1/load_lora_adapter",
        "/v1/chat/completions/",
        "/v1/Chat/completions",
        "/docs",
        "/v1/images/",
        "/v1/images//x",
        "/my",
        "/my/tree",
        "/my/tree/",
        "/v1/images/a/b/c/d/e",
        "/v2/models/a/b/infer",
        "/v1/images/../x",
    ],
)
async def test_an_unknown_path_is_a_404(pair, path):
    gateway, backend = pair
    for request in (get(path), post(path=path)):
        answer = await gateway.ask(request)
        assert (answer.status, answer.error["code"]) == (404, "not_found")
    assert not backend.requests


@pytest.mark.parametrize(
    "path",
    [
        "/v1/chat/completions",
        "/v1/completions",
        "/v1/responses",
        "/v1/messages",
        "/v1/embeddings",
        "/v1/rerank",
        "/v1/score",
        "/v1/moderations",
        "/v1/images/generations",
        "/v1/audio/speech",
        "/my/one",
        "/my/tree/a/b",
    ],
)
async def test_every_path_of_the_list_is_passed(pair, path):
    gateway, backend = pair
    assert (await gateway.ask(post(path=path))).status == 200
    assert backend.requests[0].target == path


@pytest.mark.parametrize(
    "request_",
    [
        get("/v1/chat/completions"),
        post(path="/v1/models"),
        get("/v2/models/m/infer"),
        post().replace(b"POST", b"PUT"),
        post().replace(b"POST", b"PATCH"),
        get("/v1/models").replace(b"GET", b"DELETE"),
        get("/v1/models").replace(b"GET", b"OPTIONS"),
    ],
)
async def test_another_method_is_a_405_that_names_the_right_one(pair, request_):
    gateway, backend = pair
    answer = await gateway.ask(request_)
    assert (answer.status, answer.error["code"]) == (405, "method_not_allowed")
    assert answer.header("allow")
    assert not backend.requests


BAD_JSON = {
    "empty": b"",
    "spaces": b"   ",
    "cut": b'{"model":"m"',
    "trailing": b'{"model":"m"} x',
    "two": b'{"model":"m"}{}',
    "comma": b'{"model":"m",}',
    "comment": b'{"model":"m"/**/}',
    "quotes": b"{'model':'m'}",
    "nan": b'{"model":"m","x":NaN}',
    "bom": b'\xef\xbb\xbf{"model":"m"}',
    "utf-16": '{"model":"m"}'.encode("utf-16"),
    "latin-1": b'{"model":"m","x":"\xe9"}',
    "overlong": b'{"model":"m","x":"\xc0\xaf"}',
    "surrogate": b'{"model":"m","x":"\xed\xa0\x80"}',
    "deep": b'{"model":"m","x":' + b"[" * 100_000 + b"]" * 100_000 + b"}",
    "array": b"[]",
    "string": b'"model"',
    "number": b"1",
    "null": b"null",
    "control": b'{"model":"m","x":"\x01"}',
}


@pytest.mark.parametrize("body", BAD_JSON.values(), ids=BAD_JSON)
async def test_what_is_no_json_object_is_a_400(pair, body):
    gateway, backend = pair
    client = await gateway.connect()
    await client.send(post(body))
    answer = await client.answer()
    assert (answer.status, answer.error["code"]) == (400, "invalid_request")
    assert len(answer.error["message"]) < 300
    await client.send(post())
    assert (await client.answer()).status == 200, "the request was well framed: the connection stays"
    assert len(backend.requests) == 1


BAD_FIELDS = {
    "missing": (b"{}", "model"),
    "null": (b'{"model":null}', "model"),
    "number": (b'{"model":1}', "model"),
    "list": (b'{"model":[]}', "model"),
    "empty": (b'{"model":""}', "model"),
    "nul": (b'{"model":"a\\u0000b"}', "model"),
    "long": (b'{"model":"%b"}' % (b"m" * 257), "model"),
    "path": (b'{"model":"a/../b"}', "model"),
    "twice": (b'{"model":"a","model":"b"}', "model"),
    "twice-escaped": (b'{"model":"a","mod\\u0065l":"b"}', "model"),
    "twice-all-escaped": (b'{"model":"a","\\u006d\\u006f\\u0064\\u0065\\u006c":"b"}', "model"),
    "upper-escapes": (b'{"model":"a","\\u006D\\u006Fdel":"b"}', "model"),
    "stream-word": (b'{"model":"m","stream":"true"}', "stream"),
    "stream-twice": (b'{"model":"m","stream":true,"stream":false}', "stream"),
}


@pytest.mark.parametrize(("body", "param"), BAD_FIELDS.values(), ids=BAD_FIELDS)
async def test_a_bad_field_is_a_400_that_names_it(pair, body, param):
    gateway, backend = pair
    answer = await gateway.ask(post(body))
    assert (answer.status, answer.error["code"], answer.error["param"]) == (400, "invalid_request", param)
    assert not backend.requests


async def test_another_spelling_of_a_field_is_another_field(pair):
    gateway, backend = pair
    body = b'{"Model":"a","model":"m","stream":null,"x":{"model":1,"stream":2}}'
    assert (await gateway.ask(post(body))).status == 200
    assert backend.requests[0].body == body


@pytest.mark.parametrize(
    "line",
    [
        "Content-Type: text/plain",
        "Content-Type: application/json; charset=utf-16",
        "Content-Type: application/xml",
        "Content-Encoding: gzip",
        "Content-Encoding: deflate",
    ],
)
async def test_what_cannot_be_read_is_a_415(pair, line):
    gateway, backend = pair
    answer = await gateway.ask(post(BODY, line))
    assert (answer.status, answer.error["code"]) == (415, "invalid_request")
    assert not backend.requests


@pytest.mark.parametrize(
    "line",
    [
        "Content-Type: application/json; charset=UTF-8",
        "Content-Type: Application/JSON",
        "Content-Encoding: identity",
        "Content-Type: application/vnd.x+json",
    ],
)
async def test_json_by_any_of_its_names_is_read(pair, line):
    gateway, backend = pair
    assert (await gateway.ask(post(BODY, line))).status == 200
    assert line.encode() in backend.requests[0].raw


async def test_the_model_may_stand_in_a_header_where_the_body_is_opaque(renaming):
    gateway, backend = renaming
    answer = await gateway.ask(
        post(
            b"\x00\x01",
            "Content-Type: audio/wav",
            "x-spillway-model: qwen-1",
            path="/v1/audio/transcriptions",
        )
    )
    assert answer.status == 200
    assert backend.requests[0].body == b"\x00\x01"
    assert not backend.requests[0].all("x-spillway-model")


async def test_a_long_number_may_stand_beside_a_renamed_model(renaming):
    gateway, backend = renaming
    number = b"9" * 308  # a double would hold it, not whole
    for _ in range(2):  # the second finds an idle connection, and is sent at once
        assert (await gateway.ask(post(b'{"model":"llama","n":%b}' % number))).status == 200
    assert backend.requests[-1].body == b'{"model":"meta/Llama-3","n":%b}' % number


async def test_a_mistake_of_ours_costs_one_request_and_no_slot(renaming, monkeypatch):
    gateway, _ = renaming
    assert (await gateway.ask(post(b'{"model":"llama"}'))).status == 200

    def mistake(*_):
        raise RuntimeError("a mistake")

    with monkeypatch.context() as patch:
        patch.setattr("gateway.proxy.bodies.with_model", mistake)
        for _ in range(2):  # at once, then with a new connection: the idle one went with the first
            answer = await gateway.ask(post(b'{"model":"llama"}'))
            assert (answer.status, answer.error["code"]) == (500, "internal_error")
    assert gateway.is_clean
