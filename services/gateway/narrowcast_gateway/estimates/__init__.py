"""Estimates of memory and time, before a training job is sent."""
