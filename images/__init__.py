"""Builds the images that the platform runs: the tenants' machine disk and the services' containers."""
