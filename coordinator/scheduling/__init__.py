"""What runs next: pure rules over requests, memory and times. No sockets, no clocks."""
