"""Lower bounds: what no policy can beat, not even one that knows the future."""
