"""The watch of EndpointSlices, against a server that does what API servers do."""

from __future__ import annotations

import ssl
from contextlib import AbstractAsyncContextManager
from functools import partial
from pathlib import Path

import pytest
import trustme

from gateway.config.addresses import parse_backend_url
from gateway.config.schema_discovery import KubernetesApiConfig, KubernetesConfig
from gateway.discovery.kube_api import KubeApi, access_in_cluster
from gateway.discovery.kubernetes import KubernetesSource
from gateway.discovery.source import SourceFailed
from tests.discovery.kube_double import KubeDouble, endpoint, slice_of
from tests.discovery.telling import AROUND, Told, following, until

A, B, C = "http://10.0.0.1:8000", "http://10.0.0.2:8000", "http://10.0.0.3:8000"


def watched(
    kube: KubeDouble, token_file: Path | None = None, ca_file: Path | None = None, silent_s: float = 30.0
) -> AbstractAsyncContextManager[Told]:
    api = KubernetesApiConfig(url=parse_backend_url(kube.url), token_file=token_file, ca_file=ca_file)
    config = KubernetesConfig(service="vllm", namespace="models", port="http", api=api)
    return following(KubernetesSource(config, AROUND, open_api=partial(KubeApi, silent_s=silent_s)))


async def test_endpoints_come_and_go(kube: KubeDouble) -> None:
    kube.put(slice_of("s1", [endpoint("10.0.0.1", pod="a")]))
    kube.put(slice_of("other", [endpoint("10.9.9.9")], service="other"))
    async with watched(kube) as told:
        await told.has(A)
        kube.put(slice_of("s1", [endpoint("10.0.0.1", pod="a"), endpoint("10.0.0.2", pod="b")]))
        await told.has(A, B)
        kube.put(slice_of("s2", [endpoint("10.0.0.3", pod="c")]))
        await told.has(A, B, C)
        kube.put(slice_of("s1", [endpoint("10.0.0.2", pod="b", serving=True, terminating=True)]))
        await told.has(C)
        kube.delete("s2")
        await told.has()
    (query,) = kube.watches
    assert (kube.lists, query["allowWatchBookmarks"], told.failures) == (1, "true", [])
    assert 300 <= int(query["timeoutSeconds"]) < 600
    await until(lambda: kube.open_watches == 0)


async def test_a_list_in_pages_is_taken_in_whole(kube: KubeDouble) -> None:
    kube.page_size = 1
    for number, pod in enumerate("abc", 1):
        kube.put(slice_of(f"s{number}", [endpoint(f"10.0.0.{number}", pod=pod)]))
    async with watched(kube) as told:
        await told.has(A, B, C)
        assert len(told.answers) == 1
    assert kube.lists == 3


async def test_after_a_disconnect_it_goes_on_from_the_last_version(kube: KubeDouble) -> None:
    kube.put(slice_of("s1", [endpoint("10.0.0.1")]))
    async with watched(kube) as told:
        await told.has(A)
        await until(lambda: kube.open_watches == 1)
        kube.bookmark()
        await until(lambda: told.confirmations >= 2)
        bookmarked = str(kube._version)
        kube.disconnect()
        await until(lambda: kube.open_watches == 0)
        kube.put(slice_of("s1", [endpoint("10.0.0.2")]))  # while nobody watches
        await told.has(B)
    assert kube.lists == 1, "nothing was lost, so nothing is listed anew"
    assert [query["resourceVersion"] for query in kube.watches] == ["101", bookmarked]


@pytest.mark.parametrize("as_event", [False, True])
async def test_410_lists_anew_and_takes_nothing_away_meanwhile(kube: KubeDouble, as_event: bool) -> None:
    kube.gone_as_event = as_event
    kube.put(slice_of("s1", [endpoint("10.0.0.1")]))
    kube.put(slice_of("s2", [endpoint("10.0.0.2")]))
    async with watched(kube) as told:
        await told.has(A, B)
        await until(lambda: kube.open_watches == 1)
        kube.disconnect()
        await until(lambda: kube.open_watches == 0)
        kube.delete("s2")
        kube.forget_history()
        await told.has(A)
        assert [len(found.backends) for found in told.answers] == [2, 1]
        await until(lambda: kube.open_watches == 1)
    assert (kube.lists, told.failures) == (2, [])


async def test_a_token_is_read_again_when_it_has_been_replaced(kube: KubeDouble, tmp_path: Path) -> None:
    token_file = tmp_path / "token"
    token_file.write_text("old\n")
    kube.token = "old"
    kube.put(slice_of("s1", [endpoint("10.0.0.1")]))
    async with watched(kube, token_file) as told:
        await told.has(A)
        await until(lambda: kube.open_watches == 1)
        kube.token = "new"
        kube.disconnect()
        await told.fails("does not accept the token: 401")
        kube.put(slice_of("s1", [endpoint("10.0.0.2")]))
        token_file.write_text("new\n")
        await told.has(B)
        assert "old" not in str(told.failures)


