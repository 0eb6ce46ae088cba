"""What a machine is: profiles with provenance, datasheets, the gallery, and which machine a run is on."""
