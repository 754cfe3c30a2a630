"""The subcommands of `stageline`, one per file."""
