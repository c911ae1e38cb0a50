"""One run of a pipeline: actions, branches side by side, and what follows from them."""

import asyncio
import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from functools import partial
from typing import Final, Literal

import numpy as np

from detector_worker.core.entities import DetectionResult, Detections, FieldValue, PipelineResult, Shot
from detector_worker.core.exceptions import DetectorWorkerError, ModelError, ModelLoadError
from detector_worker.detection.grouping import find_wholes
from detector_worker.models.pipeline_config import ActionConfig, BranchConfig, PipelineConfig
from detector_worker.pipeline.action_executor import ActionExecutor
from detector_worker.pipeline.branches import PictureModel, branch_result, choose_views, read_view
from detector_worker.pipeline.context import PipelineContext, RunBlocking, branch_succeeded

__all__ = ["PipelineContext", "PipelineExecutor"]

_log: Final = logging.getLogger(__name__)
Status = Literal["completed", "partial", "failed"]
Outcome = tuple[dict[str, FieldValue], tuple[Shot, ...]]
"""A branch's result, and the pictures for its nested branches."""


class PipelineExecutor:
    """Runs one archive's pipeline; on the event loop, any number of runs at once. Keeps nothing of a run."""

    def __init__(
        self, *, actions: ActionExecutor, detectors: Mapping[str, PictureModel], run_inference: RunBlocking
    ) -> None:
        """Wire an executor.

        Args:
            actions: Carries out what is written.
            detectors: The archive's models by model id, the branches' and the detector itself.
            run_inference: Hands a model's blocking work to the analysis threads.
        """
        self._actions, self._detectors, self._run_inference = actions, detectors, run_inference

    async def execute_pipeline(self, pipeline_config: PipelineConfig, context: PipelineContext) -> PipelineResult:
        """Run the pipeline once for a visit, or for a single frame that brings no detections.

        Raises:
            ModelError: The detector failed on a single frame. Nothing else is raised on purpose: what fails
                is told in the result.
        """
        if not context.detections and not await self._run_detection_stage(pipeline_config, context):
            return _result("completed", context)
        await self._execute_actions(pipeline_config.actions, context)
        await self._run_classification_branches(pipeline_config.branches, context, context.shots)
        required = frozenset(branch.model_id for branch in pipeline_config.branches if branch.required)
        status = self._handle_partial_branch_failure(context.branch_results, required)
        if status != "failed":
            await self._execute_parallel_actions(pipeline_config.parallel_actions, context)
        if context.is_refused:
            status = "failed"
        elif context.has_failed_action and status == "completed":
            status = "partial"
        return _result(status, context)

    async def _run_detection_stage(self, config: PipelineConfig, context: PipelineContext) -> bool:
        """Detect in the context's frame; False where the pipeline has nothing to run on."""
        detector = self._model(config.model_id)
        found = await self._run_inference(partial(detector.detect, context.frame, config.min_confidence))
        context.detections, is_expected = _choose_group(found, config, context.timestamp)
        return is_expected

    async def _execute_actions(self, actions: Sequence[ActionConfig], context: PipelineContext) -> None:
        if context.is_refused:  # an update without its record, or a visit kept without one, would be worse than none
            return
        try:
            await self._actions.execute_actions(actions, context.frame, context)
        except DetectorWorkerError as exc:
            context.is_refused = True
            context.warn(str(exc))

    async def _execute_parallel_actions(self, actions: Sequence[ActionConfig], context: PipelineContext) -> None:
        """Carry out what comes after the branches, accepted together and in order."""
        await self._execute_actions(actions, context)

    async def _run_classification_branches(
        self, branches: Sequence[BranchConfig], context: PipelineContext, shots: tuple[Shot, ...]
    ) -> None:
        """Run branches: each ``parallel`` one by itself, and beside them the others one after another."""
        chains = [(branch,) for branch in branches if branch.parallel]
        in_order = tuple(branch for branch in branches if not branch.parallel)
        await self._wait_for_branches([*chains, in_order] if in_order else chains, context, shots)

    async def _wait_for_branches(
        self, chains: Sequence[Sequence[BranchConfig]], context: PipelineContext, shots: tuple[Shot, ...]
    ) -> None:
        async with asyncio.TaskGroup() as tasks:
            for chain in chains:
                name = f"branch {chain[0].model_id} of {context.record_id}"
                tasks.create_task(self._run_in_order(chain, context, shots), name=name)

    async def _run_in_order(
        self, branches: Sequence[BranchConfig], context: PipelineContext, shots: tuple[Shot, ...]
    ) -> None:
        for branch in branches:
            result, nested_shots = await self._execute_branch_with_isolation(branch, context, shots)
            context.branch_results[branch.model_id] = result
            if not branch_succeeded(result):
                continue
            await self._execute_actions(branch.actions, context)
            await self._run_classification_branches(branch.branches, context, nested_shots)

    async def _execute_branch_with_isolation(
        self, branch: BranchConfig, context: PipelineContext, shots: tuple[Shot, ...]
    ) -> Outcome:
        """Run one branch within its own deadline; whatever goes wrong becomes its result."""
        deadline_s = asyncio.get_running_loop().time() + branch.timeout_seconds
        try:
            async with asyncio.timeout_at(deadline_s) as limit:
                return await self._execute_branch(branch, context, shots)
        except TimeoutError:
            if limit.expired():
                return {"error": f"no result within {branch.timeout_seconds:g} s", "type": "timeout"}, shots
            return {"error": "the model timed out by itself", "type": "model_error"}, shots
        except ModelError as exc:
            return {"error": str(exc), "type": "model_error"}, shots
        except Exception as exc:  # noqa: BLE001 - a branch's boundary: the others go on
            _log.exception("Branch %s of visit %s failed", branch.model_id, context.record_id)
            return {"error": f"unexpected {type(exc).__name__}", "type": "unexpected_error"}, shots

    async def _execute_branch(self, branch: BranchConfig, context: PipelineContext, shots: tuple[Shot, ...]) -> Outcome:
        views = choose_views(branch, shots, context.current_shot)
        if not views:
            return branch_result(branch, ()), shots
        model = self._model(branch.model_id)
        read = [await self._run_inference(partial(read_view, model, branch, view)) for view in views]
        if branch.model_type == "detection":
            unread = tuple(shot for shot in shots if all(shot is not view.shot for view in views))
            shots = (*(shot for _, shot in read), *unread)
        return branch_result(branch, [reading for reading, _ in read]), shots

    def _handle_partial_branch_failure(
        self, results: Mapping[str, Mapping[str, FieldValue]], required: AbstractSet[str]
    ) -> Status:
        """Judge the branches: failed where some are required and none of these succeeded."""
        succeeded = {branch for branch, result in results.items() if branch_succeeded(result)}
        if required and not required & succeeded:
            return "failed"
        return "completed" if len(succeeded) == len(results) else "partial"

    def _model(self, model_id: str) -> PictureModel:
        model = self._detectors.get(model_id)
        if model is None:
            raise ModelLoadError(
                "The model is not loaded", where=f"model {model_id}", mend="Check the archive with `mpta validate`."
            )
        return model


