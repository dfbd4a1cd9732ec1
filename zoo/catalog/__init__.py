"""Names, and what is known of the model that each stands for."""
