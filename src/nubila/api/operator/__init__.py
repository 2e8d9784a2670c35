"""The plane of operators: the machines, the accounts, and everything that anybody has."""
