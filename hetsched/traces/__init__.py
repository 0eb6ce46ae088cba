"""What is done with routing-trace files: archives, checks, recording, import, synthesis, figures."""
