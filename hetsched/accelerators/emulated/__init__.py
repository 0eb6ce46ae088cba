"""A machine that is not here: results really computed, times the profile's."""
