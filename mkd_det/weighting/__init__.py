"""How much each loss counts: schedules, sampling, gradient shares, teacher weights."""
