"""Ensembles: members, SAEP's rules and measures, combinations."""
