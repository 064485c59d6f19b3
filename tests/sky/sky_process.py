"""SkyPilot's SDK in a process of its own, for the tests that use it."""

from __future__ import annotations

import os
from multiprocessing.managers import BaseManager

from autoresearch.executors.sky.sdk import SdkClient
from autoresearch.executors.sky.survey import survey


class Process(BaseManager):
    """A process for the client, as SkyPilot reads the environment once, when it is loaded."""


Process.register("SdkClient", SdkClient)
Process.register("survey", survey)


def keep_output(path: str) -> None:
    """Send all that this process prints to a file."""
    output = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(output, 1)
    os.dup2(output, 2)
