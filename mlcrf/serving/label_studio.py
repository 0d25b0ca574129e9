"""The service as an ML backend of Label Studio: `/predict`, `/setup`, `/health`, `/webhook`.

Source: https://labelstud.io/guide/ml_create, and the requests of Label Studio and their replies in
label_studio/ml/api_connector.py and label_studio_ml/api.py of its repositories.
"""

from pathlib import Path
from typing import Annotated, Any

from fastapi import FastAPI, HTTPException, Request
from pydantic import BaseModel, Field

from mlcrf.errors import DataError
from mlcrf.prediction import Prediction
from mlcrf.serving.addresses import label_studio_image
from mlcrf.serving.labelling_interface import Choices, LabellingInterface, read_interface
from mlcrf.serving.service import Item, Service, shown
from mlcrf.version import __version__

HEALTH = {"status": "UP", "model_class": "mlcrf"}


class Task(BaseModel):
    """A task; only its data are used."""

    data: dict[str, Any]


class Tasks(BaseModel):
    """Tasks to predict, and the labelling interface of their project."""

    tasks: list[Task]
    label_config: str


class Project(BaseModel):
    """A project that is connected; its address and token are not used."""

    label_schema: Annotated[str, Field(alias="schema", description="The labelling interface.")]


class Setup(BaseModel):
    """The version of the model, and the choices that it does not know."""

    model_version: str
    not_answered: Annotated[list[str], Field(description="Choices that are no labels.")]


class Result(BaseModel):
    """The choices of one tag."""

    from_name: str
    to_name: str
    type: str = "choices"
    value: dict[str, list[str]]


class TaskPrediction(BaseModel):
    """The prediction of one task, or an error."""

    result: list[Result] = []
    score: Annotated[
        float, Field(description="Expected information of the best question, in nats.")
    ] = 0.0
    model_version: str
    error: str | None = None


class Results(BaseModel):
    """The predictions of all tasks of a request, in order."""

    results: list[TaskPrediction]


def add_label_studio(app: FastAPI, service: Service, *, most: int, image_root: Path | None) -> None:
    """Add the paths of an ML backend.

    Args:
        service: of a tagger with `information`.
        most: images tagged at once; requests with more tasks are answered in parts.
        image_root: folder of Label Studio's files, or None.
    """
    run = service.run
    version = f"mlcrf {__version__}, model {run.digest[:12]}"

    def interface_of(config: str) -> LabellingInterface:
        try:
            return read_interface(config, run.labels)
        except DataError as error:
            raise HTTPException(422, shown(str(error))) from error

    @app.post("/predict")
    async def predict(request: Request, asked: Tasks) -> Results:
        """Predict the choices of tasks; one whose image cannot be read has an error."""
        interface = interface_of(asked.label_config)
        results: list[TaskPrediction] = []
        for start in range(0, len(asked.tasks), most):
            places: list[int] = []
            items: list[Item] = []
            for task in asked.tasks[start : start + most]:
                prediction = TaskPrediction(model_version=version)
                try:
                    items.append(
                        (label_studio_image(_address(task, interface.key), image_root), {})
                    )
                    places.append(len(results))
                except DataError as error:
                    prediction.error = f"image: {error}"
                    service.metrics.images.labels("error").inc()
                results.append(prediction)
            found = await service.tag(request, items) if items else []
            for place, one in zip(places, found, strict=True):
                _fill(results[place], one, interface, run.labels.names)
        return Results(results=results)

    @app.post("/setup")
    async def setup(project: Project) -> Setup:
        """Check a project's labelling interface."""
        interface = interface_of(project.label_schema)
        return Setup(model_version=version, not_answered=list(interface.not_labels))

    @app.post("/webhook")
    async def webhook() -> dict[str, str]:
        """Acknowledge an event; the model does not learn from it."""
        return {"status": "not used: train with `mlcrf train` from an export"}


def _address(task: Task, key: str) -> str:
    address = task.data.get(key)
    if not isinstance(address, str):
        raise DataError(f"the task's data have no address under {shown(key)!r}")
    return address


def _fill(
    answer: TaskPrediction, one: Prediction, interface: LabellingInterface, labels: tuple[str, ...]
) -> None:
    if one.error:
        answer.error = one.error
        return
    answer.score = max(one.information[column] for column in interface.columns)
    answer.result = [
        Result(
            from_name=choices.name,
            to_name=choices.to_name,
            value={"choices": _chosen(choices, one, labels)},
        )
        for choices in interface.choices
    ]


def _chosen(choices: Choices, one: Prediction, labels: tuple[str, ...]) -> list[str]:
    """Return the choices decided present; of a single choice, the most probable."""
    if choices.is_single:
        return [choices.texts[max(choices.texts, key=lambda column: one.marginals[column])]]
    present = set(one.labels)
    return [text for column, text in choices.texts.items() if labels[column] in present]
