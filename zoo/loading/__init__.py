"""From a name, path or repository to a model and its Params."""
