"""A toggle or recipe field set to another value: one type, read in one place, from YAML or text. No torch."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from roadmap.config.errors import ConfigError, listing, lookup, nearest
from roadmap.config.fields import Kind, checked, field_types, from_text, show
from roadmap.config.model import ModelSpec, TimmSpec
from roadmap.config.recipe import Recipe
from roadmap.config.recipes import find_recipe
from roadmap.data.registry import NAMED, TIMM_PREFIXES
from roadmap.ladder.ladder import RECIPE

WHOLE = (RECIPE, "data", "batch_size", "epochs")  # overrides that are no single toggle or field
FIELD = f"{RECIPE}."
LR_SCALING = f"{FIELD}lr_scaling"  # decides nothing but how lr follows --batch-size
COUNT = (1, 1_000_000)  # of images in a batch, and of epochs

SpecClass = type[ModelSpec] | type[TimmSpec]  # what networks an override is for


@dataclass(frozen=True)
class Override:
    """A toggle or recipe field set to another value; also a whole `recipe` or `data`, `batch_size`, `epochs`.

    scaled: whether a recipe's field is stated for the recipe's own epochs and batch, and follows theirs, as all that a
    ladder sets in a recipe; what a user sets stays as it is.
    """

    name: str
    value: Any
    scaled: bool = False

    @property
    def text(self) -> str:
        """As written on the command line: 'kernel_size=9'."""
        return f"{self.name}={show(self.value)}"

    @property
    def is_toggle(self) -> bool:
        """Whether it sets the network alone."""
        return self.name not in WHOLE and not self.name.startswith(FIELD)

    @property
    def declares(self) -> tuple[str, ...]:
        """Names of the resolved settings that may differ by it.

        Of a whole data set also what the network takes over.
        """
        return _DECLARED.get(self.name, (self.name if self.name.startswith(FIELD) else f"model.{self.name}",))

    @property
    def subject(self) -> str:
        """One name for the two that some settings have: `recipe.epochs` is `epochs`."""
        short = self.name.removeprefix(FIELD)
        return short if short in WHOLE else self.name


_DECLARED: Mapping[str, tuple[str, ...]] = {
    RECIPE: ("recipe.*",),
    "data": ("data.*", "model.num_classes", "model.in_chans"),
    "batch_size": (
        "recipe.batch_size",
        "recipe.lr",
        "recipe.group_size",
        "recipe.mix_group_size",
        "recipe.ema_decay",
    ),
    "epochs": ("recipe.epochs", "recipe.warmup_epochs", "recipe.decay_epochs", "recipe.ema_decay"),
}
Arm = tuple[Override, ...]  # what is set together


def resized(
    recipe: Recipe, overrides: Iterable[Override], *, batch_size: int | None = None, epochs: int | None = None
) -> Recipe:
    """Return the recipe with its single fields set, at another global batch and over other epochs where asked for.

    The order: what follows the recipe's own size, the rule that lr follows by, batch size, epochs, what a user set.
    """
    fields = [o for o in overrides if o.name.startswith(FIELD)]
    before = [o for o in fields if o.scaled or o.name == LR_SCALING]
    recipe = replace(recipe, **{o.name.removeprefix(FIELD): o.value for o in before})
    if batch_size is not None:
        recipe = recipe.with_batch_size(batch_size)
    if epochs is not None:
        recipe = recipe.with_epochs(epochs)
    return replace(recipe, **{o.name.removeprefix(FIELD): o.value for o in fields if o not in before})


def words(arm: Iterable[Override]) -> str:
    """Write overrides as a label: 'norm=layer conv_bias=true'."""
    return " ".join(o.text for o in arm)


def declared(arm: Iterable[Override]) -> tuple[str, ...]:
    """Return the resolved settings that may differ by an arm."""
    return tuple(dict.fromkeys(itertools.chain.from_iterable(o.declares for o in arm)))


def parse_override(name: str, value: Any, cls: SpecClass = ModelSpec) -> Override:
    """Check an override, of YAML's types or a command line's text, against the networks it is for.

    Raises ConfigError.
    """
    if name == RECIPE:
        return Override(name, find_recipe(str(value)).name)
    if name == "data":
        return Override(name, check_data(str(value)))
    if name in ("batch_size", "epochs"):
        return Override(name, _count(name, value))
    if name.startswith(FIELD):
        field = name.removeprefix(FIELD)
        return Override(name, _checked(Recipe, field, value))
    if cls is TimmSpec and name not in field_types(TimmSpec):
        return Override(name, _keyword(value))
    if name not in field_types(cls):
        legal = [*field_types(cls), *WHOLE, f"{FIELD}FIELD"]
        raise ConfigError(f"override {name!r} is unknown; legal: {listing(legal)}; {nearest(name, legal)}")
    return Override(name, _checked(cls, name, value))


def parse_text(text: str, cls: SpecClass = ModelSpec) -> Override:
    """Read `name=value` from a command line. Raises ConfigError."""
    name, sign, value = text.partition("=")
    name = name.strip().replace("-", "_")
    if not sign:
        raise ConfigError(f"override {text!r} has no value; legal: NAME=VALUE; write {name}=VALUE")
    return parse_override(name, value.strip(), cls)


def check_data(name: str) -> str:
    """Return the name of a data set. Raises ConfigError where there is none of that name."""
    if not name.startswith(TIMM_PREFIXES):
        lookup("data", name, NAMED)
    return name


def _checked(cls: type, name: str, value: Any) -> Any:
    """Return the value as the field holds it: text is read as its type, a list becomes a tuple, 3.0 the integer 3."""
    annotation = lookup(f"{cls.__name__} toggle", name, field_types(cls))
    if isinstance(value, str):
        value = from_text(annotation, value)
    elif isinstance(value, list):
        value = tuple(value)
    elif Kind.of(annotation).is_tuple and not isinstance(value, tuple):
        value = (value,)
    elif isinstance(value, float) and value.is_integer() and Kind.of(annotation).base is int:
        value = int(value)
    return checked(cls, name, value)


def _keyword(value: Any) -> Any:
    """Return a keyword of timm's as YAML reads it."""
    import yaml

    read = yaml.safe_load(value) if isinstance(value, str) else value
    read = None if read == "none" else read
    return tuple(read) if isinstance(read, list) else read


def _count(name: str, value: Any) -> int:
    low, high = COUNT
    read = int(value) if isinstance(value, str) and value.isdigit() else value
    read = int(read) if isinstance(read, float) and read.is_integer() else read
    if isinstance(read, bool) or not isinstance(read, int) or not low <= read <= high:
        raise ConfigError(f"override {name} is {value!r}; legal: integers from {low} to {high}; give one of them")
    return read


def values_of(name: str, value: Any, cls: SpecClass) -> list[Any]:
    """Return the values that a key of a change stands for: a list is one each, where the toggle is no list itself."""
    if not isinstance(value, (list, tuple)):
        return [value]
    annotation = field_types(cls).get(name)
    is_list = annotation is not None and Kind.of(annotation).is_tuple
    if is_list and not any(isinstance(v, (list, tuple)) for v in value):
        return [value]
    return list(value)
