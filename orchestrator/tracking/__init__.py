"""Trackers: MLflow runs and TensorBoard curves that mirror what a stage writes into its folder.

Training knows nothing of them. A thread of the launching process reads the journals as they grow; ``tracked.json`` in
each stage's folder says how far every tracker has come, so nothing is lost and nothing is there twice, whatever was
killed. A tracker that fails is named once and tried again; what it still lacks at the end, the next launch delivers.

MLflow: ``MLFLOW_TRACKING_URI``, else ``STORE/mlflow.db``. The recipe is the experiment; a parent run stands for the
stages asked for, known by the last one's fingerprint, and each stage is a child run. Steps of its metrics are epochs.
"""

from __future__ import annotations

import json
import logging
import os
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import datetime
from functools import cached_property
from typing import Any
from urllib.parse import parse_qsl, unquote, urlsplit

from orchestrator.cluster import submission_id
from orchestrator.identity import digest, plain
from orchestrator.plan import PlanError, Recipe
from orchestrator.store import Record, Store
from orchestrator.tracking.points import PICTURES, Point, StageAt, events_of, flat, safe
from orchestrator.tracking.tensorboard import EventFiles
from orchestrator.tracking.thread import Tracking

UPLOADED = ("record.json", "metrics.jsonl", "report.html", "report.md")
PARAMS_AT_ONCE, METRICS_AT_ONCE, LONGEST_PARAM, LONGEST_NAME = 100, 1000, 6000, 250  # MLflow's own limits
QUIET = {
    "MLFLOW_DISABLE_TELEMETRY": "true", "MLFLOW_CONFIGURE_LOGGING": "false",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true", "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1", "MLFLOW_HTTP_REQUEST_TIMEOUT": "20",  # tried again here, and later
}  # fmt: skip


@contextmanager
def following(
    recipe: Recipe, store: Store, stages: Sequence[StageAt], sinks: Sequence[str], *, say: Callable[[str], None]
) -> Iterator[Tracking]:
    """Mirror ``stages`` to ``sinks`` while the body runs; deliver the rest and close their runs when it ends.

    A stage with a record ends FINISHED; another one FAILED when the body raises, else KILLED, to be continued.

    Args:
        stages: those asked for, in order.
        sinks: names of trackers; see :func:`sinks_named`.
        say: shows one line to a person.
    """
    tracking = Tracking([_SINKS[name](recipe, store, stages) for name in _known(sinks)], store, stages, say)
    tracking.start()
    error = ""
    try:
        yield tracking
    except Exception as failure:
        error = str(failure) or type(failure).__name__
        raise
    finally:
        tracking.close(error)


def sinks_named(text: str) -> tuple[str, ...]:
    """The trackers of a comma-separated list; ``none`` or nothing is none. Raises :class:`PlanError`."""
    return _known([name.strip() for name in text.split(",") if name.strip() not in ("", "none")])


def _known(names: Sequence[str]) -> tuple[str, ...]:
    for name in names:
        if name not in _SINKS:
            raise PlanError(f"there is no tracker {name!r}; allowed: {', '.join(_SINKS)}, or none")
    return tuple(dict.fromkeys(names))


