"""What edited code leaves behind is hostile: figures, folders; none of it may stop or blind the harness."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest

Fresh = Callable[..., ModuleType]


@pytest.mark.parametrize("figure", ["1" + 400 * "0", "1e300", "-1e300", "1e999", "NaN", '"7"', "true", "[1]"])
def test_a_figure_that_is_none_is_passed_over(fresh: Fresh, tmp_path: Path, figure: str) -> None:
    facts = tmp_path / "facts.json"
    facts.write_text(f'{{"num_steps": {figure}, "depth": 2}}')
    assert fresh("report").read_facts(str(facts)) == {"depth": 2.0}
