"""Models to files, folders, programs and the Hub."""
