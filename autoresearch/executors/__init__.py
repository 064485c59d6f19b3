"""Where jobs run. Every executor keeps the contract of `autoresearch.protocols.Executor`."""
