"""Several hosts: who they are, how agents get there, and what stages run on them."""
