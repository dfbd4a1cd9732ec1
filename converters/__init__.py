"""External checkpoints and graph paths: where tables for published formats will live."""
