"""How a client proves who it is: one small class per method."""
