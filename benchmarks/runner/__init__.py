"""`entprog bench SUITE`: arms against each other under one protocol, a record a run, tables from the records."""
