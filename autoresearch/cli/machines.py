"""`reap`: take machines down that studies of this folder have left. Only names we made."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from autoresearch.cli.common import configuration
from autoresearch.cli.output import print_json, say
from autoresearch.errors import AutoresearchError, PoolError
from autoresearch.executors.sky.client import SkyClient
from autoresearch.executors.sky.ledger import Machines
from autoresearch.study import Study, existing_tags, open_study, state_folder

AT_ONCE = 4


def reap(folder: Path, *, as_json: bool) -> None:
    """Take down the machines of every study of this folder whose dispatcher is dead."""
    folder = folder.absolute()
    states = state_folder(folder, configuration(folder).state_dir)
    studies = [open_study(folder, states, tag) for tag in existing_tags(states)]
    _report(take_down([s for s in studies if not s.dispatcher_alive()]), as_json=as_json)


def take_down(studies: list[Study]) -> dict[str, str]:
    """Take down what the studies' ledgers name; return what came of each cluster that existed."""
    ledgers = {study.tag: Machines(study.state / "workers", study.tag) for study in studies}
    machines = [(tag, record) for tag, ledger in ledgers.items() for record in ledger.living()]
    if not machines:
        return {}
    from autoresearch.executors.sky.sdk import SdkClient

    client: SkyClient = SdkClient()
    there = {cluster.name for cluster in client.clusters([record.cluster for _, record in machines])}

    def end(cluster: str) -> str:
        if cluster not in there:
            return "was gone"
        try:
            client.down(cluster)
        except PoolError as error:
            return f"failed: {error.message}"
        return "is down"

    with ThreadPoolExecutor(AT_ONCE) as pool:
        ended = list(pool.map(end, [record.cluster for _, record in machines]))
    failed = set()
    for (tag, record), how in zip(machines, ended, strict=True):
        if how.startswith("failed"):
            failed.add(tag)
        else:
            ledgers[tag].end(record.name)
    for study in studies:
        if study.tag not in failed:
            study.store.note_workers((), lasting=float("inf"), now=time.time())
    return {record.cluster: how for (_, record), how in zip(machines, ended, strict=True)}


def _report(ended: dict[str, str], *, as_json: bool) -> None:
    if as_json:
        print_json({"clusters": ended})
    elif not ended:
        say("no machines are left")
    else:
        for cluster, how in ended.items():
            say(f"{cluster} {how}")
    if any(how.startswith("failed") for how in ended.values()):
        raise AutoresearchError("some machines could not be taken down", "see `sky status`, then try again")
