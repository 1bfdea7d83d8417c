"""docs/http-interface.md, written by hand, says what the code does: no path, code or header more or less."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from typing import cast

import msgspec

from gateway.admin.pages import Pages
from gateway.admin.ports import AdminSettings
from gateway.admin.server import AdminServer
from gateway.config.schema import Config
from gateway.core.model import PlanReason, ShedReason
from gateway.proxy import errors
from gateway.proxy.paths import Endpoint, ModelSource, PathTable
from tests.docs.markdown import DOCS, ROOT, codes, table

TEXT = (DOCS / "http-interface.md").read_text(encoding="utf-8")
DATA_PORT, _, _ = TEXT.partition("\n## Admin port\n")
SOURCES = {
    file.name: ast.parse(file.read_text(encoding="utf-8")) for file in (ROOT / "gateway/proxy").glob("*.py")
}


WEBSOCKET_PATHS = next(f.default for f in msgspec.structs.fields(Config) if f.name == "websocket_paths")


def calls(*names: str) -> Iterator[tuple[str, ast.Call]]:
    for file, source in SOURCES.items():
        for node in ast.walk(source):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in names:
                yield file, node


def constant(node: ast.expr) -> object:
    return node.value if isinstance(node, ast.Constant) else None


def errors_in_code() -> set[tuple[int, str]]:
    found = {
        (refusal.status, refusal.code) for refusal in (errors.shed(reason, None) for reason in ShedReason)
    }
    found |= {(status, code) for status, code, _ in errors._FAILED.values()}
    for file, call in calls("Refusal"):
        status, code = constant(call.args[0]), constant(call.args[1])
        if isinstance(status, int) and isinstance(code, str):
            found.add((status, code))
        else:
            assert file == "errors.py", f"{file}:{call.lineno}: which code is this?"
    for file, call in calls("invalid", "malformed"):
        statuses = [constant(word.value) for word in call.keywords if word.arg == "status"]
        if statuses == [None]:
            assert file == "large_bodies.py", "only it passes on what was raised elsewhere"
        else:
            found.add((cast(int, statuses[0] if statuses else 400), "invalid_request"))
    return found


def test_every_error_is_told_and_no_other() -> None:
    told = {
        (int(status), code)
        for statuses, names, _ in table(DATA_PORT, "Errors")
        for status in statuses.split(", ")
        for code in codes(names)
    }
    assert told == errors_in_code()


def header_names(prefixes: tuple[str, ...]) -> set[str]:
    """The headers that the data port writes, from the bytes it is made of."""
    found: set[str] = set()
    for source in SOURCES.values():
        for node in ast.walk(source):
            if isinstance(node, ast.Constant) and isinstance(node.value, bytes):
                written = re.sub(r"%[.0-9]*[a-z]", "", node.value.decode("latin-1"))
                found.update(re.findall(r"([a-z][a-z-]+): ", written))
    return {name for name in found if name.startswith(prefixes)}


def test_every_response_header_is_told_and_no_other() -> None:
    told = {
        code.partition(":")[0] for names, _ in table(DATA_PORT, "Response headers") for code in codes(names)
    }
    sent = header_names(("x-spillway-", "x-should-retry", "x-request-id"))
    # The one pair whose first name is also a backend's own.
    assert told == sent | {"retry-after", "retry-after-ms"}
    assert {"retry-after", "retry-after-ms"} == header_names(("retry-after",))


def test_every_spill_reason_is_told() -> None:
    meaning = {codes(names)[0]: text for names, text in table(DATA_PORT, "Response headers")}
    told = set(codes(meaning["x-spillway-spill-reason"]))
    assert told == set(PlanReason) - {PlanReason.FIRST_CHOICE}


def data_paths() -> Iterator[tuple[str, str, str, str]]:
    for names, method, model, answered_by in table(DATA_PORT, "Paths"):
        for name in codes(names):
            if name.startswith("/"):
                yield name, method, model, answered_by


def test_every_path_is_served_as_told() -> None:
    paths = PathTable(websocket_paths=WEBSOCKET_PATHS)
    for name, method, model, answered_by in data_paths():
        endpoint = paths.find(method.encode(), name.replace("*", "some").replace("{model}", "m").encode())
        assert answered_by.startswith("gateway") == (endpoint.local_path is not None), name
        if endpoint.local_path is None:
            assert model == told_source(endpoint), name


def told_source(endpoint: Endpoint) -> str:
    return {
        ModelSource.BODY: "body, required",
        ModelSource.BODY_OPTIONAL: "body, optional",
        ModelSource.PATH: "path",
        ModelSource.QUERY: "query (`?model=`), optional",
    }[endpoint.model_source]


def test_no_path_is_left_out() -> None:
    paths = PathTable(websocket_paths=WEBSOCKET_PATHS)
    told = {name for name, *_ in data_paths()}
    assert {path.decode() for path in paths._exact} | set(paths._wild.values()) <= told


def admin_routes_in_code() -> set[tuple[str, str]]:
    server = AdminServer(AdminSettings(), cast(Pages, object()))
    found = set()
    for route in server._application().router.routes():
        assert route.resource is not None
        path = route.resource.canonical
        kinds = ("clusters", "backends") if "{kind}" in path else ("",)
        # aiohttp answers HEAD wherever it answers GET.
        if route.method != "HEAD":
            found |= {(route.method, nameless(path.replace("{kind}", kind))) for kind in kinds}
    return found


def nameless(path: str) -> str:
    return re.sub(r"\{\w+\}", "{}", path)


def test_every_path_of_the_admin_port_is_told_and_no_other() -> None:
    told = {
        (method, nameless(name))
        for names, methods, _ in table(TEXT, "Admin port")
        for name in codes(names)
        for method in methods.split(", ")
    }
    assert told == admin_routes_in_code()
