"""Adapters in the layout of the `peft` library."""