class MlflowRuns:
    """Implements :class:`orchestrator.tracking.thread.Sink`, by MLflow's client: no global state, nobody's name.

    A metric that is sent twice with the same time is one metric to MLflow. The time of a point never changes, so what
    may or may not have arrived can be sent again.
    """

    name = "mlflow"

    def __init__(self, recipe: Recipe, store: Store, stages: Sequence[StageAt]) -> None:
        self._recipe, self._store, self._stages = recipe, store, stages
        given = os.environ.get("MLFLOW_TRACKING_URI", "")
        try:
            urlsplit(given)
        except ValueError as error:
            raise PlanError(f"MLFLOW_TRACKING_URI is not an address: {error}") from error
        self._uri = given or f"sqlite:///{store.root.resolve()}/mlflow.db"
        self.key = f"mlflow-{digest(self.mask(given))[:8]}" if given else "mlflow"
        self._parent = ""
        self._starts: dict[str, int] = {}

    @property
    def where(self) -> str:
        over_http = self._uri.startswith("http")
        return self.mask(self._uri) if over_http else f"mlflow ui --backend-store-uri {self.mask(self._uri)}"

    def mask(self, text: str) -> str:
        """``text`` without the credentials that the address, or MLflow's environment, holds."""
        parts = urlsplit(self._uri)
        secrets = {parts.netloc.rpartition("@")[0], parts.password or "", parts.query}
        secrets |= {value for _, value in parse_qsl(parts.query)}
        secrets |= {os.environ.get(f"MLFLOW_TRACKING_{name}", "") for name in ("PASSWORD", "TOKEN")}
        secrets |= {unquote(secret) for secret in secrets}
        for secret in sorted(filter(None, secrets), key=len, reverse=True):
            text = text.replace(secret, "***")
        return re.sub(r"//[^/@\s]+@", "//***@", text)

    def open(self, at: StageAt, place: dict[str, Any], *, done: bool) -> None:
        """Make sure that ``place`` names a run that is there, or else the beginning of a new one."""
        if place.get("run_id") in self._starts:
            return
        parent = self._above(at)
        run = self._run(place["run_id"]) if "run_id" in place else self._abandoned(at, parent)
        if run is None:
            place.clear()
            tags = {"mlflow.parentRunId": parent, "plumbline.fingerprint": at.fingerprint, **self._tags(at)}
            run = self._client.create_run(self._experiment, start_time=began_ms(at), tags=tags, run_name=at.name)
        else:
            self._reopen(run, done=done)
        place["run_id"] = run.info.run_id
        self._starts[run.info.run_id] = run.info.start_time
        if job := submission_id():
            self._client.set_tag(run.info.run_id, "plumbline.job", job)
        self._opened(at, parent, run)

    def _above(self, at: StageAt) -> str:
        """The run that the one of ``at`` is a child of."""
        return self._open_parent()

    def _tags(self, at: StageAt) -> dict[str, str]:
        above = self._recipe.parent(at.stage)
        known = {each.stage.name: each.fingerprint for each in self._stages}
        return {
            "plumbline.kind": "stage", "plumbline.number": str(at.number), "plumbline.stage": at.stage.name,
            "plumbline.parent": known.get(above.name, "") if above else "",
        }  # fmt: skip

    def _opened(self, at: StageAt, parent: str, run: Any) -> None:
        self._client.set_tag(parent, f"plumbline.{at.title}", run.info.run_id)  # it may be another parent's child
        self._log_params(run, flat(plain(at.stage)))

    def mirror(self, at: StageAt, place: dict[str, Any], points: Sequence[Point], record: Record | None) -> None:
        from mlflow.entities import Metric

        run_id = place["run_id"]
        start = self._starts[run_id]
        metrics = [Metric(point.name, point.value, int(point.time * 1000) or start, point.epoch) for point in points]
        ended = int(datetime.fromisoformat(record.ended_at).timestamp() * 1000) if record and record.ended_at else None
        if record:
            metrics += [Metric(f"best/{name}", best["value"], ended or start, record.epochs)
                        for name, best in record.best.items()]  # fmt: skip
        for first in range(0, len(metrics), METRICS_AT_ONCE):
            self._client.log_batch(run_id, metrics=metrics[first : first + METRICS_AT_ONCE])
        if record:
            used = {name: getattr(record, name, {}) for name in ("effective", "execution", "versions")}
            self._log_params(self._client.get_run(run_id), flat({name: each for name, each in used.items() if each}))
            self._client.set_tag(run_id, "plumbline.parent", record.parent)
            self._client.set_tag(run_id, "plumbline.finished", record.finished)
            self._client.set_terminated(run_id, "FINISHED", end_time=ended)

    def close(self, stages: Sequence[tuple[StageAt, dict[str, Any], bool]], *, error: str, done: bool) -> None:
        """Upload what lies in the folders, and end what is still open."""
        for at, place, finished in stages:
            if "run_id" in place:
                self._upload(at, place)
                if not finished and place["run_id"] in self._starts:
                    self._end(place["run_id"], "FAILED" if error else "KILLED", error)
        last = stages[-1][1] if stages else {}
        ended = ["FINISHED" if done and not error else "FAILED" if error else "KILLED", error]
        if self._parent or (done and "run_id" in last and last.get("parent_ended") != ended):
            self._end(self._open_parent(), *ended)
            last["parent_ended"] = ended

    def _upload(self, at: StageAt, place: dict[str, Any]) -> None:
        """The files that have changed since they were last sent."""
        sent, run_id = place.setdefault("artifacts", {}), place["run_id"]
        pictures = sorted((at.folder / PICTURES).glob("*.png"))
        for path in (*(at.folder / name for name in UPLOADED), *pictures):
            stamp = [path.stat().st_size, path.stat().st_mtime_ns] if path.exists() else None
            if stamp and sent.get(path.name) != stamp:
                self._client.log_artifact(run_id, str(path), PICTURES if path in pictures else None)
                if path.name == "metrics.jsonl" and (events := events_of(path)):
                    self._client.log_text(run_id, events, "events.jsonl")
                sent[path.name] = stamp

    def _open_parent(self) -> str:
        if self._parent:
            return self._parent
        mark = self._stages[-1].fingerprint
        wanted = f"tags.`plumbline.kind` = 'recipe' and tags.`plumbline.fingerprint` = '{mark}'"
        found = self._client.search_runs([self._experiment], wanted, max_results=1)
        tags = {"plumbline.kind": "recipe", "plumbline.fingerprint": mark}
        run = found[0] if found else self._client.create_run(
            self._experiment, tags=tags, run_name=f"{self._recipe.name}-{mark}"
        )  # fmt: skip
        self._reopen(run)
        recipe = {key: value for key, value in plain(self._recipe).items() if key != "stages"}
        shas = {"alphabet.sha256": self._recipe.alphabet.sha256, "image.sha256": self._recipe.image.sha256}
        self._log_params(run, flat(recipe) | shas)
        self._client.log_text(
            run.info.run_id, json.dumps(plain(self._recipe), indent=2, ensure_ascii=False), "plan.json"
        )
        self._parent = run.info.run_id
        return self._parent

    def _run(self, run_id: str) -> Any:
        """The run of that id, or None when the server has it no more."""
        from mlflow.exceptions import MlflowException

        try:
            run = self._client.get_run(run_id)
        except MlflowException as error:
            if error.error_code != "RESOURCE_DOES_NOT_EXIST":
                raise
            return None
        return run if run.info.lifecycle_stage == "active" else None

    def _abandoned(self, at: StageAt, parent: str) -> Any:
        """A run that was made for this stage, but not written down before the process ended; None if there is none."""
        wanted = f"tags.`plumbline.fingerprint` = '{at.fingerprint}' and tags.`mlflow.parentRunId` = '{parent}'"
        found = self._client.search_runs([self._experiment], wanted)
        return next((run for run in found if not run.data.metrics), None)

    def _reopen(self, run: Any, *, done: bool = False) -> None:
        if not done:
            self._client.update_run(run.info.run_id, status="RUNNING")
        if "error" in run.data.tags:
            self._client.delete_tag(run.info.run_id, "error")

    def _end(self, run_id: str, status: str, error: str) -> None:
        if error:
            self._client.set_tag(run_id, "error", error[:5000])
        self._client.set_terminated(run_id, status)

    def _log_params(self, run: Any, params: Mapping[str, str]) -> None:
        """Log those that are not there yet; one that differs now, as a gate may, becomes a tag: params never change."""
        from mlflow.entities import Param, RunTag

        short = {safe(name)[:LONGEST_NAME]: value[:LONGEST_PARAM] for name, value in params.items()}
        new = [Param(name, value) for name, value in short.items() if name not in run.data.params]
        later = [RunTag(f"now.{name}"[:LONGEST_NAME], value) for name, value in short.items()
                 if run.data.params.get(name, value) != value]  # fmt: skip
        for first in range(0, max(len(new), len(later)), PARAMS_AT_ONCE):
            part = slice(first, first + PARAMS_AT_ONCE)
            self._client.log_batch(run.info.run_id, params=new[part], tags=later[part])

    @cached_property
    def _client(self) -> Any:
        for name, value in QUIET.items():
            os.environ.setdefault(name, value)
        from mlflow import MlflowClient

        for library, level in (("mlflow", logging.ERROR), ("alembic", logging.WARNING)):
            logging.getLogger(library).setLevel(level)
        return MlflowClient(tracking_uri=self._uri)

    @cached_property
    def _experiment(self) -> str:
        """The id of the recipe's experiment, made if need be."""
        found = self._client.get_experiment_by_name(self._recipe.name)
        if found:
            return found.experiment_id
        here = None  # a server knows where it keeps artifacts; a database alone would put them into the current folder
        if not self._uri.startswith(("http", "databricks")):
            here = (self._store.root.resolve() / "mlflow-artifacts").as_uri()
        return self._client.create_experiment(self._recipe.name, artifact_location=here)


def began_ms(at: StageAt) -> int | None:
    """When its training began, in milliseconds since 1970; None where it did not come to that."""
    path = at.folder / "plan.json"
    return int(path.stat().st_mtime * 1000) if path.exists() else None


_SINKS: Mapping[str, type[MlflowRuns] | type[EventFiles]] = {"mlflow": MlflowRuns, "tensorboard": EventFiles}
