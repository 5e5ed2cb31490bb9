"""What a field may hold, and the wording of a refusal."""

from typing import Any

import pytest

from roadmap.config.errors import ConfigError, lookup, nearest
from roadmap.config.fields import Choice, Flag, Number, Numbers, Rule, Text, parse_setting
from roadmap.config.model import ModelSpec

CASES: list[tuple[Rule, str, Any]] = [
    (Choice(("relu", "gelu")), "gelu", "gelu"),
    (Flag(), "On", True),
    (Flag(), "no", False),
    (Number(0, 5), "1e-1", 0.1),
    (Number(0, 5, whole=True), "5", 5),
    (Number(0, 5, none=True), "none", None),
    (Numbers(Number(1, 9, whole=True), 1, 4), "3,3,9,3", (3, 3, 9, 3)),
    (Numbers(Number(1, 9, whole=True), 1, 4), "(3:3:9:3)", (3, 3, 9, 3)),
    (Text(), "a b", "a b"),
]
ILLEGAL: list[tuple[Rule, Any]] = [
    (Choice(("relu", "gelu")), "geluu"),
    (Choice(("relu",)), None),
    (Flag(), 1),
    (Number(0, 5), True),
    (Number(0, 5), float("nan")),
    (Number(0, 5), 5.1),
    (Number(0, 5), None),
    (Number(0, 5, whole=True), 1.0),
    (Number(1, 9, odd=True, whole=True), 4),
    (Numbers(Number(1, 9), 2, 3), (1,)),
    (Numbers(Number(1, 9), 2, 3), [1, 2]),
    (Text(), ""),
    (Text(), "a\nb"),
]


@pytest.mark.parametrize(("rule", "text", "value"), CASES)
def test_a_word_of_the_command_line_becomes_a_legal_value(rule: Rule, text: str, value: Any) -> None:
    assert rule.parse(text) == value
    assert rule.check(value)


@pytest.mark.parametrize(("rule", "value"), ILLEGAL)
def test_an_illegal_value_is_refused_and_told_what_is_legal(rule: Rule, value: Any) -> None:
    assert not rule.check(value)
    assert rule.legal().startswith("legal: ")
    assert rule.advice(value)


def test_an_even_kernel_is_told_its_odd_neighbours() -> None:
    with pytest.raises(ConfigError) as e:
        parse_setting("ModelSpec", ModelSpec, "kernel-size=4")
    assert str(e.value) == "ModelSpec.kernel_size is 4; legal: odd integers from 1 to 63; try 3 or 5"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("kernel=9", "ModelSpec toggle 'kernel' is unknown; legal: depths, "),
        ("kernel=9", "did you mean 'kernel_size'?"),
        ("norm", "ModelSpec.norm has no value in 'norm'; legal: batch, layer; write norm=VALUE"),
        ("norm=bacth", "ModelSpec.norm is 'bacth'; legal: batch, layer; did you mean 'batch'?"),
        (
            "depths=3,x",
            "ModelSpec.depths is (3, 'x'); legal: 1 to 4 values, each integers from 1 to 200; write them with commas, such as 3,3,3,3",
        ),
    ],
)
def test_a_mistyped_setting_gets_the_value_the_legal_ones_and_advice(text: str, message: str) -> None:
    with pytest.raises(ConfigError) as e:
        parse_setting("ModelSpec", ModelSpec, text)
    assert message in str(e.value)


def test_nearest_names_ignore_case_and_are_not_invented() -> None:
    assert nearest("GELU", ["gelu", "relu"]).startswith("did you mean 'gelu'")
    assert nearest("zzz", ["gelu", "relu"]) == "choose one of these"


def test_the_beginning_of_a_name_is_near_it() -> None:
    assert nearest("invert", ["width", "inverted-bottleneck"]) == "did you mean 'inverted-bottleneck'?"
    assert nearest("in", ["width", "inverted-bottleneck"]) == "choose one of these"


def test_a_lookup_of_something_that_is_no_word_is_refused() -> None:
    with pytest.raises(ConfigError, match="regime 3 is unknown; legal: a, b; choose one of these"):
        lookup("regime", 3, {"a": 1, "b": 2})
