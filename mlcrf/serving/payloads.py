"""Requests and replies of the service, the source of its OpenAPI."""

from typing import Annotated

from pydantic import BaseModel, BeforeValidator, ConfigDict, FailFast, Field, create_model

Known = Annotated[dict[str, bool], Field(description="Known labels: true present, false absent.")]


class Image(BaseModel):
    """An image to tag."""

    model_config = ConfigDict(extra="forbid")

    data: Annotated[str, Field(description="The file's bytes in base64.")]
    name: Annotated[str, Field(max_length=1000, description="Returned unchanged.")] = ""
    known: Known = {}


class Images(BaseModel):
    """Images to tag."""

    model_config = ConfigDict(extra="forbid")

    images: list[Image]


def images_up_to(most: int) -> type[Images]:
    """Make a `Images` type with a limit; validation stops at the first error."""

    def refuse_more(value: object) -> object:
        if isinstance(value, list) and len(value) > most:
            raise ValueError(f"more than {most} images; send several requests")
        return value

    limits = Field(min_length=1, max_length=most)
    kind = Annotated[list[Image], limits, FailFast(), BeforeValidator(refuse_more)]
    return create_model("Images", __base__=Images, __doc__=Images.__doc__, images=kind)


class Family(BaseModel):
    """The label sets that hold the right one with the probability of `--coverage`."""

    present: Annotated[list[str], Field(description="Labels that all sets have.")]
    open: Annotated[
        list[str], Field(description="Labels that some of the sets have; no set has the others.")
    ]
    sets: Annotated[int, Field(description="Number of sets; 2^62 if there are more.")]
    exact: Annotated[bool, Field(description="False if estimated from samples.")]


class Tags(BaseModel):
    """The labels of an image, or an error."""

    name: str
    labels: Annotated[list[str], Field(description="Labels decided present.")]
    abstained: Annotated[
        list[str], Field(description="Labels left open, because of --abstain or --costs.")
    ] = []
    p: Annotated[dict[str, float], Field(description="P(label present) under the CRF.")]
    independent: Annotated[
        dict[str, float], Field(description="P(label present) without couplings.")
    ]
    family: Annotated[
        Family | None, Field(description="With `mlcrf serve --coverage`; else null.")
    ] = None
    error: str | None


class Answer(BaseModel):
    """The labels of all images of a request, in order."""

    model: Annotated[str, Field(description="Digest of the run.")]
    images: list[Tags]


class Model(BaseModel):
    """The model of the service."""

    model: str
    mlcrf: str
    backbone: str
    inference: str
    labels: list[str]
    rules: list[str]
