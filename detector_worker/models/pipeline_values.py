"""What the settings of a ``pipeline.json`` are made of: words, numbers, names, two ways to write keys, and pixels."""

import unicodedata
from typing import Annotated, Final, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field
from pydantic.alias_generators import to_camel
from pydantic_core import PydanticCustomError

__all__ = [
    "InputConfig",
    "Name",
    "NmsConfig",
    "OutputLayout",
    "Pixels",
    "Positive",
    "Probability",
    "Settings",
    "SnakeSettings",
    "Visible",
]

OutputLayout = Literal[
    "yolov5",
    "yolov8",
    "end2end",
    "yolox",
    "ssd",
    "detr",
    "fastestdet",
    "classification",
    "textIndex",
    "textSlots",
    "textCtc",
]
_INVISIBLE: Final = frozenset({"Cc", "Cf", "Cs", "Zl", "Zp"})


def _visible(name: str) -> str:
    """Refuse what would steer a terminal, or make two names look alike."""
    if any(unicodedata.category(char) in _INVISIBLE for char in name):
        raise PydanticCustomError("invisible", "a name without control characters")
    return name


Visible = Annotated[str, AfterValidator(_visible)]
Name = Annotated[Visible, Field(min_length=1, max_length=200)]
Probability = Annotated[float, Field(ge=0, le=1)]
Finite = Annotated[float, Field(allow_inf_nan=False)]
Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
Pixels = Annotated[int, Field(ge=8, le=4096)]


class Settings(BaseModel):
    """Read-only; unknown keys are errors. camelCase in the file. What stands below a field, editors show."""

    model_config = ConfigDict(
        extra="forbid", frozen=True, populate_by_name=True, alias_generator=to_camel, use_attribute_docstrings=True
    )


class SnakeSettings(Settings):
    """As `Settings`, with snake_case in the file."""

    model_config = ConfigDict(alias_generator=None)


class InputConfig(Settings):
    """How a picture becomes a model's input; None: the default of the output layout."""

    color: Literal["rgb", "bgr"] | None = None
    """Order of the channels that the model was trained with."""
    scale: Positive | None = None
    """Factor of each pixel value 0..255, such as 0.00392157; then mean is subtracted and divided by std."""
    mean: tuple[Finite, Finite, Finite] | None = None
    """One number per channel, in the order of color, after scale."""
    std: tuple[Positive, Positive, Positive] | None = None
    """One number per channel, in the order of color, after scale."""
    letterbox: Literal["center", "topLeft", "none"] | None = None
    """Where the picture lies in the padded input; none: it is stretched."""
    pad_value: Annotated[int, Field(ge=0, le=255)] | None = None
    """Grey of the padding."""


class NmsConfig(Settings):
    """Non-maximum suppression."""

    iou: Probability = 0.5
    """Of two boxes that overlap more than this, the less confident one goes."""
    across_classes: bool = False
    """Whether boxes of different classes suppress each other."""
