"""What a reviewer sees on a pull request: what changes for whom, what it costs, who shares what, who approves."""
