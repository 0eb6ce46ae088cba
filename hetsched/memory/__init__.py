"""What a model takes of a machine's memory, line by line: arithmetic from shapes and numbers, nothing is loaded."""
