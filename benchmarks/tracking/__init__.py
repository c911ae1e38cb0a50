"""How well and how fast the tracker follows, next to the trackers of another project; see README.md."""
