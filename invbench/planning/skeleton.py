"""The skeleton of a study file; its entries are validated by what they name."""

from typing import Annotated, Any, Literal

from annotated_types import Gt
from pydantic import AfterValidator, BaseModel, ConfigDict, Field

from invbench.claims import Claim, check_claims
from invbench.study import Budget, Tuning

Entry = str | dict[str, dict[str, Any] | None]


class ImagesSpec(BaseModel):
    """Which images; further keys are parameters of the source."""

    model_config = ConfigDict(extra="allow")

    source: str = "bundled"
    count: Annotated[int, Gt(0)] = 8
    size: Annotated[int, Gt(0)] = 32


class StudyFile(BaseModel):
    """The keys of a study file; one without analyses needs trials, methods and a budget."""

    model_config = ConfigDict(extra="forbid")

    study: str
    description: str = ""
    images: dict[str, Any] | list[dict[str, Any]] = Field(default_factory=dict)
    network: dict[str, Any] | list[dict[str, Any]] = Field(default_factory=lambda: {"name": "lenet"})
    trials: list[Entry] = []
    methods: list[Entry] = []
    budget: Budget | None = None
    seeds: Annotated[list[Annotated[int, Field(ge=0)]], Field(min_length=1)] = [0]
    timeout: Annotated[float, Gt(0)] = 3600.0
    tuning: Tuning | None = None
    analyses: list[Entry] = []
    claims: Annotated[list[Claim], AfterValidator(check_claims)] = []
    dtype: Literal["float32", "float64"] = "float32"
