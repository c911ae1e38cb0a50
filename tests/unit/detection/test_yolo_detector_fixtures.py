from pathlib import Path

from support.loading import new_loader

from detector_worker.core.frame import Frame
from detector_worker.detection.yolo_detector import YOLODetector


async def test_the_sample_archive_finds_the_squares_of_the_sample_frame_and_nothing_in_noise(
    sample_mpta_file: Path, sample_frame: Frame, mock_frame: Frame, tmp_path: Path
) -> None:
    pipeline = await new_loader(tmp_path / "cache").load_from_url(str(sample_mpta_file))
    detector = YOLODetector(pipeline.models["tiny_squares_v1"], wanted_classes=pipeline.config.wanted_classes())

    found = {result.class_name for result in detector.detect(sample_frame).results(0.0)}

    assert found == {"red", "blue"}
    assert len(detector.detect(mock_frame)) == 0
