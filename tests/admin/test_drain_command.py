"""`spillway drain` against a real admin port."""

from __future__ import annotations

import argparse
import asyncio
from pathlib import Path

import pytest
from fake_gateway import ONE, SPOT, TWO, FakeGateway, Serve

from gateway.admin import drain_command


def run_now(verb: str, *words: str) -> int:
    parser = argparse.ArgumentParser(prog="spillway")
    if verb == "drain":
        drain_command.add_drain_arguments(parser)
        return drain_command.run_drain(parser.parse_args(words))
    drain_command.add_undrain_arguments(parser)
    return drain_command.run_undrain(parser.parse_args(words))


async def run(gateway: FakeGateway, verb: str, *words: str) -> int:
    return await asyncio.to_thread(run_now, verb, *words, "--admin", f"http://127.0.0.1:{gateway.port}/")


def until_s(gateway: FakeGateway, name: str) -> float | None:
    view = gateway.fleet.view
    return (view.clusters.get(name) or view.backends[name]).drained_until_s


async def test_drain_and_undrain_a_cluster(serve: Serve, capsys: pytest.CaptureFixture[str]) -> None:
    gateway = await serve()
    assert await run(gateway, "drain", "here") == 0
    assert until_s(gateway, "here") == float("inf")
    assert capsys.readouterr().out == "cluster here is drained until undrained; 0 in flight may finish\n"
    assert await run(gateway, "undrain", "here") == 0
    assert until_s(gateway, "here") is None
    assert capsys.readouterr().out == "cluster here takes new work again\n"


@pytest.mark.parametrize("backend_id", [ONE, TWO, SPOT])
async def test_drain_a_backend_for_a_time(
    serve: Serve, capsys: pytest.CaptureFixture[str], backend_id: str
) -> None:
    gateway = await serve()
    assert await run(gateway, "drain", backend_id, "--for", "90s") == 0
    assert until_s(gateway, backend_id) == gateway.now_s + 90
    assert f"backend {backend_id} is drained for 90 s" in capsys.readouterr().out


async def test_an_unknown_name_lists_the_known_ones(serve: Serve, capsys: pytest.CaptureFixture[str]) -> None:
    assert await run(await serve(), "drain", "hree") == 1
    shown = capsys.readouterr()
    assert shown.out == ""
    assert "no cluster or backend is named 'hree'; did you mean here?" in shown.err
    known = [line.split() for line in shown.err.splitlines()[2:]]
    assert known == [
        ["cluster", "cheap"],
        ["cluster", "here"],
        ["backend", SPOT],
        ["backend", ONE],
        ["backend", TWO],
    ]


async def test_the_token_comes_from_a_file(
    serve: Serve, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    gateway = await serve("secret")
    assert await run(gateway, "drain", "here") == 1
    assert "answered 401: this needs the header" in capsys.readouterr().err
    token_file = tmp_path / "token"
    token_file.write_text("secret\n")
    assert await run(gateway, "drain", "here", "--token-file", str(token_file)) == 0
    assert until_s(gateway, "here") is not None


@pytest.mark.parametrize("content", [None, "", "two\nlines"])
async def test_a_token_file_without_a_token_says_so(
    serve: Serve, tmp_path: Path, capsys: pytest.CaptureFixture[str], content: str | None
) -> None:
    token_file = tmp_path / "token"
    if content is not None:
        token_file.write_text(content)
    assert await run(await serve(), "drain", "here", "--token-file", str(token_file)) == 1
    assert "token" in capsys.readouterr().err


async def test_nobody_listening_is_said_with_what_to_check(
    serve: Serve, capsys: pytest.CaptureFixture[str], unused_tcp_port: int
) -> None:
    gateway = await serve()
    gateway.port = unused_tcp_port
    assert await run(gateway, "drain", "here") == 1
    error = capsys.readouterr().err
    assert f"no admin port answers at http://127.0.0.1:{unused_tcp_port}" in error
    assert "Connection refused" in error and "admin.listen" in error


async def test_a_redirect_is_not_followed_for_it_would_take_the_token_along(
    serve: Serve, capsys: pytest.CaptureFixture[str]
) -> None:
    gateway = await serve()
    elsewhere = f"http://127.0.0.1:{gateway.port}/api/v1/fleet"

    async def redirect(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(f"HTTP/1.1 302 Found\r\nLocation: {elsewhere}\r\nContent-Length: 0\r\n\r\n".encode())
        writer.close()

    async with await asyncio.start_server(redirect, "127.0.0.1", 0) as server:
        redirecting = FakeGateway(port=server.sockets[0].getsockname()[1])
        assert await run(redirecting, "drain", "here") == 1
    assert "answered 302" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        (b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi", "is not a Spillway admin port"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n[]", "is not a Spillway admin port"),
        (b'HTTP/1.1 200 OK\r\nContent-Length: 13\r\n\r\n{"tiers": 17}', "is not a Spillway admin port"),
        (b"garbage\r\n\r\n", "no admin port answers"),
        (b"", "no admin port answers"),
        (b"HTTP/1.1 500 Oops\r\nContent-Length: 0\r\n\r\n", "answered 500: Oops"),
    ],
)
async def test_something_else_listening_is_said(
    capsys: pytest.CaptureFixture[str], answer: bytes, said: str
) -> None:
    async def serve_once(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(answer)
        writer.close()

    async with await asyncio.start_server(serve_once, "127.0.0.1", 0) as server:
        gateway = FakeGateway(port=server.sockets[0].getsockname()[1])
        assert await run(gateway, "drain", "here") == 1
    assert said in capsys.readouterr().err


@pytest.mark.parametrize(
    "words",
    [
        (),
        ("here", "--for", "soon"),
        ("here", "--for", "0s"),
        ("here", "--admin", "127.0.0.1:9090"),
        ("here", "--admin", "file:///etc/passwd"),
        ("here", "--admin", "http://h:99999"),
    ],
)
def test_wrong_usage_is_exit_code_2(words: tuple[str, ...], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        run_now("drain", *words)
    assert stopped.value.code == 2
    capsys.readouterr()
