"""Other people's codecs in the layers of this project, each in a module of its own, with the weights they publish."""