async def test_refusals_are_told_and_waited_out(kube: KubeDouble) -> None:
    kube.failures = [(403, {}), (429, {"Retry-After": "0"}), (500, {}), (503, {}), (302, {"Location": "/"})]
    kube.put(slice_of("s1", [endpoint("10.0.0.1")]))
    async with watched(kube) as told:
        await told.has(A)
    assert "give it a Role: 403 (asked to fail)" in told.failures[0]
    assert [failure.split(":")[1].split()[0] for failure in told.failures[1:]] == ["429", "500", "503", "302"]


async def test_a_silent_watch_is_opened_anew(kube: KubeDouble) -> None:
    kube.put(slice_of("s1", [endpoint("10.0.0.1")]))
    async with watched(kube, silent_s=0.1) as told:
        await told.has(A)
        await until(lambda: len(kube.watches) >= 3)
        assert told.failures == [], "a Service without changes is no failure"
        kube.is_hanging = True
        await told.fails("does not answer in time")
        kube.is_hanging = False
        kube.put(slice_of("s1", [endpoint("10.0.0.2")]))
        await told.has(B)
    assert kube.lists == 1


@pytest.mark.parametrize(
    "line",
    [
        b"no json\n",
        b'{"type": "MODIFIED"}\n',
        b'{"type": "MODIFIED", "object": {"metadata": {"name": 7}}}\n',
        b'{"type": "MODIFIED", "object": {"metadata": {"name": "s1"}, "endpoints": [{"addresses": "x"}]}}\n',
        b'{"type": "ERROR", "object": {"code": 500, "message": "etcd"}}\n',
        b'{"type": "BOOKMARK", "object": {}}\n',
        b"x" * (5 * 2**20),
    ],
)
async def test_what_cannot_be_read_lists_anew(kube: KubeDouble, line: bytes) -> None:
    kube.put(slice_of("s1", [endpoint("10.0.0.1")]))
    async with watched(kube) as told:
        await told.has(A)
        await until(lambda: kube.open_watches == 1)
        kube.send(line)
        await until(lambda: kube.lists == 2)
        assert len(told.failures) == 1
        kube.put(slice_of("s1", [endpoint("10.0.0.2")]))
        await told.has(B)


async def test_events_of_kinds_to_come_are_passed_over(kube: KubeDouble) -> None:
    kube.put(slice_of("s1", None))
    async with watched(kube) as told:
        await told.has()
        await until(lambda: kube.open_watches == 1)
        kube.send(b'\n{"type": "RUMOUR", "object": []}\n')
        kube.put(slice_of("s1", [endpoint("10.0.0.1")]))
        await told.has(A)
    assert (kube.lists, told.failures) == (1, [])


async def test_an_api_that_is_not_there_is_waited_for(kube: KubeDouble) -> None:
    kube.put(slice_of("s1", [endpoint("10.0.0.1")]))
    await kube.stop()
    async with watched(kube) as told:
        await told.fails("can't be reached", times=2)
        assert told.answers == []


async def test_the_api_is_verified_by_its_ca_and_a_new_one_is_read(tmp_path: Path) -> None:
    right, wrong = trustme.CA(), trustme.CA()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    right.issue_cert("127.0.0.1").configure_cert(context)
    kube = KubeDouble()
    await kube.start(context)
    kube.put(slice_of("s1", [endpoint("10.0.0.1")]))
    ca_file = tmp_path / "ca.crt"
    wrong.cert_pem.write_to_path(ca_file)
    try:
        async with watched(kube, ca_file=ca_file) as told:
            await told.fails("is not trusted")
            right.cert_pem.write_to_path(ca_file)
            await told.has(A)
    finally:
        await kube.stop()


async def test_in_a_pod_everything_is_where_the_kubelet_puts_it(
    kube: KubeDouble, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    access = access_in_cluster(
        {"KUBERNETES_SERVICE_HOST": "fd00::1", "KUBERNETES_SERVICE_PORT": "443"}, tmp_path
    )
    assert (access.url, access.token_file) == ("https://[fd00::1]:443", tmp_path / "token")
    monkeypatch.delenv("KUBERNETES_SERVICE_HOST", raising=False)
    async with following(KubernetesSource(KubernetesConfig(service="vllm"), AROUND, tmp_path)) as told:
        await told.fails("not in a Kubernetes pod: set discovery.kubernetes.api.url")
    (tmp_path / "namespace").write_text("models\n")
    kube.put(slice_of("s1", [endpoint("10.0.0.1")]))
    api = KubernetesApiConfig(url=parse_backend_url(kube.url))
    source = KubernetesSource(KubernetesConfig(service="vllm", api=api, scheme="https"), AROUND, tmp_path)
    async with following(source) as told:
        found = await told.has("https://10.0.0.1:8000")
        assert found.server_name == "vllm.models.svc"
    with pytest.raises(SourceFailed, match="not in a Kubernetes pod"):
        access_in_cluster({})
