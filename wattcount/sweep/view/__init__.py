"""What a person sees of a sweep before, while and after it is measured."""
