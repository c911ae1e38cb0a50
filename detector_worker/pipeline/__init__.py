"""What happens once an object is stable: actions, branches side by side, voting, field mapping."""
