"""The typed form of the catalogue: sources, pair sets, benchmarks and recipes.

Only shapes are checked here; names of adapters, rules and objectives are checked by the code that owns them.
"""

from rm_workflow.catalog.models.annotation import Annotation
from rm_workflow.catalog.models.data import BEST_OF_N, Benchmark, Location, Lookup, PairSet, RuleUse, Source, Split
from rm_workflow.catalog.models.entry import ANNOTATION, TEST, Entry, Name, Words
from rm_workflow.catalog.models.evaluation import Evaluation, Probes, Promotion
from rm_workflow.catalog.models.mixture import (
    PARTS,
    Guard,
    Mixture,
    NearDuplicate,
    PairSetUse,
    ResponseUse,
    Sample,
    TrajectoryUse,
)
from rm_workflow.catalog.models.recipe import Catalog, PublishedFigures, Recipe, base_asset_name
from rm_workflow.catalog.models.rejection import RejectionSampling
from rm_workflow.catalog.models.sweep import LEAVE_ONE_OUT, Retraining, Sweep, SweepRun, Transfer
from rm_workflow.catalog.models.training import (
    UNKEYED_TRAINING_FIELDS,
    Distributed,
    Lora,
    Objective,
    Optimizer,
    Save,
    TokenRecipe,
    Training,
    Validation,
)

__all__ = [
    "ANNOTATION",
    "BEST_OF_N",
    "LEAVE_ONE_OUT",
    "PARTS",
    "TEST",
    "UNKEYED_TRAINING_FIELDS",
    "Annotation",
    "Benchmark",
    "Catalog",
    "Distributed",
    "Entry",
    "Evaluation",
    "Guard",
    "Location",
    "Lookup",
    "Lora",
    "Mixture",
    "Name",
    "NearDuplicate",
    "Objective",
    "Optimizer",
    "PairSet",
    "PairSetUse",
    "Probes",
    "Promotion",
    "PublishedFigures",
    "Recipe",
    "RejectionSampling",
    "ResponseUse",
    "Retraining",
    "RuleUse",
    "Sample",
    "Save",
    "Source",
    "Split",
    "Sweep",
    "SweepRun",
    "TokenRecipe",
    "Training",
    "TrajectoryUse",
    "Transfer",
    "Validation",
    "Words",
    "base_asset_name",
]
