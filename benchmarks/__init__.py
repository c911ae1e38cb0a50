"""What is measured beside the package; see README.md."""
