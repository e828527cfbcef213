CREATE TABLE nightporter_ledger.tenants (
    id int4 GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    name text NOT NULL UNIQUE
);

-- The id of a box has 103 characters: rows and indexes name it by its number.
CREATE TABLE nightporter_ledger.requests (
    writer int8 NOT NULL CHECK (writer > 0),
    seq int8 NOT NULL CHECK (seq > 0),
    tenant int4 NOT NULL REFERENCES nightporter_ledger.tenants,
    position int8 CHECK (position >= 0),
    kind text NOT NULL,
    at int8 NOT NULL,
    app text,
    host text,
    path text,
    rule text,
    client text,
    client_id text,
    client_name text,
    address text,
    client_id_digest bytea,
    client_name_digest bytea,
    address_digest bytea,
    verdict text,
    reason text,
    trace text,
    duration int8 NOT NULL,
    count int8 NOT NULL CHECK (count >= 0),
    salt bytea,
    leaf bytea NOT NULL,
    seal bytea NOT NULL,
    PRIMARY KEY (writer, seq)
);

CREATE INDEX requests_unplaced ON nightporter_ledger.requests (tenant, writer, seq)
    WHERE position IS NULL;

-- The others index what has a position, so that a new record is in two indexes only.
CREATE UNIQUE INDEX requests_by_position ON nightporter_ledger.requests (tenant, position)
    WHERE position IS NOT NULL;
CREATE INDEX requests_by_kind ON nightporter_ledger.requests (tenant, kind, at, position)
    WHERE position IS NOT NULL;
CREATE INDEX requests_by_app ON nightporter_ledger.requests (tenant, app, position)
    WHERE position IS NOT NULL;
CREATE INDEX requests_by_client ON nightporter_ledger.requests (tenant, client_id, position)
    WHERE position IS NOT NULL AND client_id IS NOT NULL;
CREATE INDEX requests_by_verdict ON nightporter_ledger.requests (tenant, verdict, position)
    WHERE position IS NOT NULL AND verdict IS NOT NULL;
CREATE INDEX requests_by_reason ON nightporter_ledger.requests (tenant, reason, position)
    WHERE position IS NOT NULL AND reason IS NOT NULL;

CREATE TABLE nightporter_ledger.steps (
    writer int8 NOT NULL,
    seq int8 NOT NULL,
    n int4 NOT NULL,
    name text NOT NULL,
    duration int8 NOT NULL,
    outcome text NOT NULL,
    PRIMARY KEY (writer, seq, n),
    FOREIGN KEY (writer, seq) REFERENCES nightporter_ledger.requests ON DELETE CASCADE
);

CREATE TABLE nightporter_ledger.notes (
    writer int8 NOT NULL,
    seq int8 NOT NULL,
    n int4 NOT NULL,
    topic text NOT NULL,
    text text NOT NULL,
    PRIMARY KEY (writer, seq, n),
    FOREIGN KEY (writer, seq) REFERENCES nightporter_ledger.requests ON DELETE CASCADE
);

CREATE TABLE nightporter_ledger.trees (
    tenant text PRIMARY KEY,
    size int8 NOT NULL
);

CREATE TABLE nightporter_ledger.tiles (
    tenant text NOT NULL,
    level int2 NOT NULL,
    number int8 NOT NULL,
    hashes bytea NOT NULL,
    PRIMARY KEY (tenant, level, number)
);

CREATE TABLE nightporter_ledger.checkpoints (
    tenant text NOT NULL,
    size int8 NOT NULL,
    at int8 NOT NULL,
    note text NOT NULL,
    PRIMARY KEY (tenant, size)
);

CREATE TABLE nightporter_ledger.jobs (
    tenant text NOT NULL,
    name text NOT NULL,
    due int8 NOT NULL,
    started int8,
    ended int8,
    outcome text,
    by int8,
    PRIMARY KEY (tenant, name)
);

CREATE TABLE nightporter_ledger.job_runs (
    tenant text NOT NULL,
    name text NOT NULL,
    n int8 GENERATED ALWAYS AS IDENTITY,
    due int8 NOT NULL,
    started int8,
    ended int8,
    outcome text,
    by int8,
    PRIMARY KEY (tenant, name, n)
);
