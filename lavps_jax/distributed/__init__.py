"""Several processes and chips: start, agreement, memory, preemption."""
