"""Models at work: generating, classifying, embedding."""
