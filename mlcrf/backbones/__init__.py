"""From pixels to features: networks, the engines that run them, and a cache of what they gave."""
