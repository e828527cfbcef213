-- Requests of the API by their idempotency keys, and how they were answered. The scope begins
-- with the tenant. What identifies a request is compared byte by byte, whatever the database's
-- collation. Times are microseconds since 1970.
CREATE TABLE nightporter_ledger.idempotency_keys (
    tenant text COLLATE "C" NOT NULL,
    token text COLLATE "C" NOT NULL,
    scope text COLLATE "C" NOT NULL,
    key text COLLATE "C" NOT NULL,
    payload bytea NOT NULL,
    state text COLLATE "C" NOT NULL CHECK (state IN ('running', 'done')),
    holder int8 NOT NULL,
    recorded int8 NOT NULL,
    lease_until int8 NOT NULL,
    status int8,
    headers text,
    body bytea,
    expires_at int8 NOT NULL,
    PRIMARY KEY (scope, key)
);

CREATE INDEX idempotency_keys_of_a_token
    ON nightporter_ledger.idempotency_keys (tenant, token, expires_at);
