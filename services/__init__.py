"""The small programs that the platform runs: each stands alone, none knows the program that declares it."""
