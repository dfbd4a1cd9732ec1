"""Files that hold examples: folders of images, tables, texts."""
