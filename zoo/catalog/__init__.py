"""The names of models, and what is known of each."""
