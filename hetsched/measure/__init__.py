"""Micro-benchmarks that make a HardwareProfile. Import the modules one needs: most of them import torch."""
