"""`grkd watch`: the report page of a run that is going on, from a server on this machine."""
