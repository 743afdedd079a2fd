"""The pages: a folder of static files made from results, which opens from disk and can be put on any web host as it is."""
