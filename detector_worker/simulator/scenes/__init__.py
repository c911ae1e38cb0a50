"""Scenes with ground truth: a gate as a camera sees it, and what really happens there."""
