"""Files of records: where they are, what is in them, and which columns are a record. No torch, no
ray."""
