"""Whatever a model claims of itself: it is refused when it is loaded, or all that it can answer can be decoded."""

from typing import Final, get_args

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from detector_worker.core.exceptions import ModelLoadError
from detector_worker.detection.layouts import decode_boxes, decode_label
from detector_worker.models.model_reading import read_model
from detector_worker.models.pipeline_config import ModelSettings
from detector_worker.models.pipeline_values import OutputLayout
from detector_worker.models.runtimes.runtime import ModelSpec

HW: Final = (64, 96)
SIZES: Final = st.sampled_from([-1, 0, 1, 2, 4, 5, 6, 7, 8, 9, 12, 85, 126, 300, 378])
NOTES: Final = st.fixed_dictionaries(
    {},
    optional={
        "names": st.sampled_from(
            ["{0: 'a', 1: 'b'}", "['a']", "{0: 'a', 80: 'b'}", "{-1: 'a'}", "x", "{}", "{'9': 'a'}"]
        ),
        "task": st.sampled_from(["detect", "segment", "pose", "obb", "classify"]),
        "end2end": st.sampled_from(["True", "False"]),
        "description": st.just("Ultralytics RT-DETR-l model"),
        "imgsz": st.sampled_from(["[640, 640]", "0"]),
    },
)
SHAPES: Final = st.lists(SIZES, max_size=5).map(tuple) | st.builds(
    lambda batch, *rest: (batch, *rest), st.sampled_from([1, -1]), SIZES, SIZES
)
NAMES: Final = st.sampled_from(["out", "boxes", "scores", "logits", "dets", "labels", "Pred_Boxes"])


@given(
    outputs=st.dictionaries(NAMES, SHAPES, min_size=1, max_size=3),
    notes=NOTES,
    model_type=st.sampled_from(["detection", "classification", "ocr"]),
    layout=st.none() | st.sampled_from(get_args(OutputLayout)),
    alphabet=st.sampled_from([None, [*"abcd", ""], [*"abcde", "_"], [*"abcdefg"]]),
)
def test_a_model_is_refused_or_can_be_decoded(
    outputs: dict[str, tuple[int, ...]],
    notes: dict[str, str],
    model_type: str,
    layout: OutputLayout | None,
    alphabet: list[str] | None,
) -> None:
    settings = ModelSettings.model_validate(
        {"modelId": "m", "modelFile": "m.onnx", "modelType": model_type, "outputLayout": layout, "alphabet": alphabet}
    )
    try:
        reading = read_model(settings, ModelSpec(HW, False, False, outputs, notes))
    except ModelLoadError:
        return
    rng = np.random.default_rng(1)
    first_open = outputs[reading.outputs[0]][:1] == (-1,) and reading.layout != "textCtc"
    answers = []
    for name in reading.outputs:
        shape = [3 if size == -1 else size for size in outputs[name]]
        shape[0] = 1 if first_open else shape[0]
        if reading.layout == "textCtc" and 1 not in shape[:2]:
            shape[0] = 1
        answers.append(rng.normal(0, 1, shape).astype(np.float32))
    class_names = tuple(name or "" for name in reading.class_names)

    if model_type == "detection":
        found = decode_boxes(reading.layout, tuple(answers), class_names, 0.1, input_hw=HW)
        assert all(0 <= class_id < len(class_names) for class_id in found.class_id)
    else:
        label, confidence = decode_label(reading.layout, answers[0], class_names)
        assert label is None or label
        assert 0 <= confidence <= 1
