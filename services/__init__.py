"""The small programs that the platform runs; each stands alone, and none knows the program that declares it."""
