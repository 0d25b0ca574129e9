"""Acts of a person on the page, as its requests say them."""

from pydantic import BaseModel, ConfigDict, Field


class Act(BaseModel):
    """A person's act, with an identifier so that a repeated request acts once."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    person: str = Field(min_length=1, max_length=60, pattern=r"^[^\s\p{C}]([^\p{C}]*[^\s\p{C}])?$")
    request: str = Field(min_length=8, max_length=64, pattern=r"^[0-9A-Za-z-]+$")


class AnswerAct(Act):
    """An answer about one label."""

    label: str = Field(max_length=1000)
    value: int | None = Field(ge=-1, le=1)


class BulkAct(AnswerAct):
    """The same answer about many photos; see `Review.answer_many`."""

    photos: tuple[int, ...] = Field(min_length=1)
    others: tuple[int, ...] = ()


class TagAct(Act):
    """A change of a tag; see `Review.change_tag`."""

    key: str | None = Field(default=None, max_length=1000)
    name: str | None = Field(default=None, max_length=1000)
    into: str | None = Field(default=None, max_length=1000)


class WritingAct(Act):
    """An order to write the tags that are decided; see `Review.decided`."""

    least: float | None = Field(ge=0.5, le=1)
    promised: bool = False
    at_least_cost: bool = False


class SavingAct(Act):
    """An order to save what was learned as a model; see `ModelSaving.start`."""

    name: str = Field(max_length=100, pattern=r"^\P{C}*$")
    replace: bool = False
