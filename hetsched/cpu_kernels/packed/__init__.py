"""Products with weights as checkpoints pack them: unpacked in registers, summed in fp32, one pass over memory."""
