-- Requests of the API by their idempotency keys, and how they were answered. The scope begins
-- with the tenant. Times are microseconds since 1970.
CREATE TABLE idempotency_keys (
    tenant TEXT NOT NULL,
    token TEXT NOT NULL,
    scope TEXT NOT NULL,
    key TEXT NOT NULL,
    payload BLOB NOT NULL,
    state TEXT NOT NULL CHECK (state IN ('running', 'done')),
    holder INTEGER NOT NULL,
    recorded INTEGER NOT NULL,
    lease_until INTEGER NOT NULL,
    status INTEGER,
    headers TEXT,
    body BLOB,
    expires_at INTEGER NOT NULL,
    PRIMARY KEY (scope, key)
) STRICT;

CREATE INDEX idempotency_keys_of_a_token ON idempotency_keys (tenant, token, expires_at);
