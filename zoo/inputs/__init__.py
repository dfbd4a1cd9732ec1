"""Images and texts, made into a model's inputs."""
