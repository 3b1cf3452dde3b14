"""The routes, and the application that is made of them."""

from __future__ import annotations

import gc
import time
from contextlib import asynccontextmanager
from datetime import UTC
from functools import partial
from typing import TYPE_CHECKING, Annotated, Any

from fastapi import FastAPI, Path, Request, Response, Security
from fastapi.exceptions import RequestValidationError
from fastapi.openapi.utils import get_openapi
from fastapi.responses import JSONResponse
from fastapi.routing import APIRoute
from fastapi.security import APIKeyHeader, HTTPBearer
from prometheus_client import generate_latest
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException

from many_models.errors import TransientError
from many_models.serving.auth import Authenticator
from many_models.serving.bodies import Bodies, BodyError
from many_models.serving.decisions import stock_of, sum_of
from many_models.serving.metrics import Metrics
from many_models.serving.middleware import Gate, RefusedError
from many_models.serving.schemas import (
    Alive,
    Failure,
    ForecastAnswer,
    ForecastRequest,
    Health,
    ModelAnswer,
    ReleaseAnswer,
)
from many_models.serving.service import NotReadyError, Service, age_days
from many_models.system import return_free_memory

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable, Coroutine, Sequence

    from many_models.ports import Lake, ProductionRegistry, Telemetry
    from many_models.settings import ServeSettings, Settings

REASONS = {
    400: "The body is not JSON.",
    401: "No key or token, or one that does not count.",
    403: "The token has not the role that is asked for.",
    404: "The live release does not serve this series, or there is nothing of this name.",
    408: "The body came too slowly.",
    413: "The body is too large.",
    415: "The body is not sent as application/json.",
    422: "The request is not as it should be.",
    503: "There is no release yet, or the request took too long.",
}
WAYS = [Security(APIKeyHeader(name="X-API-Key", auto_error=False)), Security(HTTPBearer(auto_error=False))]


class _Direct(APIRoute):
    """A route whose endpoint reads the request itself. FastAPI documents it, and does nothing more for a request:
    looking for parameters and dependencies that there are none of costs as much as a kept forecast.
    """

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        return self.endpoint


def build_app(
    settings: Settings,
    production: ProductionRegistry,
    lake: Lake | None = None,
    keys: Sequence[str] = (),
    telemetry: Telemetry | None = None,
) -> FastAPI:
    """The service as an ASGI application; `keys` are API keys. Raises SettingsError where it would be left open."""
    guard, metrics = Authenticator(settings, keys), Metrics()
    service = Service(settings, production, lake, metrics.fetched)
    metrics.watch(service)

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncGenerator[None]:
        await service.start()
        gc.collect()
        return_free_memory()  # what compiling and reading the release took
        gc.freeze()  # what is there now stays: looking through it again and again costs requests milliseconds
        yield
        await service.stop()
        if telemetry is not None:
            await run_in_threadpool(telemetry.close)

    app = FastAPI(
        title="many_models",
        version="1",
        summary="Forecasts of any store-item, from models that are loaded on demand.",
        redirect_slashes=False,  # a redirect would repeat the client's Host header
        docs_url=None,  # it would load scripts from elsewhere
        redoc_url=None,
        lifespan=lifespan,
    )
    app.state.service, app.state.metrics = service, metrics
    app.openapi = lambda: _document(app, settings.serve)
    _add_forecasts(app, service, metrics)
    _add_models(app, service)
    _add_decisions(app, settings, lake)
    _add_health(app, service, metrics)
    _add_failures(app)
    app.add_middleware(
        Gate,
        service=service,
        guard=guard,
        metrics=metrics,
        telemetry=telemetry,  # pyright: ignore[reportArgumentType]
    )
    return app