def _choose_group(
    found: Detections, config: PipelineConfig, timestamp: float
) -> tuple[tuple[DetectionResult, ...], bool]:
    """Return the largest object of a frame that the pipeline is meant for, with its parts; the whole first.

    Where there is none: all that was seen of the wanted classes, and False.
    """
    wanted = config.wanted_classes()
    names = [found.class_names[class_id].casefold() for class_id in found.class_id]
    found = found.select(np.array([not wanted or name in wanted for name in names], np.bool_))
    results = tuple(found.results(timestamp))
    whole = find_wholes(found, np.ones(len(found), np.bool_))
    groups = [
        (results[row], *(results[part] for part in np.flatnonzero(whole == row))) for row in np.flatnonzero(whole < 0)
    ]
    meant = [
        group
        for group in groups
        if _has(group, config.expected_classes, any) and _has(group, config.required_classes, all)
    ]
    if not meant or not _has(results, config.trigger_classes, any):
        return results, False
    return max(meant, key=lambda group: group[0].bounding_box.area), True


def _has(
    results: Sequence[DetectionResult], class_names: Sequence[str], how_many: Callable[[Iterable[bool]], bool]
) -> bool:
    present = {result.class_name.casefold() for result in results}
    return not class_names or how_many(name.casefold() in present for name in class_names)


def _result(status: Status, context: PipelineContext) -> PipelineResult:
    return PipelineResult(
        status,
        context.detections,
        context.branch_results,
        context.fields,
        tuple(context.unresolved),
        tuple(context.warnings),
    )
