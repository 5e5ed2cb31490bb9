"""Marks of tests that stand for many like them."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import pytest


def slow_but(fast: Callable[..., bool], cases: Iterable[Any]) -> list[Any]:
    """The cases, all but the fast ones left out of the fast suite. A case of several values is a tuple."""
    return [case if fast(*_values(case)) else _slow(case) for case in cases]


def _values(case: Any) -> tuple[Any, ...]:
    values = getattr(case, "values", case)  # of a pytest.param
    return values if isinstance(values, tuple) else (values,)


def _slow(case: Any) -> Any:
    return pytest.param(*_values(case), marks=pytest.mark.slow, id=getattr(case, "id", None))
