"""One family of architectures a file, each with a FAMILY at its bottom."""
