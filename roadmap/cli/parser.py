"""The parser of the command line, and the options that mean the same in every verb.

Imports nothing heavy, so that --help stays quick.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, NoReturn

from roadmap.config.errors import listing, nearest

USER_ERROR = 2
A_DAY = 86_400.0  # seconds
DEVICES = ("auto", "cpu", "cuda")

# Spellings of earlier versions -> today's: {verb: new}, and {verb: {option: new}}.
OLD_VERBS: Mapping[str, str] = {"drill": "preemption-test"}
_RUNS = {"--out": "--runs"}
_SEEDS = {**_RUNS, "--seed": "--seeds"}
_SNAPSHOT = {"--no-freeze": "--no-snapshot"}
OLD_OPTIONS: Mapping[str, Mapping[str, str]] = {
    **dict.fromkeys(("run", "plan"), {**_RUNS, **_SNAPSHOT}),
    "status": _RUNS,
    "retry": {**_SEEDS, **_SNAPSHOT},
    **dict.fromkeys(("logs", "cancel", "preemption-test"), _SEEDS),
}


class Parser(argparse.ArgumentParser):
    """argparse with `_` and `-` alike in options, and the nearest or new name of a wrong one."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**{"allow_abbrev": False, "formatter_class": argparse.ArgumentDefaultsHelpFormatter, **kwargs})

    def parse_args(self, args: Any = None, namespace: Any = None) -> Any:
        given = sys.argv[1:] if args is None else args
        words = [_with_dashes(word) for word in given]
        self._refuse_old_spellings(words)
        known, unknown = self.parse_known_args(words, namespace)
        if unknown:
            self._refuse_unknown(unknown[0], known)
        if "verb" in known and known.verb is None:
            legal = listing(self._verbs())
            self.error(f"VERB is missing; legal: {legal}; say one, such as `roadmap run --step 9`, or --help")
        return known

    def _refuse_old_spellings(self, words: Sequence[str]) -> None:
        verb = words[0] if words else ""
        if verb in OLD_VERBS:
            new = OLD_VERBS[verb]
            self.error(f"VERB {verb!r} is now {new!r}; legal: {listing(self._verbs())}; write `roadmap {new} ...`")
        for word in words[1:]:
            old = word.partition("=")[0]
            if new_option := OLD_OPTIONS.get(verb, {}).get(old):
                parser = self._verbs()[verb]
                legal = listing(parser.long_options())
                parser.error(f"option {old!r} is now {new_option!r}; legal: {legal}; write {new_option} instead")

    def _refuse_unknown(self, word: str, known: argparse.Namespace) -> NoReturn:
        parser = self._verbs().get(known.verb, self)
        options = parser.long_options()
        kind = "option" if word.startswith("-") else "argument"
        advice = nearest(word.split("=")[0], options)
        parser.error(f"{kind} {word!r} is unknown; legal: {listing(options)}; {advice}")

    def _check_value(self, action: argparse.Action, value: Any) -> None:
        """Refuse a value that is none of an option's choices, in the project's words."""
        if action.choices is not None and value not in action.choices:
            where = action.option_strings[0] if action.option_strings else action.metavar or action.dest
            legal = listing(action.choices)
            text = f"{where} {value!r} is unknown; legal: {legal}; {nearest(value, action.choices)}"
            raise argparse.ArgumentError(None, text)

    def _verbs(self) -> Mapping[str, Parser]:
        """The parsers of the verbs, by name."""
        for action in self._actions:
            if isinstance(action, argparse._SubParsersAction):
                return action.choices
        return {}

    def long_options(self) -> list[str]:
        """The long options, in alphabetical order."""
        names = (name for action in self._actions for name in action.option_strings)
        return sorted(name for name in names if name.startswith("--"))

    def error(self, message: str) -> NoReturn:
        print(f"{self.prog}: error: {message}", file=sys.stderr)
        raise SystemExit(USER_ERROR)


def _with_dashes(word: str) -> str:
    """A long option with `-` for `_` in its name; any other word as it is."""
    if not word.startswith("--"):
        return word
    name, sign, value = word.partition("=")
    return name.replace("_", "-") + sign + value


# Types of values ----------------------------------------------------------------------------------


def whole(least: int) -> Callable[[str], int]:
    """The type of an option that counts something: an integer from `least`."""

    def parse(text: str) -> int:
        try:
            value = int(text)
        except ValueError:
            value = least - 1
        if value < least:
            raise argparse.ArgumentTypeError(f"is {text!r}; legal: integers from {least}; give one of them")
        return value

    return parse


def jobs(text: str) -> int | Literal["auto"]:
    """The type of --jobs: how many runs side by side, or `auto`."""
    if text == "auto":
        return "auto"
    try:
        return whole(1)(text)
    except argparse.ArgumentTypeError as e:
        raise argparse.ArgumentTypeError(f"is {text!r}; legal: integers from 1, auto; give one of them") from e


def seconds(least: float) -> Callable[[str], float]:
    """The type of an interval: seconds from `least` to a day."""

    def parse(text: str) -> float:
        try:
            value = float(text)
        except ValueError:
            value = float("nan")
        if not least <= value <= A_DAY:
            legal = f"legal: seconds from {least:g} to {A_DAY:g}"
            raise argparse.ArgumentTypeError(f"is {text!r}; {legal}; give one of them")
        return value

    return parse


def minutes(text: str) -> float:
    """The type of a time between checkpoints: minutes from 0 to about two years."""
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 <= value <= 1_000_000:
        raise argparse.ArgumentTypeError(f"is {text!r}; legal: minutes from 0 to 1000000; give such a number")
    return value


# Options that mean the same wherever they stand ---------------------------------------------------


def study_argument(p: argparse.ArgumentParser) -> None:
    """The study that a verb is about."""
    text = "a study's name, its folder or its file; the one that changed last below --runs unless given"
    p.add_argument("study", nargs="?", metavar="STUDY", help=text)


def runs_option(p: argparse.ArgumentParser) -> None:
    """Where run folders are."""
    p.add_argument("--runs", type=Path, default=Path("runs"), metavar="DIR", help="where run folders are")


def json_option(p: argparse.ArgumentParser) -> None:
    p.add_argument("--json", action="store_true", help="machine-readable output")


def every_option(p: argparse.ArgumentParser, default: float, least: float, text: str) -> None:
    """How often something is looked at, in seconds."""
    p.add_argument("--every", type=seconds(least), default=default, metavar="SECONDS", help=text)


def device_option(p: argparse.ArgumentParser) -> None:
    p.add_argument("--device", choices=DEVICES, default="auto")


def ladder_option(p: argparse.ArgumentParser) -> None:
    """Which ladder steps and regimes are of."""
    text = "the ladder: one that ships, or module:NAME; the study's own unless given"
    p.add_argument("--ladder", metavar="NAME", help=text)


def set_option(p: argparse.ArgumentParser) -> None:
    """Overrides: a toggle or a field of the recipe set to another value."""
    text = "an override, such as kernel_size=9, layer_scale=none or recipe.lr=0.001; may be repeated"
    p.add_argument("--set", action="append", default=[], metavar="NAME=VALUE", help=text)


def metric_option(p: argparse.ArgumentParser) -> None:
    """Which measured quantity is compared."""
    p.add_argument("--metric", default="top1", metavar="NAME", help="the metric that is compared")
