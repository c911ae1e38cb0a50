"""One run of a pipeline: actions, branches side by side, and what follows from them."""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping, Sequence
from functools import partial
from itertools import compress
from typing import Any, Final, Literal

import numpy as np

from detector_worker.core.entities import DetectionResult, Detections, FieldValue, PipelineResult, Shot
from detector_worker.core.exceptions import DetectorWorkerError, ModelError
from detector_worker.detection.grouping import GroupRules, find_wholes
from detector_worker.detection.yolo_detector import YOLODetector
from detector_worker.models.pipeline_config import ActionConfig, BranchConfig, PipelineConfig
from detector_worker.pipeline.action_executor import ActionExecutor
from detector_worker.pipeline.branches import branch_result, choose_views, read_view
from detector_worker.pipeline.context import PipelineContext, branch_succeeded

__all__ = ["PipelineContext", "PipelineExecutor"]

_log: Final = logging.getLogger(__name__)
BranchResult = dict[str, FieldValue]
Status = Literal["completed", "partial", "failed"]
RunInference = Callable[[Callable[[], Any]], Awaitable[Any]]
"""Has an analysis thread do the work that blocks, and awaits its result."""


class PipelineExecutor:
    """Runs one archive's pipeline with all of its models by model id; on the event loop, any number of runs at once."""

    def __init__(
        self, *, actions: ActionExecutor, detectors: Mapping[str, YOLODetector], run_inference: RunInference
    ) -> None:
        self._actions, self._detectors, self._run_inference = actions, detectors, run_inference

    async def execute_pipeline(self, pipeline_config: PipelineConfig, context: PipelineContext) -> PipelineResult:
        """Run the pipeline once for a visit, or for a single frame that brings no detections.

        What fails is told in the result, but for the detector on a single frame: its `ModelError` is raised.
        """
        if not context.detections and not await self._run_detection_stage(pipeline_config, context):
            return _result("completed", context)
        await self._execute_actions(pipeline_config.actions, context)
        await self._run_classification_branches(pipeline_config.branches, context)
        required = frozenset(branch.model_id for branch in pipeline_config.branches if branch.required)
        status = self._handle_partial_branch_failure(context.branch_results, required)
        if status != "failed":
            await self._execute_parallel_actions(pipeline_config.parallel_actions, context)
        if context.is_refused:
            return _result("failed", context)
        return _result("partial" if context.has_failed_action and status == "completed" else status, context)

    async def _run_detection_stage(self, config: PipelineConfig, context: PipelineContext) -> bool:
        """Detect in the context's frame; False where the pipeline has nothing to run on."""
        detector = self._detectors[config.model_id]
        found = await self._run_inference(partial(detector.detect, context.frame, config.min_confidence))
        context.detections = _largest_group(found, config, context.timestamp)
        context.shots = (Shot(context.frame, context.detections, 0.0),)
        return bool(context.detections)

    async def _execute_actions(self, actions: Sequence[ActionConfig], context: PipelineContext) -> None:
        if context.is_refused:  # an update without its record, or a visit kept without one, would be worse than none
            return
        try:
            await self._actions.execute_actions(actions, context.frame, context)
        except DetectorWorkerError as exc:
            context.is_refused = True
            context.warnings.append(str(exc))

    async def _execute_parallel_actions(self, actions: Sequence[ActionConfig], context: PipelineContext) -> None:
        """Carry out what comes after the branches, accepted together and in order."""
        await self._execute_actions(actions, context)

    async def _run_classification_branches(self, branches: Sequence[BranchConfig], context: PipelineContext) -> None:
        """Run each ``parallel`` branch by itself, and beside them the others one after another."""
        in_order = [branch for branch in branches if not branch.parallel]
        async with asyncio.TaskGroup() as tasks:
            for chain in (*([branch] for branch in branches if branch.parallel), in_order):
                tasks.create_task(self._wait_for_branches(chain, context))

    async def _wait_for_branches(self, chain: Sequence[BranchConfig], context: PipelineContext) -> None:
        """Run branches one after another, each with its own actions and nested branches."""
        for branch in chain:
            result = await self._execute_branch_with_isolation(branch, context)
            context.branch_results[branch.model_id] = result
            if branch_succeeded(result):
                await self._execute_actions(branch.actions, context)
                await self._run_classification_branches(branch.branches, context)

    async def _execute_branch_with_isolation(self, branch: BranchConfig, context: PipelineContext) -> BranchResult:
        """Run one branch within its own deadline; whatever goes wrong becomes its result."""
        try:
            async with asyncio.timeout(branch.timeout_seconds):
                return await self._execute_branch(branch, context)
        except TimeoutError:
            error, kind = f"no result within {branch.timeout_seconds:g} s", "timeout"
        except ModelError as exc:
            error, kind = str(exc), "model_error"
        except Exception as exc:  # noqa: BLE001 - a branch's boundary: the others go on
            _log.exception("Branch %s of visit %s failed", branch.model_id, context.record_id)
            error, kind = f"unexpected {type(exc).__name__}", "unexpected_error"
        return {"error": error, "type": kind}

    async def _execute_branch(self, branch: BranchConfig, context: PipelineContext) -> BranchResult:
        model = self._detectors[branch.model_id]
        readings = []
        for view in choose_views(branch, context.shots):
            reading, found = await self._run_inference(partial(read_view, model, branch, view))
            context.add_found(view[0], found)
            readings.append(reading)
        return branch_result(branch, readings)

    def _handle_partial_branch_failure(self, results: dict[str, BranchResult], required: frozenset[str]) -> Status:
        """Judge the branches: failed where some are required and none of these succeeded."""
        succeeded = {branch for branch, result in results.items() if branch_succeeded(result)}
        if required and not required & succeeded:
            return "failed"
        return "completed" if len(succeeded) == len(results) else "partial"


def _largest_group(found: Detections, config: PipelineConfig, timestamp: float) -> tuple[DetectionResult, ...]:
    """Return the largest object that the pipeline is meant for with its parts, the whole first; or nothing."""
    results = tuple(found.results(timestamp))
    whole = find_wholes(found, np.ones(len(found), np.bool_))
    groups = [(results[row], *compress(results, whole == row)) for row in np.flatnonzero(whole < 0)]
    rules = GroupRules(
        expected=config.expected_classes, required=config.required_classes, trigger=config.trigger_classes
    )
    meant = [group for group in groups if rules.is_wanted(part.class_name for part in group)]
    is_triggered = rules.is_triggered(result.class_name for result in results)
    return max(meant, key=lambda group: group[0].bounding_box.area, default=()) if is_triggered else ()


def _result(status: Status, context: PipelineContext) -> PipelineResult:
    told = (tuple(dict.fromkeys(texts)) for texts in (context.unresolved, context.warnings))
    return PipelineResult(status, context.detections, context.branch_results, context.fields, *told)
