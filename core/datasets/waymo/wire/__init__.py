"""Protocol buffers as Waymo writes them: messages, matrices, and the numbers of their fields."""
