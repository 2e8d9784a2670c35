"""Resources as bytes: JSON, ETags, pages, negotiation, the OpenAPI document. Pure: no I/O."""
