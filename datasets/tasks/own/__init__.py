"""Tasks on data of people's own: the shapes that records have, the files that they lie in, what is learnt of them."""
