"""Fine-tuning: data, steps, the loop, and what is kept of it."""
