"""Cuts a model into stages, supervises their workers, schedules requests over them and speaks HTTP. Needs no GPU."""
