"""Stand-in for the official exoscale plugin (0.66): the types that the program declares, through the SDK.

What is required, defaulted, validated, replaced and read back follows the official schema and source.
"""
