"""Who proposes. Every agent keeps the contract of `autoresearch.protocols.Agent`."""
