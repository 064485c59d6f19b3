"""How SkyPilot is asked: its errors become ours, its words are dropped; no SkyPilot is needed."""

from __future__ import annotations

import sys

import pytest
import requests

from autoresearch.executors.sky.calls import _Asker, one_line, translated
from autoresearch.executors.sky.client import GoneError, SkyError, UnansweredError, UnavailableError


class ClusterDoesNotExist(ValueError):  # noqa: N818 - SkyPilot's names
    pass


class ResourcesUnavailableError(Exception):
    pass


class KubeAPIUnreachableError(ResourcesUnavailableError):
    pass


class ApiServerAuthenticationError(RuntimeError):
    pass


def answered(status: int) -> requests.HTTPError:
    response = requests.Response()
    response.status_code = status
    return requests.HTTPError(f"{status} from the server", response=response)


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (ClusterDoesNotExist("Cluster 'c' does not exist."), GoneError),
        (ValueError("Cluster 'c' is not in UP status."), GoneError),
        (ResourcesUnavailableError("no H100 anywhere"), UnavailableError),
        (KubeAPIUnreachableError("timeout"), UnavailableError),
        (ApiServerAuthenticationError("log in"), UnansweredError),
        (requests.ConnectTimeout("5 seconds"), UnansweredError),
        (requests.ReadTimeout("5 seconds"), UnansweredError),
        (ConnectionResetError("peer"), UnansweredError),
        (RuntimeError("Failed to get request 1234: 404 not found"), UnansweredError),
        (answered(401), UnansweredError),
        (answered(502), UnansweredError),
        (answered(422), SkyError),
        (RuntimeError("anything else"), SkyError),
        (SystemExit(1), SkyError),
    ],
)
def test_each_error_becomes_the_one_a_caller_can_act_on(error, kind):
    assert type(translated("launch c", error)) is kind


def test_a_server_that_is_down_is_named_with_both_ways_out():
    message = translated("queue of c", requests.ConnectionError("refused")).message
    assert message.startswith("queue of c: ")
    assert "`sky api start`" in message
    assert "`sky api login`" in message


def test_a_message_is_one_clean_line_of_a_readable_length():
    assert one_line("\x1b[33mCluster 'c'\x1b[0m\n  does not exist.\r\n") == "Cluster 'c' does not exist."
    assert len(one_line("word " * 1000)) < 410


def test_what_skypilot_prints_is_dropped_and_nothing_else(capsys):
    asker = _Asker(lambda: print("Running on cluster: c"))
    asker.start()
    asker.join()
    print("ours")
    assert capsys.readouterr().out == "ours\n"


def test_skypilot_does_not_switch_tracebacks_off(capsys):
    def fail() -> None:
        sys.tracebacklimit = 0
        raise ClusterDoesNotExist("c")

    asker = _Asker(fail)
    asker.start()
    asker.join()
    assert isinstance(asker.error, ClusterDoesNotExist)
    assert not hasattr(sys, "tracebacklimit")
