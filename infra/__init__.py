"""The program that `pulumi up` runs."""
