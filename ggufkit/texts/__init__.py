"""Texts to evaluate and to calibrate on."""
