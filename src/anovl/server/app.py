"""The routes, and their description in /openapi.json."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from fastapi import FastAPI, Request, Response
from fastapi.responses import JSONResponse
from pydantic import BaseModel, ConfigDict, Field
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp

from anovl import __version__
from anovl.errors import AnovlError
from anovl.server import problems, reading
from anovl.server.frame import Frame
from anovl.server.metrics import MEDIA_TYPE
from anovl.server.problems import Problem
from anovl.server.service import Service

MountPage = Callable[[FastAPI], None]  # adds the page of `anovl.webui` to an application

_PIXEL = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAAAAAA6fptVAAAACklEQVR42mNoAAAAggCB2kUIOwAAAABJRU5ErkJggg=="  # a PNG of one


class NameRow(BaseModel):
    """A word that a region resembles."""

    name: str
    similarity: float = Field(description="a cosine, from -1 to 1")


class RegionRow(BaseModel):
    """One region of the mask, in pixels of the map."""

    box: list[int] = Field(description="left, top, right, bottom; right and bottom exclusive")
    area: int
    peak: float
    centroid: list[float] = Field(description="x, y")
    name: str | None = Field(description="the best of the names that were asked for")
    margin: float | None = Field(description="what its similarity is ahead of the next one's")
    names: list[NameRow] = Field(description="at most three, the best first")


class Row(BaseModel):
    """One image; `regions`, `map` and `overlay` where they were asked for."""

    model_config = ConfigDict(protected_namespaces=())

    filename: str
    image_size: list[int] = Field(description="height, width")
    class_name: str
    pred_score: float
    pred_score_std: float | None
    patch_scores_std: float | None
    pred_label: bool
    threshold: float
    pixel_threshold: float
    calibrated: bool = Field(description="the thresholds are those of a profile")
    probability: float | None = Field(description="of a defect, where the profile has a temperature")
    map_size: list[int] = Field(description="height, width")
    timings_ms: dict[str, float]
    regions: list[RegionRow] = []
    map: str | None = Field(None, description="base64 of a file, see map_format")
    overlay: str | None = Field(None, description="base64 of a PNG")


class Answer(BaseModel):
    """The rows of a request, in the order of its images."""

    request_id: str
    model: str
    predictions: list[Row]


class Info(BaseModel):
    """What runs here."""

    versions: dict[str, str]
    default_model: str
    models: dict[str, dict[str, Any]]
    limits: dict[str, int | float]


def _problems(*statuses: int) -> dict[int | str, dict[str, Any]]:
    described = {problems.MEDIA_TYPE: {"schema": problems.SCHEMA}}
    return {status: {"description": "Problem", "content": described} for status in statuses}


def _body(models: list[str], max_files: int) -> dict[str, Any]:
    """The two forms of a request, for OpenAPI."""
    form = reading.Fields.model_json_schema(by_alias=True)
    form["properties"] = {
        "files": {"type": "array", "items": {"type": "string", "format": "binary"}, "description": "Image files."},
        **form["properties"],
    }
    form["required"] = ["files"]
    whole = reading.JsonRequest.model_json_schema(by_alias=True)
    whole["properties"]["images"]["items"] = {"type": "string", "contentEncoding": "base64"}
    for schema, images in ((form, "files"), (whole, "images")):
        schema["properties"][images] |= {"minItems": 1, "maxItems": max_files}
        schema["properties"]["model"] = {"enum": [*models, None], "description": "Default the first."}
    example = {"images": [_PIXEL], "class_name": "metal nut"}
    return {
        "required": True,
        "content": {reading.MULTIPART: {"schema": form}, reading.JSON: {"schema": whole, "example": example}},
    }


def create_app(service: Service, page: MountPage | None = None) -> ASGIApp:
    """The ASGI application of a service, with a page where one is given."""
    guarded = _problems(401) if service.settings.token else {}
    app = FastAPI(
        title="anovl",
        version=__version__,
        summary="Scores images of things the model was never trained on for defects.",
        docs_url=None,  # its page loads scripts of a foreign host
        redoc_url=None,
        redirect_slashes=False,
        responses=guarded,
    )

    @app.post(
        "/v1/predict",
        response_model=Answer,
        responses=_problems(400, 408, 413, 415, 422, 429, 503, 504),
        openapi_extra={"requestBody": _body(list(service.hosts), service.settings.max_files)},
    )
    async def predict(request: Request) -> Response:
        """Score images."""
        return Response(await service.predict(request), media_type="application/json")

    @app.get("/v1/info", response_model=Info)
    async def info() -> JSONResponse:
        """Versions, models and limits."""
        models = {name: host.model.describe() for name, host in service.hosts.items()}
        told = {"versions": service.versions, "default_model": next(iter(models)), "models": models}
        return JSONResponse(told | {"limits": service.settings.limits()})

    @app.get("/healthz", response_model=dict[str, str], responses={})
    async def healthz() -> JSONResponse:
        """The process is alive."""
        return JSONResponse({"status": "alive"})

    @app.get("/readyz", response_model=dict[str, str], responses=_problems(503))
    async def readyz() -> JSONResponse:
        """It takes requests."""
        if service.draining:
            raise Problem(503, "the service is stopping; it takes no new requests")
        return JSONResponse({"status": "ready"})

    @app.get("/metrics", response_class=Response, responses={200: {"content": {"text/plain": {"schema": {"type": "string"}}}}})
    async def metrics() -> Response:
        """For Prometheus."""
        return Response(await service.exposition(), media_type=MEDIA_TYPE)

    for kind in (Problem, AnovlError, HTTPException):
        app.add_exception_handler(kind, _problem)
    app.add_exception_handler(Exception, _fault)
    if page is not None:
        page(app)
    return Frame(app, service.metrics, service.settings.token, page=page is not None)


async def _problem(request: Request, error: Exception) -> Response:
    """The answer for an error that is foreseen; others go on to the frame."""
    if isinstance(error, HTTPException):
        detail = {404: "no such path; GET /openapi.json lists all", 405: "no such method here; see the header Allow"}
        found: Problem | None = Problem(error.status_code, detail.get(error.status_code, str(error.detail)), error.headers)
    else:
        found = problems.problem_of(error)
    if found is None:
        raise error
    return problems.response(found, request.state.request_id)


async def _fault(request: Request, error: Exception) -> Response:
    """The answer for any other, which the frame then logs."""
    del error
    return problems.response(problems.fault(), request.state.request_id)
