"""Who is asking, and what they may do: tokens, certificates, the policy table, and the boxes that keep secrets."""
