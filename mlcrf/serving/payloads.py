"""Requests and replies of the service, as OpenAPI describes them."""

from typing import Annotated

from pydantic import BaseModel, BeforeValidator, ConfigDict, FailFast, Field, create_model

Known = Annotated[
    dict[str, bool], Field(description="Labels that are known: true present, false absent.")
]


class Picture(BaseModel):
    """A picture to tag."""

    model_config = ConfigDict(extra="forbid")

    data: Annotated[str, Field(description="The file's bytes in base64.")]
    name: Annotated[str, Field(max_length=1000, description="Given back as it is.")] = ""
    known: Known = {}


class Pictures(BaseModel):
    """Pictures to tag."""

    model_config = ConfigDict(extra="forbid")

    pictures: list[Picture]


def pictures_up_to(most: int) -> type[Pictures]:
    """Make a `Pictures` type with a limit; validation stops at the first error."""

    def refuse_more(value: object) -> object:
        if isinstance(value, list) and len(value) > most:
            raise ValueError(f"more than {most} pictures; send several requests")
        return value

    limits = Field(min_length=1, max_length=most)
    kind = Annotated[list[Picture], limits, FailFast(), BeforeValidator(refuse_more)]
    return create_model("Pictures", __base__=Pictures, __doc__=Pictures.__doc__, pictures=kind)


class Tags(BaseModel):
    """The labels of an image, or an error."""

    name: str
    labels: Annotated[list[str], Field(description="Those decided present.")]
    p: Annotated[dict[str, float], Field(description="P(label present) under the CRF.")]
    independent: Annotated[dict[str, float], Field(description="The same without couplings.")]
    error: str | None


class Answer(BaseModel):
    """The labels of all images of a request, in order."""

    model: Annotated[str, Field(description="Digest of the run.")]
    pictures: list[Tags]


class Model(BaseModel):
    """The model of the service."""

    model: str
    mlcrf: str
    backbone: str
    inference: str
    labels: list[str]
    implications: list[tuple[str, str]]
