#!/usr/bin/python3 -ESs
"""What a machine's initial file system starts: our sources are in the folder beside this file."""

from services.agent_runtime.guest.__main__ import main

main()
