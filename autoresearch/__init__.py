"""autoresearch: an agent edits train.py, a pool of workers measures, statistics decides."""

__version__ = "0.1.0"
