"""Reports: what a posterior's diagnostics say, as one page to hand to a colleague."""
