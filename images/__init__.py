"""Builds the images that the platform runs: the tenants' machine disk and the services' containers.

Each is made of Debian's packages, of the wheels that `requirements.lock` pins, and of our own sources. What
is built lands in the cache, in a folder named by the hash of all that goes into it, complete or not at all.
"""

from images.build import build, built

__all__ = ["build", "built"]
