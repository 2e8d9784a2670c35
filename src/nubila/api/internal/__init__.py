"""The plane of nodes: enrolment, sessions, wishes, reports, images. Identity is the certificate, never the body."""
