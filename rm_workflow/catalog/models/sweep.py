"""Families of runs of one recipe, and when a recipe is made anew."""

from typing import Annotated, Any, Literal
from zoneinfo import ZoneInfo

from pydantic import Field, field_validator, model_validator

from rm_workflow.catalog.cron import check_cron
from rm_workflow.catalog.models.entry import Entry, Name, Positive, Words
from rm_workflow.errors import UserError

LEAVE_ONE_OUT = "leave_one_out"


class SweepRun(Entry):
    """What one run of a sweep has for itself; what is null is as the recipe says.

    Attributes:
        data: a name under the sweep's ``data``.
        base: a name under the sweep's ``base``.
        learning_rate: in place of the recipe's.
        epochs: in place of the recipe's.
        seed: of the training, in place of the recipe's.
    """

    data: Name | None = None
    base: Name | None = None
    learning_rate: Annotated[float, Field(gt=0)] | None = None
    epochs: Annotated[float, Field(gt=0, le=1000)] | None = None
    seed: int | None = None


class Transfer(Entry):
    """Whether benchmarks tell how good the runs of a sweep are at picking right solutions.

    Attributes:
        gold: the entry of ``evaluate_on`` whose candidates are known to be right or wrong (scoring ``best_of_n``).
        n: candidates among which a run picks; null is as many as each problem has.
    """

    gold: Name
    n: Positive | None = None


class Sweep(Entry):
    """A family of runs of one recipe: every combination of the values that are listed, or a list of runs.

    Attributes:
        data: name -> fields of the mixture that differ; ``leave_one_out`` trains on all parts of the mixture, and
            without each of them in turn.
        base: name -> base model.
        learning_rate: values to try.
        epochs: values to try.
        seed: of the training: values to try.
        runs: these runs and not every combination; ``data`` and ``base`` then only say what names mean.
        retired: keys of runs that are made no more; what they have made stays readable, in the table of runs too.
        transfer: compares the runs' scores with best-of-n on a set with gold labels; null does not.
    """

    data: dict[Name, dict[str, Any]] | Literal["leave_one_out"] = {}
    base: dict[Name, Words] = {}
    learning_rate: list[Annotated[float, Field(gt=0)]] = []
    epochs: list[Annotated[float, Field(gt=0, le=1000)]] = []
    seed: list[int] = []
    runs: list[SweepRun] = []
    retired: list[str] = []
    transfer: Transfer | None = None

    @property
    def has_other_test_splits(self) -> bool:
        """Return whether runs differ in more of their data than in what is trained on."""
        if isinstance(self.data, str):
            return True
        return any(changes.keys() - {"sample", "weight_per_prompt"} for changes in self.data.values())

    @model_validator(mode="after")
    def _grid_or_list(self) -> "Sweep":
        if self.runs and (self.learning_rate or self.epochs or self.seed):
            raise ValueError(
                "'runs' lists each run, and learning_rate, epochs or seed ask for every combination; keep one of them"
            )
        if not (self.runs or self.data or self.base or self.learning_rate or self.epochs or self.seed):
            raise ValueError("the sweep varies nothing; list values of data, base, learning_rate, epochs or seed")
        for field in ("learning_rate", "epochs", "seed"):
            values = getattr(self, field)
            if len(set(values)) < len(values):
                raise ValueError(f"{field} lists a value twice; list each once")
        for run in self.runs:
            if not run.model_dump(exclude_none=True):
                raise ValueError("a run names nothing of its own; name its data, learning_rate, epochs or seed")
            if run.data is not None and (self.data == LEAVE_ONE_OUT or run.data not in self.data):
                raise ValueError(f"a run names data '{run.data}', which 'data' does not list; list it")
            if run.base is not None and run.base not in self.base:
                raise ValueError(f"a run names base '{run.base}', which 'base' does not list; list it")
        return self


class Retraining(Entry):
    """When a recipe is made anew by itself; its schedule and its sensor are off until a person switches them on.

    Attributes:
        cron: when the schedule looks at the data, in cron's five fields.
        timezone: of these, as ``Europe/Berlin``.
        follow_hub: take newer commits of the hub's data sets; else they are only told.
    """

    cron: str = "0 3 * * 0"
    timezone: str = "UTC"
    follow_hub: bool = False

    @field_validator("cron")
    @classmethod
    def _comes(cls, cron: str) -> str:
        try:
            check_cron(cron)
        except UserError as error:
            raise ValueError(str(error)) from None
        return cron

    @field_validator("timezone")
    @classmethod
    def _is_known(cls, timezone: str) -> str:
        try:
            ZoneInfo(timezone)
        except (ValueError, KeyError, OSError):
            raise ValueError(f"no time zone is called {timezone!r}; write one as UTC or Europe/Berlin") from None
        return timezone
