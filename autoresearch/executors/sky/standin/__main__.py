"""Runs one cluster of the stand-in: `python -m autoresearch.executors.sky.standin ROOT CLUSTER LOCK_FD`."""

from autoresearch.executors.sky.standin.skylet import main

if __name__ == "__main__":
    main()
