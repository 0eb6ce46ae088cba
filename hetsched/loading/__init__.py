"""Loading a checkpoint so that its experts' weights lie in the host store from the first byte on, and only there."""
