"""What a reviewer sees on a pull request: what changes for whom, its cost, who shares what, who approves."""
