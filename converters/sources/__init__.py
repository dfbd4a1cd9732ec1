"""External checkpoints, whatever the container: names, shapes, dtypes, lazy views."""
