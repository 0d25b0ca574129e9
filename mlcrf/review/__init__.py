"""A person in the loop: photos on a page, answers in a database, what to ask next."""
