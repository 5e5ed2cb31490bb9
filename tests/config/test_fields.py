"""What a field may hold, how a command line's text becomes it, and the wording of a refusal."""

from typing import Annotated, Any, Literal

import pytest
from annotated_types import Interval, Len

from roadmap.config.errors import ConfigError, lookup, nearest
from roadmap.config.fields import (
    Fraction,
    Odd,
    Text,
    TextOrEmpty,
    config,
    from_plain,
    identity_of,
    neutral_settings,
    parse_setting,
    plain,
    setting,
    version_of,
)
from roadmap.config.model import ModelSpec, TimmSpec, with_settings


@config
class Sample:
    """One field of each kind."""

    word: Literal["relu", "gelu"] = setting("a word", default="relu")
    flag: bool = setting("a flag", default=False)
    real: Annotated[float, Interval(ge=0, le=5)] = setting("a number", default=1.0)
    whole: Annotated[int, Interval(ge=0, le=5)] = setting("an integer", default=1)
    odd: Annotated[int, Interval(ge=1, le=9), Odd()] = setting("an odd integer", default=3)
    maybe: Annotated[float, Interval(ge=0, le=5)] | None = setting("a number or none", default=None)
    several: Annotated[tuple[Annotated[int, Interval(ge=1, le=9)], ...], Len(1, 4)] = setting("a few", default=(3,))
    line: Text = setting("a line", default="a")
    empty: TextOrEmpty = setting("a line, or nothing", default="")
    part: Fraction = setting("a part", default=0.5)


CASES: list[tuple[str, str, Any]] = [
    ("word", "gelu", "gelu"),
    ("flag", "On", True),
    ("flag", "no", False),
    ("real", "1e-1", 0.1),
    ("whole", "5", 5),
    ("maybe", "none", None),
    ("several", "3,3,9,3", (3, 3, 9, 3)),
    ("several", "(3:3:9:3)", (3, 3, 9, 3)),
    ("line", "a b", "a b"),
]
ILLEGAL: list[tuple[str, Any]] = [
    ("word", "geluu"),
    ("word", None),
    ("flag", 1),
    ("real", True),
    ("real", float("nan")),
    ("real", 5.1),
    ("real", None),
    ("real", "1"),
    ("whole", 1.0),
    ("odd", 4),
    ("several", ()),
    ("several", [1, 2]),
    ("several", (1, 10)),
    ("line", ""),
    ("line", "a\nb"),
    ("empty", "a\nb"),
    ("part", 1.5),
]


@pytest.mark.parametrize(("name", "text", "value"), CASES)
def test_a_word_of_the_command_line_becomes_a_legal_value(name: str, text: str, value: Any) -> None:
    assert parse_setting("Sample", Sample, f"{name}={text}") == (name, value)
    assert getattr(Sample(**{name: value}), name) == value


@pytest.mark.parametrize(("name", "value"), ILLEGAL)
def test_an_illegal_value_is_refused_and_told_what_is_legal(name: str, value: Any) -> None:
    with pytest.raises(ConfigError) as e:
        Sample(**{name: value})
    assert str(e.value).startswith(f"Sample.{name} is {value!r}; legal: ")
    assert [fault.field for fault in e.value.faults] == [name]


def test_an_integer_is_a_real_number_too() -> None:
    assert Sample(real=1) == Sample(real=1.0) and isinstance(Sample(real=1).real, float)


# A class that grew: `younger` came with version 3.
@config
class Grown:
    """A config with a field that version 1 had, and a younger one."""

    old: int = setting("there from the first day", default=1)
    younger: bool = setting("came with version 3", default=True, since=3, neutral=False)


def test_content_older_than_a_field_gets_its_neutral_value_not_its_default() -> None:
    assert from_plain(Grown, {"old": 2}, "trial.model") == Grown(old=2, younger=False)
    assert neutral_settings(Grown) == {"younger": False}
    assert version_of(Grown) == 3


def test_a_younger_field_at_its_neutral_value_is_not_part_of_the_identity() -> None:
    assert identity_of(Grown(old=2, younger=False)) == {"old": 2}
    assert identity_of(Grown(old=2)) == {"old": 2, "younger": True}
    assert plain(Grown(old=2, younger=False)) == {"old": 2, "younger": False}


def test_a_field_that_was_always_there_may_not_be_missing() -> None:
    with pytest.raises(ConfigError, match="trial.model lacks old; legal: every field"):
        from_plain(Grown, {"younger": True}, "trial.model")


def test_any_keyword_of_a_timm_architecture_is_a_toggle() -> None:
    spec = with_settings(TimmSpec(timm="vit_tiny_patch16_224"), {"class_token": False, "num_classes": 10})
    assert plain(spec) == {**plain(TimmSpec(timm="vit_tiny_patch16_224", num_classes=10)), "class_token": False}
    assert from_plain(TimmSpec, plain(spec), "trial.model") == spec
    assert identity_of(with_settings(spec, {"class_token": None})) == identity_of(
        TimmSpec(timm="vit_tiny_patch16_224", num_classes=10)
    )


def test_what_an_experiment_does_not_set_is_no_keyword() -> None:
    with pytest.raises(ConfigError, match="TimmSpec.pretrained is true, but no keyword"):
        with_settings(TimmSpec(timm="vit_tiny_patch16_224"), {"pretrained": True})


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
