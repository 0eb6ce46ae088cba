"""Which experts tell two sets of prompts apart, and files that force some of them on or off: SteerMoE's two halves.

Nothing here knows a tensor; hetsched.integrations puts a steering on a model's routers.
"""