def _document(app: FastAPI, serve: ServeSettings) -> dict[str, Any]:
    """The OpenAPI document: with the request's schema, which the route reads itself, and the limits of the settings."""
    if app.openapi_schema is None:
        found = get_openapi(title=app.title, version=app.version, summary=app.summary, routes=app.routes)
        asked = ForecastRequest.model_json_schema(ref_template="#/components/schemas/{model}")
        parts = found["components"]["schemas"]
        parts |= {**asked.pop("$defs"), "ForecastRequest": asked}
        asked["properties"]["series"]["maxItems"] = serve.max_series
        for one in parts["SeriesRequest"]["properties"]["horizon"]["anyOf"]:
            if one.get("type") == "integer":
                one["maximum"] = serve.max_horizon
        app.openapi_schema = found
    return app.openapi_schema


def _failing(*statuses: int) -> dict[int | str, dict[str, Any]]:
    return {status: {"model": Failure, "description": REASONS[status]} for status in statuses}


def _add_forecasts(app: FastAPI, service: Service, metrics: Metrics) -> None:
    bodies = Bodies(service.settings.serve, service.reading)
    asked_for = {"$ref": "#/components/schemas/ForecastRequest"}
    route: dict[str, Any] = {
        "dependencies": WAYS,
        "response_model": ForecastAnswer,
        "responses": _failing(400, 401, 403, 408, 413, 415, 422, 503),
        "openapi_extra": {"requestBody": {"required": True, "content": {"application/json": {"schema": asked_for}}}},
    }

    async def answered(request: Request, *, explain: bool) -> Response:
        if request.headers.get("content-type", "").partition(";")[0].strip().lower() != "application/json":
            raise HTTPException(415, "send the body as application/json")
        body = await bodies.read(await request.body())
        request.state.series = len(body.series)
        questions = [series.question(explain=explain) for series in body.series]
        answer = await service.forecasts(questions, from_lake=body.from_lake)
        metrics.series.labels("ok").inc(answer.series - sum(answer.failed.values()))
        for kind, count in answer.failed.items():
            metrics.series.labels(kind).inc(count)
        return Response(answer.body, media_type="application/json")

    async def forecasts(request: Request) -> Response:
        """A forecast for each series, or why there is none: one series' error leaves the others alone."""
        return await answered(request, explain=False)

    async def explanations(request: Request) -> Response:
        """Forecasts as /v1/forecasts has them, each with `parts` by driver that add up to it, and in `words`."""
        return await answered(request, explain=True)

    add = partial(app.router.add_api_route, methods=["POST"], route_class_override=_Direct, **route)
    add("/v1/forecasts", forecasts, summary="Forecasts of many series")
    add("/v1/explanations", explanations, summary="What forecasts are made of")


def _add_models(app: FastAPI, service: Service) -> None:
    @app.get(
        "/v1/models/{series_id}",
        dependencies=WAYS,
        responses=_failing(401, 403, 404, 422, 503),
        summary="The model that serves a series",
    )
    async def model(series_id: Annotated[str, Path(max_length=2_000)]) -> ModelAnswer:
        """What the live release says of it; its `%` has to be written `%25` in the path."""
        release = service.release
        (number,) = release.find([series_id])
        if number < 0:
            raise HTTPException(404, "the live release does not serve this series")
        champion = release.champion(number)
        return ModelAnswer(
            series_id=series_id,
            release=release.release_id,
            model=champion.ref,
            row=champion.row,
            sha256=champion.sha256,
            staging=champion.staging,
            recipe=champion.recipe,
            cutoff=champion.cutoff,
            age_days=age_days(champion.cutoff),
            previous=champion.previous,
            fallback=champion.fallback,
            loaded=service.cache.holds(release.pack(number)),
        )

    @app.get(
        "/v1/releases/live", dependencies=WAYS, responses=_failing(401, 403, 503), summary="The release that answers"
    )
    async def live() -> ReleaseAnswer:
        """Who made it live, when and why, and its size."""
        release = service.release
        return ReleaseAnswer(
            release=release.release_id,
            released_at=release.created_at.replace(tzinfo=UTC),
            actor=release.actor,
            reason=release.reason,
            previous=release.previous,
            series=len(release),
            packs=len(release.packs),
        )


