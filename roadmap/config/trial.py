"""The unit of compute: model, recipe, data, seed; its fingerprint, and its file. No torch."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from typing import Annotated, Any

from annotated_types import Interval

from roadmap.config.data import Data
from roadmap.config.errors import ConfigError
from roadmap.config.fields import TextOrEmpty, config, from_plain, identity_of, plain, setting, version_of
from roadmap.config.model import AnySpec, ModelSpec, TimmSpec
from roadmap.config.recipe import Recipe

FINGERPRINT_VERSION = 1  # of how a fingerprint is made, not of what trials hold; it has never changed
DEFAULT_LADDER = "convnext"  # of trials that are older than ladders with names


@config
class Trial:
    """One network, trained in one way on one data set from one seed. Raises ConfigError where the parts do not fit.

    `ladder`, `regime`, `step` and `change` are labels: where in a study the trial stands.
    """

    model: AnySpec = setting("the network")
    recipe: Recipe = setting("how it is trained")
    data: Data = setting("on which images")
    seed: Annotated[int, Interval(ge=0, le=2**31 - 1)] = setting("of initial weights, sample order and augmentation")
    init: TextOrEmpty = setting("SHA-256 of the file of initial weights; empty for random ones", default="")
    control: TextOrEmpty = setting("tells a trial apart from one that computes the same, so that both run", default="")
    ladder: str = setting("the ladder's name", identity=False, default=DEFAULT_LADDER)
    regime: str = setting("the regime's name", identity=False, default="")
    step: str = setting("the step's name", identity=False, default="")
    change: str = setting("what is set on top of the step", identity=False, default="")

    def __post_init__(self) -> None:
        self._check_shapes()
        if self.recipe.accuracy == "best" and self.data.validation == 0:
            raise ConfigError(
                f"Trial.recipe.accuracy is 'best', but {self.data.name!r} sets no images aside for choices; legal: "
                "'last', or a validation split; the test split is never used for choices: set --validation 0.1"
            )

    def _check_shapes(self) -> None:
        """Refuse a network whose inputs or outputs are not the data's."""
        if self.model.num_classes != self.data.num_classes:
            raise ConfigError(
                f"Trial.model.num_classes is {self.model.num_classes}, but the data set {self.data.name!r} has "
                f"{self.data.num_classes} classes; legal: equal numbers; leave num_classes unset and it is taken from "
                "the data"
            )
        if self.model.in_chans != self.data.in_chans:
            raise ConfigError(
                f"Trial.model.in_chans is {self.model.in_chans}, but images of {self.data.name!r} have "
                f"{self.data.in_chans} channels; legal: equal numbers; leave in_chans unset and it is taken "
                "from the data"
            )
        if isinstance(self.model, ModelSpec) and self.data.image_size < self.model.stage_strides[-1]:
            raise ConfigError(
                f"Trial.data.image_size is {self.data.image_size}, but the network strides over "
                f"{self.model.stage_strides[-1]} pixels; legal: at least as many pixels; set another "
                "--image-size, or a "
                "smaller stem_stride"
            )

    def identity(self) -> dict[str, Any]:
        """Return everything that decides the outcome, resolved, as JSON holds it; no labels, nothing of the machine."""
        parts = {name: identity_of(getattr(self, name)) for name in ("model", "recipe", "data")}
        control = {"control": self.control} if self.control else {}
        return {"version": FINGERPRINT_VERSION, **parts, "seed": self.seed, "init": self.init, **control}

    @property
    def fingerprint(self) -> str:
        """SHA-256 over `identity`, 64 hexadecimal digits."""
        return _digest(self.identity())

    @property
    def configuration(self) -> str:
        """SHA-256 over `identity` without the seed: trials that differ in nothing but their seed share it."""
        return _digest({**self.identity(), "seed": None})

    @property
    def id(self) -> str:
        """The run folder's name: readable, and unique by the fingerprint's first 10 digits."""
        change = [self.change.replace("=", "-")] if self.change else []
        words = "-".join([self.step or "trial", *change, f"seed{self.seed}"])
        label = re.sub(r"[^\w.-]", "-", words)[:80].lstrip(".-")
        return f"{label}-{self.fingerprint[:10]}"

    def to_json(self) -> dict[str, Any]:
        """Return the content of a trial file."""
        labels = {"ladder": self.ladder, "regime": self.regime, "step": self.step, "change": self.change}
        parts = {name: plain(getattr(self, name)) for name in ("model", "recipe", "data")}
        outer = {"seed": self.seed, "init": self.init, "control": self.control}
        return {"version": VERSION, "fingerprint": self.fingerprint, "id": self.id, **labels, **outer, **parts}

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> Trial:
        """Read a trial file, of this version or an older one. Raises ConfigError.

        A fingerprint that does not fit the content is refused: the file was edited.
        """
        try:
            _refuse_newer(values)
            trial = cls(
                **_parts(values),
                seed=values["seed"],
                init=values["init"],
                control=values.get("control", ""),
                ladder=values.get("ladder", DEFAULT_LADDER),
                **{label: values[label] for label in ("regime", "step", "change")},
            )
            stated = str(values["fingerprint"])
        except (KeyError, TypeError, AttributeError) as e:
            raise ConfigError(
                f"trial file has no usable {e}; legal: what `roadmap plan --json` writes; write it again"
            ) from e
        if trial.fingerprint != stated:
            raise ConfigError(
                f"trial.fingerprint is {stated[:10]}, but its content hashes to {trial.fingerprint[:10]}; "
                "legal: equal; "
                "the file was edited: submit the trial again"
            )
        return trial


VERSION = version_of(ModelSpec, TimmSpec, Recipe, Data, Trial)


def spec_class(model: Mapping[str, Any]) -> type[ModelSpec] | type[TimmSpec]:
    """Return the class of a network that is described as JSON."""
    return TimmSpec if "timm" in model else ModelSpec


def _parts(values: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "model": from_plain(spec_class(values["model"]), values["model"], "trial.model"),
        "recipe": from_plain(Recipe, values["recipe"], "trial.recipe"),
        "data": from_plain(Data, values["data"], "trial.data"),
    }


def _refuse_newer(values: Mapping[str, Any]) -> None:
    version = values.get("version", 1)
    if not isinstance(version, int) or version > VERSION:
        raise ConfigError(
            f"trial.version is {version!r}; legal: 1 to {VERSION}, which this program knows; use the program "
            "that wrote it"
        )


def _digest(content: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True, allow_nan=False).encode()).hexdigest()
