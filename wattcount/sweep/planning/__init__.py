"""What a study declares, what there is of it already, and what is to be done."""
