"""The chart's limit of memory, and the figures that it comes from."""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path
from types import ModuleType

import pytest
import yaml

ROOT = Path(__file__).parents[3]


@pytest.fixture(scope="module")
def measured() -> ModuleType:
    """The script beside the docs that reads `bench/results`."""
    spec = importlib.util.spec_from_file_location("measured", ROOT / "docs" / "measured.py")
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_limit_of_the_chart_is_enough_for_as_many_elections_as_it_says(
    measured: ModuleType,
) -> None:
    """It is a quarter more than what was measured for them."""
    text = (ROOT / "charts" / "incumbent" / "values.yaml").read_text()
    said = re.search(r"The limit is enough for ([\d,]+) elections", text)
    assert said
    given = yaml.safe_load(text)["resources"]["limits"]["memory"]
    assert measured.limit(int(said[1].replace(",", ""))) <= int(given.removesuffix("Mi"))


def test_the_limit_grows_evenly_between_measurements(measured: ModuleType) -> None:
    """And behind the last; for few elections it is that of the first."""
    fewest, *_, most = (number for number, *_ in measured._resident())
    limits = [measured.limit(number) for number in (1, fewest, 2 * fewest, most, 2 * most)]
    assert limits[0] == limits[1]
    assert limits == sorted(limits)
    assert limits[-1] > limits[-2]
    for number, *resident in measured._resident():
        assert measured.limit(number) >= measured.SPARE * max(resident)
