"""What a WebSocket client and its backend say to open a tunnel, word for word."""

from __future__ import annotations

from tests.proxy.dialogue import get

KEY = "dGhlIHNhbXBsZSBub25jZQ=="  # RFC 6455 1.3, and the answer to it
ACCEPT = "s3pPLMBiTxaQ9kYGzzhZRbK+xOo="
PATH = "/v1/realtime?model=m"
ASK = ("Connection: Upgrade", "Upgrade: websocket", f"Sec-WebSocket-Key: {KEY}", "Sec-WebSocket-Version: 13")


def ask(*lines: str, path: str = PATH, without: str = "-") -> bytes:
    return get(path, *[line for line in ASK if not line.startswith(without)], *lines)


def switch(*lines: str, accept: str = ACCEPT, without: str = "-") -> bytes:
    head = ["Connection: Upgrade", "Upgrade: websocket", f"Sec-WebSocket-Accept: {accept}"]
    head = [line for line in head if not line.startswith(without)]
    return "\r\n".join(["HTTP/1.1 101 Switching Protocols", *head, *lines, "", ""]).encode()


def text_frame(text: bytes) -> bytes:
    return bytes((0x81, len(text))) + text


class Switching:
    """Makes a backend switch, and plays its part in the tunnels: `heard` is what came through."""

    def __init__(self, backend, answer: bytes | None = None) -> None:
        self.answer = answer or switch()
        self.heads: list[bytes] = []
        self.heard: list[bytes] = []
        self.ends: list = []
        backend.intercept = self

    def __call__(self, end, data: bytes) -> bool:
        if end not in self.ends:
            self.ends.append(end)
            self.heard.append(b"")
            head, _, rest = data.partition(b"\r\n\r\n")
            self.heads.append(head + b"\r\n")
            end.transport.write(self.answer)
            data = rest
        self.heard[self.ends.index(end)] += data
        return True
