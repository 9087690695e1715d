"""JSON has no numbers that are not finite."""

from __future__ import annotations

import json

import pytest

from lavps_jax.io.strict_json import to_text


def test_numbers_that_are_not_finite_become_null():
    content = {"a": [1.5, float("inf"), (float("nan"),)], "b": {"c": -float("inf"), "d": "x"}}
    text = to_text(content)
    found = json.loads(text, parse_constant=lambda word: pytest.fail(word))
    assert found == {"a": [1.5, None, [None]], "b": {"c": None, "d": "x"}} and text[-1] == "\n"
