"""From goals that have to be measured to the network that meets them, and the curves between."""
