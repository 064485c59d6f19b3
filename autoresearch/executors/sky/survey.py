"""What SkyPilot offers this user now: its API server, its infrastructure, accelerators free and in all.

It looks and starts nothing. What it cannot learn it states as a problem, with the way to fix it.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from types import ModuleType
from typing import Any

from autoresearch.executors.sky.calls import Calls, one_line
from autoresearch.executors.sky.client import SkyError

# which function of the SDK counts the accelerators of which infrastructure
_COUNTED: dict[str, tuple[str, dict[str, bool]]] = {
    "kubernetes": ("realtime_kubernetes_gpu_availability", {"is_ssh": False}),
    "slurm": ("realtime_slurm_gpu_availability", {}),
    "ssh": ("realtime_kubernetes_gpu_availability", {"is_ssh": True}),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Accelerator:
    """One kind of accelerator of one infrastructure."""

    infra: str  # as a task's `resources.infra`, for instance slurm/mycluster
    kind: str
    total: int
    free: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Survey:
    """What was found. Without an endpoint, SkyPilot itself does not work."""

    endpoint: str | None = None
    version: str | None = None  # of the API server
    healthy: bool = False
    infra: tuple[str, ...] = ()  # clouds, and each Slurm cluster or Kubernetes context
    accelerators: tuple[Accelerator, ...] = ()  # of Slurm, Kubernetes and SSH; clouds do not tell
    problems: tuple[str, ...] = ()


def survey(seconds: float = 60.0) -> Survey:
    """Return what SkyPilot offers; each of its up to five answers may take so many seconds."""
    calls = Calls()
    found = Survey()
    problems: list[str] = []
    try:
        found = replace(found, endpoint=calls.call("endpoint", seconds, _endpoint, start=False))
        health = calls.call("health", seconds, lambda sky: sky.api_info(), start=False)
        found = replace(found, version=health.version, healthy=health.status.value == "healthy")
        if not found.healthy:
            problems.append(f"the API server is {health.status.value}; run `sky api stop; sky api start`")
        found = replace(
            found, infra=tuple(_ask(calls, "infrastructure", seconds, "enabled_clouds", expand=True))
        )
        if not found.infra:
            problems.append("no infrastructure is enabled; run `sky check`, which says what each one needs")
        found = replace(found, accelerators=tuple(_accelerators(calls, seconds, found.infra, problems)))
    except SkyError as error:
        problems.append(error.message)
    return replace(found, problems=tuple(problems))


def _accelerators(
    calls: Calls, seconds: float, infra: tuple[str, ...], problems: list[str]
) -> Iterator[Accelerator]:
    """Yield what those infrastructures tell of their accelerators, and add what they do not."""
    clouds = {name.partition("/")[0] for name in infra}
    for cloud in sorted(clouds & _COUNTED.keys()):
        question, arguments = _COUNTED[cloud]
        try:
            answer = _ask(calls, f"accelerators of {cloud}", seconds, question, **arguments)
        except SkyError as error:
            problems.append(f"{error.message}; run `sky check {cloud}`")
            continue
        for place, kinds, *trouble in answer:
            problems += [
                f"{cloud}/{place}: {one_line(text)}; run `sky check {cloud}`" for text in trouble if text
            ]
            name = f"{cloud}/{place.removeprefix('ssh-')}"  # an SSH pool's name as a Kubernetes context
            for kind, _, total, free in kinds:
                yield Accelerator(infra=name, kind=kind, total=total, free=free)


def _ask(calls: Calls, what: str, seconds: float, question: str, **arguments: Any) -> Any:
    """Return the answer to one of the questions that only `sky.client.sdk` has."""
    return calls.request(
        what, seconds, lambda sky: getattr(sky.client.sdk, question)(**arguments), cancel=True
    )


def _endpoint(sky: ModuleType) -> str:
    common = sky.server.common
    url: str = common.redact_url_password(common.get_server_url())
    return url
