-- The hash identifies a token; the token itself is not kept. The tenant `*` stands for all.
CREATE TABLE tokens (
    tenant TEXT NOT NULL CHECK (tenant <> ''),
    id TEXT NOT NULL UNIQUE,
    hash BLOB NOT NULL UNIQUE CHECK (length(hash) = 32),
    name TEXT NOT NULL,
    rights TEXT NOT NULL,
    created INTEGER NOT NULL,
    expires INTEGER,
    last_use INTEGER,
    PRIMARY KEY (tenant, id)
) STRICT, WITHOUT ROWID;
