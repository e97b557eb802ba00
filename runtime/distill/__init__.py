"""A student of few steps of a released checkpoint, from a folder of ordinary videos: cut, encoded, taught."""
