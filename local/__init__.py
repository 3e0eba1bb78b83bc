"""The embedded platform: the same program on one machine, against real servers."""
