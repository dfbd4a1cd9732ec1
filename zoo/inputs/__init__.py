"""What becomes a model's inputs: images and texts."""
