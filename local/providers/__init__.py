"""Stand-ins for official provider plugins, used only where those cannot be installed."""