def _add_decisions(app: FastAPI, settings: Settings, lake: Lake | None) -> None:
    async def read(of: Callable[[Settings, Lake, str], dict[str, Any] | None], name: str, otherwise: str) -> Any:
        if lake is None:
            raise HTTPException(404, "this server reads no lake: set serve.lake")
        try:
            found = await run_in_threadpool(of, settings, lake, name)
        except TransientError as error:
            raise NotReadyError("the lake does not answer") from error
        if found is None:
            raise HTTPException(404, otherwise)
        return found

    route: dict[str, Any] = {"dependencies": WAYS, "responses": _failing(401, 403, 404, 422, 503)}

    @app.get("/v1/stock/{series_id}", summary="When to order, and how much", **route)
    async def stock(series_id: Annotated[str, Path(max_length=2_000)]) -> dict[str, Any]:
        """The recommendation of the newest cutoff; its `%` has to be written `%25` in the path."""
        return await read(stock_of, series_id, "there is no recommendation of stock for this series")

    @app.get("/v1/sums/{node}", summary="The forecast of a sum that agrees with all others", **route)
    async def coherent(node: Annotated[str, Path(max_length=2_000)]) -> dict[str, Any]:
        """`total`, LEVEL|VALUE or a series, at the newest cutoff; its `%` has to be written `%25` in the path."""
        return await read(sum_of, node, "there is no such sum: hierarchy.levels says which there are")


def _add_health(app: FastAPI, service: Service, metrics: Metrics) -> None:
    @app.get("/health/live", summary="Whether the process answers")
    async def alive() -> Alive:
        """For a liveness probe."""
        return Alive()

    @app.get("/health/ready", responses={503: {"model": Health}}, summary="Whether it can answer, and how well")
    async def ready(response: Response) -> Health:
        """For a readiness probe: 503 before the first release, and while the server is stopping."""
        health = health_of(service)
        response.status_code = 503 if health.status in {"not_ready", "draining"} else 200
        return health

    @app.get("/metrics", response_class=Response, summary="For Prometheus", include_in_schema=False)
    async def prometheus() -> Response:
        return Response(generate_latest(metrics.registry), media_type="text/plain; version=0.0.4; charset=utf-8")


def health_of(service: Service) -> Health:
    """The state of the service."""
    contact, current = service.follower.contact, service.follower.current
    degraded = not contact.reachable or contact.refused or service.packs.full
    status = "degraded" if degraded else "ready"
    if current is None:
        status = "not_ready"
    if service.draining:
        status = "draining"
    return Health(
        status=status,
        release=current.release_id if current else None,
        registry="reachable" if contact.reachable else "away",
        registry_seconds=round(time.monotonic() - contact.since, 1),
        refused_release=contact.refused,
        disk="full" if service.packs.full else "ok",
    )


def _add_failures(app: FastAPI) -> None:
    """Every refusal has the same form, and repeats nothing of what was sent."""

    @app.exception_handler(NotReadyError)
    async def not_ready(_: Request, error: NotReadyError) -> Response:
        return _failure(503, "NotReady", str(error), {"retry-after": "1"})

    @app.exception_handler(BodyError)
    async def body(_: Request, error: BodyError) -> Response:
        return _failure(error.status, error.kind, str(error))

    @app.exception_handler(HTTPException)
    async def http(_: Request, error: HTTPException) -> Response:
        kind = {404: "NotFound", 405: "MethodNotAllowed", 400: "BadRequest"}.get(error.status_code, "Refused")
        if isinstance(error, RefusedError):
            kind = error.kind
        return _failure(error.status_code, kind, str(error.detail), dict(error.headers or {}))

    @app.exception_handler(RequestValidationError)
    async def invalid(_: Request, error: RequestValidationError) -> Response:
        """Of a path; a route reads its body itself."""
        return _failure(422, "Invalid", str(error.errors()[0]["msg"])[:500])


def _failure(status: int, kind: str, reason: str, headers: dict[str, str] | None = None) -> Response:
    return JSONResponse({"error": {"kind": kind, "reason": reason}}, status, headers)
