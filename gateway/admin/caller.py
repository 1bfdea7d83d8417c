"""Asking a running gateway through its admin port, for the commands: JSON in, JSON out."""

from __future__ import annotations

import json
from http.client import HTTPException, HTTPMessage
from typing import IO, Any
from urllib.error import HTTPError
from urllib.request import HTTPRedirectHandler, ProxyHandler, Request, build_opener

ANSWER_TIMEOUT_S = 5.0


class CallFailed(Exception):
    """Why it did not work, in words for the person who asked."""


class _NoRedirect(HTTPRedirectHandler):
    """urllib would carry the token to wherever it is sent."""

    def redirect_request(
        self, req: Request, fp: IO[bytes], code: int, msg: str, headers: HTTPMessage, newurl: str
    ) -> None:
        return None


class AdminCaller:
    """JSON in, JSON out; anything else becomes a message that a person can act on."""

    def __init__(self, url: str, token: str | None) -> None:
        self._url = url
        self._headers = {"Content-Type": "application/json"}
        if token is not None:
            self._headers["Authorization"] = f"Bearer {token}"
        # No proxy from the environment: the admin port is on this machine or in this network.
        self._opener = build_opener(ProxyHandler({}), _NoRedirect())

    def get(self, path: str) -> dict[str, Any]:
        return self._ask(Request(self._url + path, headers=self._headers))

    def post(self, path: str, content: dict[str, Any]) -> dict[str, Any]:
        return self._ask(
            Request(self._url + path, json.dumps(content).encode(), self._headers, method="POST")
        )

    def _ask(self, request: Request) -> dict[str, Any]:
        try:
            with self._opener.open(request, timeout=ANSWER_TIMEOUT_S) as answer:
                content = json.loads(answer.read())
        except HTTPError as exc:
            raise CallFailed(f"the gateway at {self._url} answered {exc.code}: {_message(exc)}") from exc
        except (OSError, HTTPException) as exc:
            reason = getattr(exc, "reason", exc)
            raise CallFailed(
                f"no admin port answers at {self._url} ({reason}); is the gateway running, "
                "and is --admin its `admin.listen`?"
            ) from exc
        except ValueError as exc:
            raise CallFailed(f"what answers at {self._url} is not a Spillway admin port") from exc
        if not isinstance(content, dict):
            raise CallFailed(f"what answers at {self._url} is not a Spillway admin port")
        return content


def _message(exc: HTTPError) -> str:
    try:
        with exc:
            return str(json.loads(exc.read())["error"]["message"])
    except (OSError, ValueError, KeyError, TypeError):
        return str(exc.reason)
