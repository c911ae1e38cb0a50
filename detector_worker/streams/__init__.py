"""Cameras and films: connections, frames as they are decoded, and the states of both."""
