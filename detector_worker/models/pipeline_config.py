"""The contents of an archive's ``pipeline.json``: its only definition, from which validation and schema come.

Where a name in the file is camelCase it is an alias. Action *settings* live here because the loader validates them;
action *behaviour* is in `pipeline.action_executor`.
"""

from collections.abc import Iterator
from typing import Annotated, Any, ClassVar, Final, Literal

from pydantic import AliasChoices, Field, model_validator

from detector_worker.models.pipeline_values import (
    InputConfig,
    Name,
    NmsConfig,
    OutputLayout,
    Pixels,
    Positive,
    Probability,
    Settings,
    SnakeSettings,
    Visible,
)

_MAX_SECONDS: Final = 86_400 * 365


class ModelSettings(Settings):
    """What the pipeline's detector and each branch have in common."""

    model_id: Name
    """Names the model's results in templates: {modelId.resultField}."""
    model_file: Annotated[str, Field(min_length=1, max_length=500)]
    """Path within the archive: .onnx, or .xml with its .bin beside it."""
    model_type: Literal["detection", "classification", "ocr"]
    min_confidence: Probability = 0.5
    classes: tuple[Name | None, ...] | None = None
    """Names in the order of the model's class ids, null for an id that is not used; default: the model's own."""
    input: InputConfig = InputConfig()
    output: str | None = None
    """Name of the wanted output, where a model has several that fit."""
    output_layout: OutputLayout | None = None
    """How the output is read; default: recognised from shapes and names."""
    nms: NmsConfig = NmsConfig()
    alphabet: tuple[str, ...] | None = None
    """Symbols of a text model in the order of its ids, '_' for the padding or blank."""


class TrackingConfig(Settings):
    """How detections become tracks."""

    method: Literal["bytetrack"] = "bytetrack"
    max_lost_seconds: Positive = 2.0
    """How long a track is kept without a match."""
    class_aware: bool = False
    """True: an object keeps its class; false where the detector calls one vehicle a car now and a truck then."""


class StabilityConfig(Settings):
    """When a track becomes a visit, and when a new track is the old visit."""

    min_frames: Annotated[int, Field(ge=1, le=1000)] = 4
    """Analysed frames in which the object was matched."""
    min_seconds: Annotated[float, Field(ge=0, le=600)] = 0.5
    min_iou: Probability = 0.5
    """Mean overlap of its box with the previous or predicted one."""
    reentry_seconds: Annotated[float, Field(ge=0, le=86_400)] = 10.0
    """A like object that appears so soon where one was lost is the same visit."""


class MotionConfig(Settings):
    """Frames that show nothing new, while every object stands, are passed over."""

    enabled: bool = True
    """False: every frame is analysed, as far as the rate allows."""
    recheck_seconds: Positive = 5.0
    """How often a still scene is looked at all the same."""


class VotingConfig(Settings):
    """How many pictures of a visit a branch reads, and how their results are joined."""

    frames: Annotated[int, Field(ge=1, le=16)] = 3
    method: Literal["confidence_weighted", "majority"] = "confidence_weighted"


class SessionTarget(Settings):
    """Where patchSession writes."""

    table: str
    key_field: str
    """Column that holds the session's id."""


class Condition(SnakeSettings):
    """A comparison of one field; an action is carried out only where it holds."""

    field: str
    """A name as in templates, without braces."""
    equals: str | float | bool | None = None
    not_equals: str | float | bool | None = None
    at_least: float | None = None
    at_most: float | None = None


class _Action(SnakeSettings):
    offers: ClassVar[tuple[str, ...]] = ()
    """What later templates may name of it, as ``<result_name>.<offer>``."""
    id: Visible | None = None
    """Names the action's results in templates; default: its type. Two actions of one type need it."""
    when: Condition | None = None
    """The action is carried out only where this holds."""

    @property
    def result_name(self) -> str:
        """Under which name templates find this action's results."""
        return self.id or str(getattr(self, "type"))  # noqa: B009 - each subclass has its own literal


class PostgresqlCreate(_Action):
    """Insert the visit's row."""

    offers = ("record_id", "key")
    type: Literal["postgresql_create_record"]
    table: str
    fields: Annotated[dict[str, Any], Field(min_length=1)]
    """Column to template, number, boolean or null; a template that is one placeholder keeps the value's type."""


class PostgresqlUpdate(_Action):
    """Complete the visit's row."""

    type: Literal["postgresql_update", "postgresql_update_combined"]
    table: str
    key_field: str
    """Column by which the row is found."""
    key_value: str
    """Template of that column's value, such as {record_id}."""
    fields: dict[str, Any]
    """Column to template, number, boolean or null."""
    wait_for_branches: Annotated[
        tuple[str, ...] | None, Field(validation_alias=AliasChoices("waitForBranches", "wait_for_branches"))
    ] = None
    """Model ids; default: the branches that its fields name."""


class RedisSaveImage(_Action):
    """Store one picture."""

    offers = ("key",)
    type: Literal["redis_save_image"]
    region: str = "frame"
    """frame: the whole picture; best: the object at its best; or a class name."""
    key: str
    """Template of the Redis key; it should hold {record_id} or {filename}, so that no visit overwrites another's."""
    expire_seconds: Annotated[int, Field(gt=0, le=_MAX_SECONDS)] = 3600
    """Counted from delivery."""
    format: Literal["jpeg", "png", "webp"] = "jpeg"
    quality: Annotated[int, Field(ge=1, le=100)] = 90

    @property
    def region_class(self) -> str | None:
        """The class whose box is cut out; None where ``region`` is one of the fixed words."""
        return None if self.region in {"frame", "best"} else self.region


