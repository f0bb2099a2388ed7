"""A broker's tokens on the requests of other libraries, one module per library."""
