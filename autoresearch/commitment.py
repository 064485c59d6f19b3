"""What a study has committed itself to spend: every ceiling is checked here before anything starts.

A worker that is paid for whether busy or not (a SkyPilot cluster) may have to stay until the last run
in flight could end, so a new run reserves the stretch it adds for all such workers. A worker whose
runs are what costs reserves the run alone.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence

from autoresearch.budget import Budget, Usage, may_start
from autoresearch.experiment import Run, Worker

RELEASE_SECONDS = 120.0  # from asking for a worker's release to its last second on the bill


class Commitment:
    """The worst case of what is in flight, growing with every run that is taken on."""

    def __init__(
        self,
        budget: Budget,
        usage: Usage,
        workers: Sequence[Worker],
        in_flight: Iterable[Run],
        *,
        worst_seconds: float,
        now: float,
    ) -> None:
        """Reckon with runs that each may occupy a worker for `worst_seconds`."""
        self._budget = budget
        self._usage = usage
        self._paid = {w.name for w in workers if w.up_at is not None}
        self._rate = sum(w.price_per_hour for w in workers if w.up_at is not None)
        self._worst = worst_seconds
        self._now = now
        self._since: dict[str, float] = {}
        self._count: defaultdict[str, int] = defaultdict(int)
        self._extra = 0.0  # dollars of runs taken on, on workers that are paid by the run
        if budget.gpu_dollars is not None:  # what is in flight is reckoned in money only
            for run in in_flight:
                self._add(run.worker or "", run.submitted_at or now)

    def refusal(self, worker: Worker) -> str | None:
        """Return None if one more run on a worker fits under every ceiling, else the ceiling's name."""
        return may_start(
            self._budget,
            self._usage,
            worst_hours=self._worst / 3600,
            worst_dollars=self._reserved() + self._cost_of(worker),
        )

    def take(self, worker: Worker) -> None:
        """Count one more run on a worker."""
        if worker.name not in self._paid:
            self._extra += self._cost_of(worker)
        self._add(worker.name, self._now)

    def _add(self, worker: str, since: float) -> None:
        self._since[worker] = min(since, self._since.get(worker, since))
        self._count[worker] += 1

    def _reserved(self) -> float:
        return self._extra + self._rate * (self._horizon() - self._now) / 3600

    def _cost_of(self, worker: Worker) -> float:
        if worker.name not in self._paid:
            return worker.price_per_hour * self._worst / 3600
        end = self._since.get(worker.name, self._now) + self._worst * (self._count[worker.name] + 1)
        return self._rate * max(0.0, end + RELEASE_SECONDS - self._horizon()) / 3600

    def _horizon(self) -> float:
        """Return the moment until which the paid workers may have to stay."""
        if not self._paid:
            return self._now
        ends = [self._since[name] + self._worst * self._count[name] for name in self._since]
        return max([self._now, *ends]) + RELEASE_SECONDS
