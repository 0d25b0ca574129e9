"""Message passing: the update shared by the belief-propagation methods, and spanning trees."""