class PublishMessageAction(_Action):
    """Tell a channel."""

    type: Literal["publish_message", "redis_publish"]
    channel: str
    """Template of the Redis channel."""
    message: dict[str, Any] | str
    """Template, or an object of templates that is sent as JSON."""
    max_age_seconds: Annotated[
        float, Field(gt=0, le=_MAX_SECONDS, validation_alias=AliasChoices("maxAgeSeconds", "max_age_seconds"))
    ] = 30.0
    """What could not be delivered within this time is dropped and counted."""


ActionConfig = Annotated[
    PostgresqlCreate | PostgresqlUpdate | RedisSaveImage | PublishMessageAction, Field(discriminator="type")
]


class BranchConfig(ModelSettings):
    """One classification of a stable visit."""

    result_field: str = ""
    """Name of the label; default: brand, body_type, text or class, by modelId and modelType."""
    crop: bool = False
    """Whether the model sees a cut-out of the full picture instead of all of it."""
    crop_class: Name | None = None
    """What is cut out; default: the whole object."""
    crop_padding: Annotated[float, Field(ge=0, le=1)] = 0.0
    """Margin around the cut-out, in parts of its size."""
    resize_target: tuple[Pixels, Pixels] | None = None
    """[width, height]; default: the model's own input."""
    trigger_classes: tuple[Name, ...] = ()
    """The branch reads only pictures that show one of these; default: any."""
    parallel: bool = False
    """Whether it runs beside the others, or in its turn."""
    timeout_seconds: Annotated[
        float, Field(gt=0, le=600, validation_alias=AliasChoices("timeout_seconds", "timeoutSeconds"))
    ] = 30.0
    required: bool = True
    """Whether the visit's run counts as failed where no required branch succeeded."""
    voting: VotingConfig | None = None
    branches: tuple["BranchConfig", ...] = ()
    actions: tuple[ActionConfig, ...] = ()

    @model_validator(mode="before")
    @classmethod
    def _default_result_field(cls, data: Any) -> Any:
        if not isinstance(data, dict) or data.get("resultField"):
            return data
        model_id = str(data.get("modelId")).lower()
        name = "text" if data.get("modelType") == "ocr" else "class"
        name = "brand" if "brand" in model_id else "body_type" if "bodytype" in model_id else name
        return {**data, "resultField": name}


class PipelineConfig(ModelSettings):
    """One camera's job: the detector, and what happens to each stable visit."""

    trigger_classes: tuple[Name, ...] = ()
    """Only frames with one of these count; default: any."""
    expected_classes: tuple[Name, ...] = ()
    """A group of objects becomes a visit where it has one of these; default: any."""
    required_classes: tuple[Name, ...] = ()
    """A group of objects becomes a visit only where it has all of these."""
    target_fps: Annotated[float, Field(gt=0, le=240)] | None = None
    """Frames a second that are analysed at most."""
    tracking: TrackingConfig = TrackingConfig()
    stability: StabilityConfig = StabilityConfig()
    motion: MotionConfig = MotionConfig()
    actions: tuple[ActionConfig, ...] = ()
    """Carried out in their order when the visit is stable, before the branches."""
    branches: tuple[BranchConfig, ...] = ()
    parallel_actions: tuple[ActionConfig, ...] = ()
    """Carried out after the branches."""
    tables: dict[str, dict[str, str]] = {}  # noqa: RUF012 - pydantic gives each its own
    """Table to column to declaration, such as "uuid primary key"; missing ones are added where that is allowed."""
    session: SessionTarget | None = None
    """Default: table and key of the first create action."""
    postgresql: dict[str, Any] | None = None
    """Ignored: connections are the worker's own settings."""
    redis: dict[str, Any] | None = None
    """Ignored: connections are the worker's own settings."""

    def wanted_classes(self) -> frozenset[str]:
        """Classes that anything asks for, lower case; empty: all of them are wanted."""
        names = {*self.expected_classes, *self.trigger_classes, *self.required_classes}
        if names:
            names |= {branch.crop_class for branch in self.all_branches().values() if branch.crop_class}
            images = (action for action in self.all_actions().values() if isinstance(action, RedisSaveImage))
            names |= {image.region_class for image in images if image.region_class}
        return frozenset(name.casefold() for name in names)

    def all_branches(self) -> dict[str, BranchConfig]:
        """Every branch by its JSON path, nested ones after their parent."""

        def walk(path: str, branches: tuple[BranchConfig, ...]) -> Iterator[tuple[str, BranchConfig]]:
            for index, branch in enumerate(branches):
                yield (here := f"{path}.branches[{index}]"), branch
                yield from walk(here, branch.branches)

        return dict(walk("pipeline", self.branches))

    def all_actions(self) -> dict[str, ActionConfig]:
        """Every action of the pipeline and its branches by its JSON path."""
        lists = {"pipeline.actions": self.actions}
        lists |= {f"{path}.actions": branch.actions for path, branch in self.all_branches().items()}
        lists["pipeline.parallelActions"] = self.parallel_actions
        return {f"{path}[{index}]": action for path, actions in lists.items() for index, action in enumerate(actions)}


class PipelineFile(Settings):
    """The file as a whole."""

    json_schema: Annotated[str | None, Field(alias="$schema")] = None
    """Where an editor finds the schema of this file; the worker never looks at it."""
    schema_version: Literal[1] = 1
    """Without it the file counts as older: unknown keys only warn."""
    pipeline: PipelineConfig
