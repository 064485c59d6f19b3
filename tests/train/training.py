"""Where the training side lies."""

from pathlib import Path

TRAIN = Path(__file__).resolve().parents[2] / "train"
