"""What model files stand on: families, configs, features, resizing."""
