"""From a name to answers: a model with what makes its inputs, and answers of its outputs."""
