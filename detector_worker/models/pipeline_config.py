"""The contents of an archive's ``pipeline.json``: its only definition, from which validation and schema come.

Where a name in the file is camelCase it is an alias. Action *settings* live here because the loader validates them;
action *behaviour* is in `pipeline.action_executor`.
"""

from collections.abc import Iterator
from typing import Annotated, Any, ClassVar, Final, Literal

from pydantic import AliasChoices, BaseModel, ConfigDict, Field, model_validator
from pydantic.alias_generators import to_camel

OutputLayout = Literal[
    "yolov5", "yolov8", "end2end", "yolox", "ssd", "detr", "classification", "textIndex", "textSlots", "textCtc"
]
ClassName = Annotated[str, Field(min_length=1, max_length=200)]
Probability = Annotated[float, Field(ge=0, le=1)]
Finite = Annotated[float, Field(allow_inf_nan=False)]
Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
Pixels = Annotated[int, Field(ge=8, le=4096)]
_MAX_SECONDS: Final = 86_400 * 365


class _Settings(BaseModel):
    """Read-only; unknown keys are errors. camelCase in the file."""

    model_config = ConfigDict(extra="forbid", frozen=True, populate_by_name=True, alias_generator=to_camel)


class _SnakeSettings(_Settings):
    """As `_Settings`, with snake_case in the file."""

    model_config = ConfigDict(alias_generator=None)


class InputConfig(_Settings):
    """How a picture becomes a model's input; None: the default of the output layout."""

    color: Literal["rgb", "bgr"] | None = None
    scale: Positive | None = None
    mean: tuple[Finite, Finite, Finite] | None = None
    std: tuple[Positive, Positive, Positive] | None = None
    letterbox: Literal["center", "topLeft", "none"] | None = None
    pad_value: Annotated[int, Field(ge=0, le=255)] | None = None


class NmsConfig(_Settings):
    """Non-maximum suppression."""

    iou: Probability = 0.5
    across_classes: bool = False


class ModelSettings(_Settings):
    """What the pipeline's detector and each branch have in common."""

    model_id: Annotated[str, Field(min_length=1, max_length=200)]
    model_file: Annotated[str, Field(min_length=1, max_length=500)]
    model_type: Literal["detection", "classification", "ocr"]
    min_confidence: Probability = 0.5
    classes: tuple[ClassName | None, ...] | None = None
    input: InputConfig = InputConfig()
    output: str | None = None
    output_layout: OutputLayout | None = None
    nms: NmsConfig = NmsConfig()
    alphabet: tuple[str, ...] | None = None


class TrackingConfig(_Settings):
    """How detections become tracks."""

    method: Literal["bytetrack"] = "bytetrack"
    max_lost_seconds: Positive = 2.0


class StabilityConfig(_Settings):
    """When a track becomes a visit, and when a new track is the old visit."""

    min_frames: Annotated[int, Field(ge=1, le=1000)] = 4
    min_seconds: Annotated[float, Field(ge=0, le=600)] = 0.5
    min_iou: Probability = 0.5
    reentry_seconds: Annotated[float, Field(ge=0, le=86_400)] = 10.0


class MotionConfig(_Settings):
    """Whether frames without motion are passed over."""

    enabled: bool = True
    recheck_seconds: Positive | None = None


class VotingConfig(_Settings):
    """How many pictures of a visit a branch reads, and how their results are joined."""

    frames: Annotated[int, Field(ge=1, le=16)] = 3
    method: Literal["confidence_weighted", "majority"] = "confidence_weighted"


class SessionTarget(_Settings):
    """Where patchSession writes."""

    table: str
    key_field: str


class Condition(_SnakeSettings):
    """A comparison of one field; an action is carried out only where it holds."""

    field: str
    equals: str | float | bool | None = None
    not_equals: str | float | bool | None = None
    at_least: float | None = None
    at_most: float | None = None


class _Action(_SnakeSettings):
    offers: ClassVar[tuple[str, ...]] = ()
    """What later templates may name of it, as ``<result_name>.<offer>``."""
    id: str | None = None
    when: Condition | None = None

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


class PostgresqlUpdate(_Action):
    """Complete the visit's row."""

    type: Literal["postgresql_update", "postgresql_update_combined"]
    table: str
    key_field: str
    key_value: str
    fields: dict[str, Any]
    wait_for_branches: Annotated[
        tuple[str, ...] | None, Field(validation_alias=AliasChoices("waitForBranches", "wait_for_branches"))
    ] = None


class RedisSaveImage(_Action):
    """Store one picture."""

    offers = ("key",)
    type: Literal["redis_save_image"]
    region: str = "frame"
    key: str
    expire_seconds: Annotated[int, Field(gt=0, le=_MAX_SECONDS)] = 3600
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
    message: dict[str, Any] | str
    max_age_seconds: Annotated[
        float, Field(gt=0, le=_MAX_SECONDS, validation_alias=AliasChoices("maxAgeSeconds", "max_age_seconds"))
    ] = 30.0


ActionConfig = Annotated[
    PostgresqlCreate | PostgresqlUpdate | RedisSaveImage | PublishMessageAction, Field(discriminator="type")
]


class BranchConfig(ModelSettings):
    """One classification of a stable visit."""

    result_field: str = ""
    crop: bool = False
    crop_class: ClassName | None = None
    crop_padding: Annotated[float, Field(ge=0, le=1)] = 0.0
    resize_target: tuple[Pixels, Pixels] | None = None
    trigger_classes: tuple[ClassName, ...] = ()
    parallel: bool = False
    timeout_seconds: Annotated[
        float, Field(gt=0, le=600, validation_alias=AliasChoices("timeout_seconds", "timeoutSeconds"))
    ] = 30.0
    required: bool = True
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

    trigger_classes: tuple[ClassName, ...] = ()
    expected_classes: tuple[ClassName, ...] = ()
    required_classes: tuple[ClassName, ...] = ()
    target_fps: Annotated[float, Field(gt=0, le=240)] | None = None
    tracking: TrackingConfig = TrackingConfig()
    stability: StabilityConfig = StabilityConfig()
    motion: MotionConfig = MotionConfig()
    actions: tuple[ActionConfig, ...] = ()
    branches: tuple[BranchConfig, ...] = ()
    parallel_actions: tuple[ActionConfig, ...] = ()
    tables: dict[str, dict[str, str]] = {}
    session: SessionTarget | None = None
    postgresql: dict[str, Any] | None = None
    redis: dict[str, Any] | None = None

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


class PipelineFile(_Settings):
    """The file as a whole."""

    schema_version: Literal[1] = 1
    pipeline: PipelineConfig
