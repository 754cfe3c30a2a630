"""What `stageline doctor` finds besides the hosts' own checkups: on the coordinator's machine and between hosts. Pure,
but for the readers."""
