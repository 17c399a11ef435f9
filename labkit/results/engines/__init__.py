"""What labkit-engine (labkit/guest/engines) prints, read and judged. Pure."""
