"""Tables, figures, the ledger and the page: everything that is read off the runs."""
