"""Cameras that do not exist: films played over RTSP, with faults on demand."""
