CREATE TABLE tenants (
    id INTEGER PRIMARY KEY,
    name TEXT NOT NULL UNIQUE
) STRICT;

-- The id of a box has 103 characters: a row and five indexes name it by its number.
CREATE TABLE requests (
    writer INTEGER NOT NULL CHECK (writer > 0),
    seq INTEGER NOT NULL CHECK (seq > 0),
    tenant INTEGER NOT NULL REFERENCES tenants (id),
    position INTEGER CHECK (position >= 0),
    kind TEXT NOT NULL,
    at INTEGER NOT NULL,
    app TEXT,
    host TEXT,
    path TEXT,
    rule TEXT,
    client TEXT,
    client_id TEXT,
    client_name TEXT,
    address TEXT,
    client_id_digest BLOB,
    client_name_digest BLOB,
    address_digest BLOB,
    verdict TEXT,
    reason TEXT,
    trace TEXT,
    duration INTEGER NOT NULL,
    count INTEGER NOT NULL CHECK (count >= 0),
    salt BLOB,
    leaf BLOB NOT NULL,
    seal BLOB NOT NULL,
    PRIMARY KEY (writer, seq)
) STRICT;
CREATE UNIQUE INDEX requests_by_position ON requests (tenant, position)
    WHERE position IS NOT NULL;

-- What has no position yet: few rows, oldest first and by id.
CREATE INDEX requests_unplaced_by_time ON requests (tenant, at, writer, seq)
    WHERE position IS NULL;
CREATE INDEX requests_unplaced ON requests (tenant, writer, seq) WHERE position IS NULL;

-- The filters. All but the last two are in the order of a page.
CREATE INDEX requests_by_app ON requests (tenant, app, position)
    WHERE position IS NOT NULL AND app IS NOT NULL;
CREATE INDEX requests_by_client ON requests (tenant, client_id, position)
    WHERE position IS NOT NULL AND client_id IS NOT NULL;
CREATE INDEX requests_by_reason ON requests (tenant, reason, position)
    WHERE position IS NOT NULL AND reason IS NOT NULL;
CREATE INDEX requests_by_verdict ON requests (tenant, verdict, position)
    WHERE position IS NOT NULL AND verdict IS NOT NULL;
CREATE INDEX requests_by_kind ON requests (tenant, kind, at, position)
    WHERE position IS NOT NULL;
CREATE INDEX requests_by_time ON requests (tenant, at, position) WHERE position IS NOT NULL;

CREATE TABLE steps (
    writer INTEGER NOT NULL,
    seq INTEGER NOT NULL,
    n INTEGER NOT NULL,
    name TEXT NOT NULL,
    duration INTEGER NOT NULL,
    outcome TEXT NOT NULL,
    PRIMARY KEY (writer, seq, n),
    FOREIGN KEY (writer, seq) REFERENCES requests (writer, seq) ON DELETE CASCADE
) STRICT, WITHOUT ROWID;

CREATE TABLE notes (
    writer INTEGER NOT NULL,
    seq INTEGER NOT NULL,
    n INTEGER NOT NULL,
    topic TEXT NOT NULL,
    text TEXT NOT NULL,
    PRIMARY KEY (writer, seq, n),
    FOREIGN KEY (writer, seq) REFERENCES requests (writer, seq) ON DELETE CASCADE
) STRICT, WITHOUT ROWID;

CREATE TABLE trees (
    tenant TEXT PRIMARY KEY NOT NULL,
    size INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

CREATE TABLE tiles (
    tenant TEXT NOT NULL,
    level INTEGER NOT NULL,
    number INTEGER NOT NULL,
    hashes BLOB NOT NULL,
    PRIMARY KEY (tenant, level, number)
) STRICT;

CREATE TABLE checkpoints (
    tenant TEXT NOT NULL,
    size INTEGER NOT NULL,
    at INTEGER NOT NULL,
    note TEXT NOT NULL,
    PRIMARY KEY (tenant, size)
) STRICT;

CREATE TABLE jobs (
    tenant TEXT NOT NULL,
    name TEXT NOT NULL,
    due INTEGER NOT NULL,
    started INTEGER,
    ended INTEGER,
    outcome TEXT,
    "by" INTEGER,
    PRIMARY KEY (tenant, name)
) STRICT, WITHOUT ROWID;

CREATE TABLE job_runs (
    id INTEGER PRIMARY KEY,
    tenant TEXT NOT NULL,
    name TEXT NOT NULL,
    due INTEGER NOT NULL,
    started INTEGER,
    ended INTEGER,
    outcome TEXT,
    "by" INTEGER
) STRICT;
CREATE INDEX job_runs_of_a_job ON job_runs (tenant, name, id);
