"""Private servers, what may happen to them, a load that remembers, and the judgement afterwards."""
