"""What to expect of a model on a machine before anything is downloaded: memory, strategy, speeds as ranges, and why."""
