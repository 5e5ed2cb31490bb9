"""The unit of compute: model, recipe, data, seed; and its fingerprint."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from typing import Any

from roadmap.config.data import Data
from roadmap.config.errors import ConfigError
from roadmap.config.fields import from_plain, plain
from roadmap.config.model import AnySpec, ModelSpec, TimmSpec
from roadmap.config.recipe import Recipe

FINGERPRINT_VERSION = 1


@dataclass(frozen=True, kw_only=True)
class Trial:
    """The unit of compute: model, recipe, data and seed. `init` is the SHA-256 of the file of initial weights, empty for random ones.

    `control` tells a trial apart from one that computes the same, so that both are run. `regime`, `step` and `change` are labels: where in a study it stands.
    """

    model: AnySpec
    recipe: Recipe
    data: Data
    seed: int
    init: str = ""
    control: str = ""
    regime: str = ""
    step: str = ""
    change: str = ""

    def __post_init__(self) -> None:
        if isinstance(self.seed, bool) or not isinstance(self.seed, int) or not 0 <= self.seed < 2**31:
            raise ConfigError(f"Trial.seed is {self.seed!r}; legal: integers from 0 to {2**31 - 1}; give another seed")
        if self.model.num_classes != self.data.num_classes:
            raise ConfigError(
                f"Trial.model.num_classes is {self.model.num_classes}, but the data set {self.data.name!r} has {self.data.num_classes} classes; "
                "legal: equal numbers; leave num_classes unset and it is taken from the data"
            )
        if self.model.in_chans != self.data.in_chans:
            raise ConfigError(
                f"Trial.model.in_chans is {self.model.in_chans}, but images of {self.data.name!r} have {self.data.in_chans} channels; "
                "legal: equal numbers; leave in_chans unset and it is taken from the data"
            )

        if isinstance(self.model, ModelSpec) and self.data.image_size < self.model.stage_strides[-1]:
            raise ConfigError(
                f"Trial.data.image_size is {self.data.image_size}, but the network strides over {self.model.stage_strides[-1]} pixels; "
                "legal: at least as many pixels; set another --image-size, or a smaller stem_stride"
            )
        if self.recipe.accuracy == "best" and self.data.validation == 0:
            raise ConfigError(
                f"Trial.recipe.accuracy is 'best', but {self.data.name!r} sets no images aside for choices; "
                "legal: 'last', or a validation split; the test split is never used for choices: set --validation 0.1"
            )

    def identity(self) -> dict[str, Any]:
        """Everything that decides the outcome, as JSON-ready values: resolved, defaults included, no labels, no machine settings."""
        by_identity = {
            part: plain(getattr(self, part), lambda m: bool(m["identity"])) for part in ("model", "recipe", "data")
        }
        control = {"control": self.control} if self.control else {}
        return {"version": FINGERPRINT_VERSION, **by_identity, "seed": self.seed, "init": self.init, **control}

    @property
    def fingerprint(self) -> str:
        """SHA-256 over `identity`, 64 hexadecimal digits."""
        return hashlib.sha256(json.dumps(self.identity(), sort_keys=True, allow_nan=False).encode()).hexdigest()

    @property
    def configuration(self) -> str:
        """SHA-256 over `identity` without the seed: trials that differ in nothing but their seed share it."""
        return hashlib.sha256(
            json.dumps({**self.identity(), "seed": None}, sort_keys=True, allow_nan=False).encode()
        ).hexdigest()

    @property
    def id(self) -> str:
        """The run folder's name: readable, and unique by the fingerprint's first 10 digits."""
        words = [self.step or "trial", *([self.change.replace("=", "-")] if self.change else []), f"seed{self.seed}"]
        label = "".join(c if c.isalnum() or c in "-._" else "-" for c in "-".join(words))[:80].lstrip(".-")
        return f"{label}-{self.fingerprint[:10]}"

    def to_json(self) -> dict[str, Any]:
        labels = {"regime": self.regime, "step": self.step, "change": self.change}
        return {
            "fingerprint": self.fingerprint,
            "id": self.id,
            **labels,
            "seed": self.seed,
            "init": self.init,
            "control": self.control,
            "model": plain(self.model),
            "recipe": plain(self.recipe),
            "data": plain(self.data),
        }

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> Trial:
        """Rebuild a trial from `to_json`; a fingerprint that does not fit its content is refused."""
        try:
            parts: dict[str, Any] = {
                "model": from_plain(
                    TimmSpec if "timm" in values["model"] else ModelSpec, values["model"], "trial.model"
                ),
                "recipe": from_plain(Recipe, values["recipe"], "trial.recipe"),
                "data": from_plain(Data, values["data"], "trial.data"),
            }
            trial = cls(
                **parts,
                seed=values["seed"],
                init=values["init"],
                control=values.get("control", ""),
                regime=values["regime"],
                step=values["step"],
                change=values["change"],
            )
            stated = values["fingerprint"]
        except (KeyError, TypeError, AttributeError) as e:
            raise ConfigError(
                f"trial file has no usable {e}; legal: what `roadmap plan --json` writes; write it again"
            ) from e
        if trial.fingerprint != stated:
            raise ConfigError(
                f"trial.fingerprint is {stated[:10]}, but its content hashes to {trial.fingerprint[:10]}; legal: equal; the file was edited or is of another version: submit the trial again"
            )
        return trial
