"""The ground that model files stand on: families, configs, features, resizing."""
