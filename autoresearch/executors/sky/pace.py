"""When SkyPilot is asked what: every wait of the executor in one place, in seconds."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Pace:
    """Waits, in seconds. The defaults suit runs of minutes; a query costs SkyPilot seconds of CPU."""

    setup_look: float = 10.0  # between looks at a machine that is being set up
    unclear_look: float = 10.0  # between looks for something that was not answered
    early_look: float = 60.0  # after a run's start: most crashes are early
    late_look: float = 5.0  # after a run's usual end
    repeats: tuple[float, ...] = (10.0, 15.0, 30.0, 60.0)  # between looks at a run that goes on for longer
    margin: float = 10.0  # of handing over a run, beside what an exec was seen to take
    first_latency: float = 20.0  # of an exec, before one was measured
    first_pause: float = 30.0  # before a kind of machine that failed is tried again; doubled each time
    longest_pause: float = 600.0
    stuck: float = 180.0  # past its own time limit, a run that still runs has a broken machine
    closing: float = 300.0  # for all machines to go down
