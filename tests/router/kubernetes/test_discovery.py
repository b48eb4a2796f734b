"""Pods that come, answer, drain and go, before a router with a real API to watch."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import kmock
import pytest

from stoker.router.described import RouterHealth

from ..fakes import CHAT, FakeEngine, Fleet, after, until
from ..processes import RouterProcess
from .cluster import NAMESPACE, SELECTOR, Cluster


def router(cluster: Cluster, directory: Path, *engines: FakeEngine, **settings: Any) -> Fleet:
    """A router that looks for pods, beside `engines` that are in its file."""
    file = directory / "kubeconfig"
    file.write_text(cluster.kubeconfig(), encoding="utf-8")
    pods = {"selector": SELECTOR, "kubeconfig": str(file), **settings.pop("kubernetes", {})}
    return Fleet(*engines, kubernetes=pods, **settings)


async def health(fleet: Fleet) -> Any:
    return (await fleet.client.get("/health")).json()


def serving(fleet: Fleet) -> set[str]:
    """Engines that may get requests."""
    engines = fleet.server.dispatcher.fleet.engines.values()
    return {one.name for one in engines if one.usable(fleet.server.loop.time())}


def known(fleet: Fleet) -> set[str]:
    return set(fleet.server.dispatcher.fleet.engines)


async def served_by(fleet: Fleet, times: int = 8) -> set[str]:
    answers = [await fleet.post() for _ in range(times)]
    assert {answer.status_code for answer in answers} == {200}
    return {answer.headers["x-stoker-engine"] for answer in answers}


async def test_pods_that_are_there_serve_at_once(cluster: Cluster, tmp_path: Path) -> None:
    async with FakeEngine("pod-1") as one, FakeEngine("pod-2") as two, FakeEngine("x") as other:
        await cluster.run(one)
        await cluster.run(two)
        await cluster.run(other, labels={"app": "something-else"})
        async with router(cluster, tmp_path, FakeEngine("own")) as fleet:
            assert await served_by(fleet, 9) == {"pod-1", "pod-2", "own"}
            told = (await health(fleet))["kubernetes"]
            assert told["connected"] is True
            assert {name: pod["state"] for name, pod in told["pods"].items()} == {
                "pod-1": "serving",
                "pod-2": "serving",
            }
            metrics = (await fleet.client.get("/metrics")).text
            assert "stoker_router_kubernetes_up 1.0" in metrics
            assert 'stoker_router_pods{state="serving"} 2.0' in metrics


async def test_a_pod_joins_when_it_is_ready_and_its_model_answers(
    cluster: Cluster, tmp_path: Path
) -> None:
    async with (
        FakeEngine("pod-1", models=()) as one,
        FakeEngine("pod-2") as two,
        router(cluster, tmp_path) as fleet,
    ):
        refused = await fleet.post()
        assert refused.status_code == 503
        assert refused.json()["error"]["code"] == "no_engine_yet"
        assert (await fleet.client.get("/ready")).status_code == 503

        await cluster.run(one)  # Ready, and lists no model
        await cluster.run(two, ready=False)  # lists its model, and is not Ready
        pods = fleet.server.dispatcher.pods
        assert pods is not None
        await until(lambda: "serves no model" in str(pods.report()["pods"].get("pod-1")), 60)
        assert pods.report()["pods"] == {
            "pod-1": {"state": "asked", "reason": "it serves no model yet"},
            "pod-2": {"state": "unready", "reason": "not Ready"},
        }
        assert known(fleet) == set()

        one.models = ("m",)
        await until(lambda: serving(fleet) == {"pod-1"}, 60)
        assert await served_by(fleet) == {"pod-1"}
        await cluster.set_ready("pod-2", True)
        await until(lambda: serving(fleet) == {"pod-1", "pod-2"}, 60)
        assert await served_by(fleet) == {"pod-1", "pod-2"}
        assert (await fleet.client.get("/ready")).status_code == 200


async def test_a_terminating_pod_finishes_its_stream_and_gets_nothing_new(
    cluster: Cluster, tmp_path: Path
) -> None:
    async with FakeEngine("pod-1") as one, FakeEngine("pod-2") as two:
        await cluster.run(one)
        async with router(cluster, tmp_path) as fleet:
            gate = asyncio.Event()
            one.script.append(after(gate))
            body = {**CHAT, "stream": True}
            stream = asyncio.create_task(fleet.post(body))
            await until(lambda: one.in_flight == 1, 60)
            handle = fleet.handle("pod-1")
            await cluster.run(two)
            await until(lambda: serving(fleet) == {"pod-1", "pod-2"}, 60)

            await cluster.terminate("pod-1")
            await until(lambda: serving(fleet) == {"pod-2"}, 60)
            state = (await health(fleet))["engines"]["pod-1"]
            assert (state["draining"], state["in_flight"]) == (True, 1)
            assert await served_by(fleet) == {"pod-2"}

            await cluster.delete("pod-1")
            await until(lambda: known(fleet) == {"pod-2"}, 60)
            assert handle.in_flight == 1
            gate.set()
            answer = await stream
            assert answer.headers["x-stoker-engine"] == "pod-1"
            assert answer.text.endswith("data: [DONE]\n\n")
            assert handle.in_flight == 0
            assert len(one.seen) == 1


async def test_a_terminating_pod_that_fails_its_probes_keeps_what_it_has(
    cluster: Cluster, tmp_path: Path
) -> None:
    async with FakeEngine("pod-1") as one, FakeEngine("pod-2") as two:
        await cluster.run(one)
        async with router(cluster, tmp_path) as fleet:
            gate = asyncio.Event()
            one.script.append(after(gate))
            whole = asyncio.create_task(fleet.post())
            await until(lambda: one.in_flight == 1, 60)
            await cluster.run(two)
            await cluster.terminate("pod-1")
            await until(lambda: serving(fleet) == {"pod-2"}, 60)
            one.healthy = False
            await asyncio.sleep(6 * fleet.server.config.health.interval)
            gate.set()
            assert (await whole).headers["x-stoker-engine"] == "pod-1"
            assert (len(one.seen), len(two.seen)) == (1, 0)


async def test_a_pod_that_is_unready_for_a_while_comes_back_as_it_was(
    cluster: Cluster, tmp_path: Path
) -> None:
    async with FakeEngine("pod-1") as one:
        await cluster.run(one)
        async with router(cluster, tmp_path) as fleet:
            handle = fleet.handle("pod-1")
            await cluster.set_ready("pod-1", False)
            await until(lambda: serving(fleet) == set(), 60)
            waiting = asyncio.create_task(fleet.post())  # the only pod may be back in time
            await until(lambda: fleet.server.dispatcher.waiting == 1, 60)
            await cluster.set_ready("pod-1", True)
            assert (await waiting).status_code == 200
            assert fleet.handle("pod-1") is handle


async def test_requests_wait_for_another_pod_of_a_model_whose_last_one_left(
    cluster: Cluster, tmp_path: Path
) -> None:
    async with FakeEngine("pod-1") as one, FakeEngine("pod-2") as two:
        await cluster.run(one)
        async with router(cluster, tmp_path) as fleet:
            await cluster.delete("pod-1")
            await until(lambda: known(fleet) == set(), 60)
            waiting = asyncio.create_task(fleet.post())
            await until(lambda: fleet.server.dispatcher.waiting == 1, 60)
            await cluster.run(two)
            assert (await waiting).headers["x-stoker-engine"] == "pod-2"
            assert (await fleet.post({**CHAT, "model": "other"})).status_code == 404


async def test_another_pod_of_the_same_name_is_another_engine(
    cluster: Cluster, tmp_path: Path
) -> None:
    async with FakeEngine("pod-1") as one:
        await cluster.run(one)
        async with router(cluster, tmp_path) as fleet:
            handle = fleet.handle("pod-1")
            await cluster.run(one, uid="another")
            await until(lambda: fleet.server.dispatcher.fleet.engines.get("pod-1") != handle, 60)
            await until(lambda: serving(fleet) == {"pod-1"}, 60)
            assert handle.draining


async def test_annotations_say_what_a_pod_is_good_for(cluster: Cluster, tmp_path: Path) -> None:
    async with FakeEngine("pod-1") as one, FakeEngine("pod-2") as two:
        port = int(one.url.rsplit(":", 1)[1])
        text = f"{{kind: vllm, port: {port}, price: {{per_hour: 4.5}}, max_in_flight: 7}}"
        ports = [{"containerPort": 1}, {"containerPort": 2}]
        await cluster.run(one, annotations={"stoker/engine": text}, ports=ports)
        await cluster.run(two, annotations={"stoker/engine": "{kind: vlm}"})
        defaults = {"engine": {"max_in_flight": 3, "context": 100, "kv_events_port": 5557}}
        async with router(cluster, tmp_path, kubernetes=defaults) as fleet:
            handle = fleet.handle("pod-1")
            assert (handle.kind, handle.gpu, handle.capacity) == ("vllm", True, 7)
            assert handle.price is not None
            assert handle.price.per_hour == 4.5
            assert handle.models["m"].max_model_len == 100
            assert handle.kv_events == "tcp://127.0.0.1:5557"
            reason = (await health(fleet))["kubernetes"]["pods"]["pod-2"]["reason"]
            assert reason.startswith("its annotation stoker/engine is wrong: kind: Input should be")
            await cluster.annotate("pod-2", "{gpu: true}")
            await until(lambda: serving(fleet) == {"pod-1", "pod-2"}, 60)
            # Nothing says what it is, and its list of models does not either.
            assert (fleet.handle("pod-2").kind, fleet.handle("pod-2").capacity) == ("openai", 3)
            await cluster.annotate("pod-2", "{gpu: false}")
            await until(lambda: not fleet.handle("pod-2").gpu, 60)


async def test_what_was_missed_while_the_api_server_was_away(
    cluster: Cluster, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with FakeEngine("pod-1") as one, FakeEngine("pod-2") as two, FakeEngine("pod-3") as new:
        await cluster.run(one)
        await cluster.run(two)
        async with router(cluster, tmp_path) as fleet:
            pods = fleet.server.dispatcher.pods
            assert pods is not None
            await until(lambda: cluster.watching == 1, 60)
            await cluster.stop()
            await until(lambda: not pods.connected, 60)
            assert await served_by(fleet) == {"pod-1", "pod-2"}  # as if nothing were
            assert "2 known engines go on serving" in caplog.text
            assert "stoker_router_kubernetes_up 0.0" in (await fleet.client.get("/metrics")).text
            await cluster.delete("pod-1")
            await cluster.run(new)
            cluster.compact()
            await cluster.start()
            await until(lambda: serving(fleet) == {"pod-2", "pod-3"}, 60)
            assert known(fleet) == {"pod-2", "pod-3"}
            assert pods.connected
            assert pods.failures == 1


async def test_a_router_that_starts_without_an_api_server(cluster: Cluster, tmp_path: Path) -> None:
    async with FakeEngine("pod-1") as one:
        await cluster.run(one)
        await cluster.stop()
        async with router(cluster, tmp_path) as fleet:
            assert (await fleet.post()).json()["error"]["code"] == "no_engine_yet"
            await cluster.start()
            await until(lambda: serving(fleet) == {"pod-1"}, 60)


async def test_a_version_too_long_ago_is_a_reason_to_list_anew(
    cluster: Cluster, tmp_path: Path
) -> None:
    cluster.longest = 1.2  # the server ends watches, each by its time
    async with FakeEngine("pod-1") as one, FakeEngine("pod-2") as two:
        await cluster.run(one)
        async with router(cluster, tmp_path) as fleet:
            await until(lambda: len(cluster.watched_from) == 1, 60)
            await cluster.bookmark()
            first = cluster.watched_from[0]
            # A watch that ended by its time goes on, from where the bookmark said.
            await until(lambda: cluster.watched_from[-1] == first + 1, 60)
            assert cluster.lists == 1
            cluster.longest = 2.0
            del cluster.pods["pod-1"]  # nobody is told
            cluster.compact()
            await until(lambda: known(fleet) == set(), 60)
            assert cluster.lists == 2
            cluster.longest = 60.0
            await until(lambda: cluster.watching == 1, 60)
            await cluster.run(two)
            await until(lambda: serving(fleet) == {"pod-2"}, 60)


async def test_a_router_that_may_not_list_pods_says_what_it_needs(
    cluster: Cluster, tmp_path: Path
) -> None:
    async with FakeEngine("pod-1") as one:
        await cluster.run(one)
        cluster.refuse = kmock.KubernetesError(status=403, message="pods is forbidden")
        async with router(cluster, tmp_path) as fleet:
            told = (await health(fleet))["kubernetes"]
            assert told == {
                "connected": False,
                "reason": "it answers 403: pods is forbidden (the router's service account needs "
                "get, list and watch on pods)",
                "pods": {},
            }
            cluster.refuse = None
            await until(lambda: serving(fleet) == {"pod-1"}, 60)


async def test_from_the_command_line_without_a_file(cluster: Cluster, tmp_path: Path) -> None:
    file = tmp_path / "kubeconfig"
    file.write_text(cluster.kubeconfig(), encoding="utf-8")
    async with FakeEngine("pod-1") as one:
        port = int(one.url.rsplit(":", 1)[1])
        await cluster.run(one, ports=[])
        given = ["--k8s-selector", SELECTOR, "--k8s-namespace", NAMESPACE, "--k8s-port", str(port)]
        environment = {"KUBECONFIG": str(file), "HOME": str(tmp_path)}
        async with RouterProcess(tmp_path, None, given, environment=environment) as process:
            health = RouterHealth.model_validate((await process.client.get("/health")).json())
            assert health.kubernetes is not None
            assert health.kubernetes.connected
            assert health.kubernetes.pods["pod-1"].state == "serving"
            answer = await process.client.post("/v1/chat/completions", json=CHAT)
            assert answer.headers["x-stoker-engine"] == "pod-1"


async def test_a_reload_keeps_pods_and_what_they_are_at(cluster: Cluster, tmp_path: Path) -> None:
    async with FakeEngine("pod-1") as one, FakeEngine("pod-2") as two:
        await cluster.run(one)
        await cluster.run(two)
        async with router(cluster, tmp_path, FakeEngine("own")) as fleet:
            await cluster.terminate("pod-1")
            await until(lambda: serving(fleet) == {"own", "pod-2"}, 60)
            config = fleet.server.config
            gone = await fleet.server.reload(config.model_copy(update={"engines": ()}))
            assert [engine.name for engine in gone] == ["own"]
            assert (known(fleet), serving(fleet)) == ({"pod-1", "pod-2"}, {"pod-2"})
